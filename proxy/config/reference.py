"""Reference: what the file may say, as a Markdown page for readers.

It is made of the settings themselves, so it cannot tell another story. After a change of them:

    python -m proxy.config.reference > docs/reference/configuration.md
"""

from __future__ import annotations

import sys

from proxy.config.shape import defaults, sections_of, walk
from proxy.settings import Section

_INTRODUCTION = """\
# Configuration reference

<!-- Made by `python -m proxy.config.reference`; a test holds it in step. Do not edit. -->

One YAML file in UTF-8. `rdp-proxy check FILE` names every problem with its line and column;
`rdp-proxy schema` prints the JSON Schema for editors. A whole file to start from is
[config.example.yaml](../../config.example.yaml).

- A key that is left out has its default. Unknown keys and duplicate keys are refused.
- Times carry a unit: `250ms`, `3s`, `5m`, `72h`, `7d`; `0` needs none where zero is allowed.
- An IPv6 address with a port stands in brackets and quotes: `"[::]:3389"`.
- Values mean what they look like: `no` and `22:22` are texts, only `true` and `false` are flags.
"""


def markdown() -> str:
    """The reference for readers: one table for each section."""
    return "\n".join([_INTRODUCTION, *(_table(path, section) for path, section in walk() if path)])


def _table(path: str, section: type[Section]) -> str:
    inner = sections_of(section)
    known = defaults(section)
    lines = [
        f"## `{path}`\n",
        f"{_one_line(section.__doc__)}\n",
        "| key | default | meaning |",
        "| --- | --- | --- |",
    ]
    for field in section.model_fields.values():
        key = str(field.alias)
        meaning = _one_line(field.description or inner[key].__doc__)
        if key in inner:
            meaning = f"{meaning} See `{path}.{key}`."
        default = "required"
        if key in known:
            default = "see there" if known[key] and key in inner else _shown(known[key])
        lines.append(f"| `{key}` | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(markdown())
