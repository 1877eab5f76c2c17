"""Options of the classes that an experiment names; each class defines its own section."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field, ValidationError, ValidationInfo, create_model
from pydantic_core import PydanticCustomError

from vaedist.config.class_choice import ClassChoice, ClassNameError
from vaedist.config.sections import Section
from vaedist.errors import UserCodeError
from vaedist.packages import REFERENCE
from vaedist.user_code import user_code

NEED_CLASSES = "need_classes"  # key of pydantic's validation context, see `classes_needed`


class ClassOptions(Section):
    """Base class for the options of a class, whose name is the key `type`.

    Each kind of class, such as models, has its own subclass, which sets `choice`.
    """

    choice: ClassVar[ClassChoice]

    type: str = Field(default="", description="A built-in class, or your own, written 'package.module:Class'.")

    def values(self) -> dict[str, Any]:
        """Returns all options but the type, by dotted key."""
        return {key: value for key, value, _ in _leaves(self, None)}

    def changed(self) -> dict[str, Any]:
        """Returns the options that differ from their defaults, by dotted key."""
        return {key: value for key, value, default in _leaves(self, None) if value != default}


def classes_needed(info: ValidationInfo) -> bool:
    """Returns False if a user's class that cannot be imported is no fault, as the experiment is only to be shown."""
    return bool((info.context or {}).get(NEED_CLASSES, True))


def of_its_type(base: type[ClassOptions]) -> Callable[[Any, ValidationInfo], Any]:
    """Returns a validator that converts a table to the options of the class that its key `type` names.

    If a user's class cannot be imported and is not needed, see `classes_needed`, the table is not validated.

    Args:
        base: base class of the options, whose `choice` holds the allowed names.
    """
    choice = base.choice

    def read(given: Any, info: ValidationInfo) -> Any:
        if not isinstance(given, Mapping | base):
            return given
        kind = given.type if isinstance(given, ClassOptions) else given.get("type", choice.default)
        try:
            options = choice.options_class(kind if isinstance(kind, str) else repr(kind))
        except (ClassNameError, UserCodeError) as error:
            if isinstance(given, Mapping) and REFERENCE.fullmatch(str(kind)) and not classes_needed(info):
                return _as_given(base, given)
            if isinstance(error, UserCodeError):
                raise
            raise _wrong_type(kind, error.reason) from None
        if isinstance(given, Mapping):
            with user_code(f"{choice.key} = {kind!r}: its options raise an exception", ValueError):
                return options.model_validate({**given, "type": kind}, context=info.context)
        if type(given) is not options:
            raise _wrong_type(kind, f"must be the {choice.noun} to which {type(given).__qualname__} belongs")
        return given

    return read


def _as_given(base: type[ClassOptions], table: Mapping[str, Any]) -> ClassOptions:
    """Returns options of an unknown class, of which nothing is validated."""
    made: type[ClassOptions] = create_model(base.__name__, __base__=base, __cls_kwargs__={"extra": "allow"})
    return made.model_construct(**table)


def class_sections(section: Section, prefix: str = "") -> Iterator[tuple[str, ClassOptions]]:
    """Yields the options of each class that a section names, with their dotted name, outer sections first."""
    for name in type(section).model_fields:
        inner = getattr(section, name)
        if isinstance(inner, ClassOptions):
            yield prefix + name, inner
        if isinstance(inner, Section):
            yield from class_sections(inner, f"{prefix}{name}.")


def _wrong_type(kind: Any, reason: str) -> ValidationError:
    """Returns a validation error of the key `type`."""
    fault = PydanticCustomError("class_unknown", "{reason}", {"reason": reason})
    return ValidationError.from_exception_data("type", [{"type": fault, "loc": ("type",), "input": kind}])


def _leaves(section: Section, default: Section | None, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields the dotted keys of a section with their values and defaults, without the section's own type.

    Args:
        section: the section.
        default: an instance of the same class that holds the defaults; None means those of the class.
        prefix: prefix of the keys.
    """
    for name, field in type(section).model_fields.items():
        if name == "type" and isinstance(section, ClassOptions):
            continue
        value = getattr(section, name)
        usual = field.get_default(call_default_factory=True) if default is None else getattr(default, name)
        if isinstance(value, ClassOptions):
            yield f"{prefix}{name}.type", value.type, getattr(usual, "type", value.choice.default)
        if isinstance(value, Section):
            yield from _leaves(value, usual if type(usual) is type(value) else None, f"{prefix}{name}.")
        else:
            yield prefix + name, value, usual
    for key, value in _flat(section.model_extra or {}, prefix):  # of an unknown class, whose defaults are unknown
        yield key, value, None


def _flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
