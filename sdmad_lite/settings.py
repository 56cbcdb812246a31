"""Settings say their types and ranges themselves, and refuse what does not fit by name.

@dataclass(frozen=True)
class AdapterConfig(Settings):
    lam: Share = 0.7
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from .errors import SDMADError

Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]

STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
"""No text, bool or fraction stands for a whole number, and no number is NaN."""


def checked(name: str, value: Any, kind: Any) -> Any:
    """A setting of the kind that its annotation asks for; numpy's numbers become Python's.

    Raises:
        SDMADError: it is of another type, or out of its range.
    """
    value = value.item() if isinstance(value, np.generic) else value
    try:
        return TypeAdapter(kind, config=STRICT).validate_python(value)
    except ValidationError as error:
        wrong = " or ".join(dict.fromkeys(e["msg"].removeprefix("Input should ") for e in error.errors()))
        raise SDMADError(f"{name} is {value!r}: it must {wrong}") from None


class Settings:
    """Base of the frozen dataclasses of settings: each field is checked when one is made."""

    def __post_init__(self):
        kinds = get_type_hints(type(self), include_extras=True)
        for field in fields(self):  # type: ignore[arg-type]  # a dataclass, as all that follow it
            object.__setattr__(self, field.name, checked(field.name, getattr(self, field.name), kinds[field.name]))
