"""Base class of the sections of an experiment, and types that several of them use."""

from typing import Annotated, Any, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator

from vaedist.storage.uri import fault_of


def _valid_location(location: str) -> str:
    if fault := fault_of(location):
        raise ValueError(fault)
    return location


Location = Annotated[str, AfterValidator(_valid_location)]  # a local path, or a pyarrow filesystem URI


class Section(BaseModel):
    """A frozen table of an experiment; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _arrays_of_toml(cls, value: Any, info: ValidationInfo) -> Any:
        """Converts TOML arrays, which are lists, for fields of tuples, unless the field has its own validator."""
        field = cls.model_fields[str(info.field_name)]
        if not isinstance(value, list) or get_origin(field.annotation) is not tuple:
            return value
        return value if any(isinstance(each, BeforeValidator) for each in field.metadata) else tuple(value)
