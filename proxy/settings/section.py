"""Section: the base of all settings, and the ways in which single values are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from proxy import notation

DAY_S = 86400.0
Network = notation.Network
Rate = notation.Rate
UnixPath = notation.UnixPath
Name = Annotated[str, notation.NAME]
Text = Annotated[str, notation.TEXT]
Flag = Annotated[bool, notation.FLAG]
Networks = tuple[Annotated[Network, notation.NETWORK], ...]


class Section(BaseModel):
    """Base of all settings. A key without a value stands for a default that is itself empty."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda name: name.removesuffix("_s"),
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: object) -> object:
        if not isinstance(data, dict):
            return {} if data == "" else data
        empty = {
            field.alias
            for field in cls.model_fields.values()
            if not field.is_required()
            and isinstance(
                default := field.get_default(call_default_factory=True, validated_data={}),
                Section | tuple | Mapping | None,
            )
            and (isinstance(default, Section) or not default)
        }
        return {key: value for key, value in data.items() if value != "" or key not in empty}


def fault(key: str, message: str) -> PydanticCustomError:
    """A fault of one key that shows only beside the others; `key` is as in the file."""
    return PydanticCustomError("fault", "{message}", {"key": key, "message": message})
