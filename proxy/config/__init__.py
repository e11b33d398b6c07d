"""Configuration: from the operator's YAML file to settings, with all of its problems at once.

    load(path)            the settings, or ConfigError with every problem as file:line:column
    loads(text, name)     the same from a text that is at hand
    warnings(settings)    what is legal but hardly meant
    schema()              JSON Schema of the file, for editors

Stages: bytes -> nodes with places (`document`) -> settings (pydantic) and the rules across
sections (`checks`), both of which blame a place -> problems in plain words (`messages`).
`proxy.config.reference` writes docs/reference/configuration.md.
"""

from proxy.config.loading import load, loads, warnings
from proxy.config.shape import schema

__all__ = ["load", "loads", "schema", "warnings"]
