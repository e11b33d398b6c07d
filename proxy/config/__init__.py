"""Configuration: from the operator's YAML file to settings, with all of its problems at once.

    load(path)            the settings, or ConfigError with every problem as file:line:column
    read(path)            its text alone
    loads(text, name)     the settings, from a text that is at hand
    changes(old, new)     what differs, and what of it has to wait for a start or upgrade
    warnings(settings)    what is legal but hardly meant
    schema()              JSON Schema of the file, for editors

Stages: bytes -> nodes with places (`document`) -> settings (pydantic) and the rules across
sections (`checks`), both of which blame a place -> problems in plain words (`messages`).
`proxy.config.reference` writes docs/reference/configuration.md.
"""

from proxy.config.changes import changes, clashes
from proxy.config.loading import load, loads, read, warnings
from proxy.config.shape import schema

__all__ = ["changes", "clashes", "load", "loads", "read", "schema", "warnings"]
