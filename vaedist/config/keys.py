"""Dotted keys of the sections of an experiment, including the options of the classes that it names."""

from collections.abc import Iterator, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from vaedist.config.class_choice import ClassChoice, ClassNameError
from vaedist.config.class_options import ClassOptions
from vaedist.config.sections import Section

S = TypeVar("S", bound=Section)


class ClassKey(NamedTuple):
    """A key that names a class.

    Attributes:
        key: the dotted key, such as "model.type".
        name: its value.
        choice: the allowed values.
    """

    key: str
    name: str
    choice: ClassChoice

    def owns(self, key: str) -> bool:
        """Returns True if a key is one of the options of this class."""
        return key.startswith(self.key.removesuffix("type"))


def with_options(section: type[S], tables: Mapping[str, Any] | None = None, *, or_default: bool = False) -> type[S]:
    """Returns a subclass of a section, such as an experiment, with the options of the classes that tables name.

    The subclass describes keys and is never instantiated: every experiment is an instance of the class passed in.

    Args:
        section: the class.
        tables: nested tables; a class that they do not name is the default.
        or_default: use the default class if the named one does not exist, instead of raising an error.

    Raises:
        ClassNameError, UserCodeError: as `ClassChoice.options_class` raises them.
    """
    changed: list[tuple[str, type[Section], str]] = []
    for name, field in section.model_fields.items():
        kind, inner = field.annotation, (tables or {}).get(name)
        if not isinstance(kind, type) or not issubclass(kind, Section):
            continue
        inner = inner if isinstance(inner, Mapping) else {}
        of, named = kind, ""
        if issubclass(kind, ClassOptions) and "choice" in vars(kind):
            of, named = _options_of(kind.choice, inner.get("type", kind.choice.default), or_default=or_default)
        described = with_options(of, inner, or_default=or_default)
        if named or described is not kind:
            changed.append((name, described, named))
    return _with_sections(section, tuple(changed)) if changed else section


def _options_of(choice: ClassChoice, name: Any, *, or_default: bool) -> tuple[type[Section], str]:
    try:
        return choice.options_class(str(name)), str(name)
    except ClassNameError:
        if not or_default:
            raise
        return choice.options_class(choice.default), choice.default


@cache
def _with_sections(section: type[S], changed: tuple[tuple[str, type[Section], str], ...]) -> type[S]:
    """Returns a subclass of a section with some fields replaced.

    Args:
        section: the class.
        changed: for each field: its name, its new section, and the default of the section's key `type`, or "".
    """
    fields: dict[str, Any] = {}
    for name, options, type_name in changed:
        if type_name and options.model_fields["type"].default != type_name:
            named = (str, Field(default=type_name, description=options.model_fields["type"].description))
            options = create_model(options.__name__, __base__=options, __doc__=options.__doc__, type=named)
        fields[name] = (options, Field(default_factory=options))
    return create_model(section.__name__, __base__=section, __doc__=section.__doc__, **fields)


def class_keys(section: type[Section], prefix: str = "") -> Iterator[ClassKey]:
    """Yields each key of a section that names a class, outer sections first."""
    for name, field in section.model_fields.items():
        if inner := _section_of(field):
            if issubclass(inner, ClassOptions):
                yield ClassKey(f"{prefix}{name}.type", inner.model_fields["type"].default, inner.choice)
            yield from class_keys(inner, f"{prefix}{name}.")


def keys(section: type[Section]) -> Iterator[str]:
    """Yields every dotted key of a section and its subsections, with the options of the default classes."""
    return (key for key, _ in described_keys(section))


def described_keys(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yields every dotted key, as `keys` does, with its type, default and description."""
    for name, field in section.model_fields.items():
        if inner := _section_of(field):
            yield from described_keys(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def text_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Yields every dotted key whose value is text, including those with a list of allowed words."""
    for name, field in section.model_fields.items():
        if inner := _section_of(field):
            yield from text_keys(inner, f"{prefix}{name}.")
        elif _is_text(field.annotation):
            yield prefix + name


def tables(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Yields the dotted name of every table of a section."""
    for name, field in section.model_fields.items():
        if inner := _section_of(field):
            yield prefix + name
            yield from tables(inner, f"{prefix}{name}.")


def _is_text(kind: Any) -> bool:
    """Returns True for the type `str`, for a `Literal` of strings, and for a union of these and None."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return all(isinstance(word, str) for word in parts)
    if get_origin(kind) in (Union, UnionType):
        return all(part is NoneType or _is_text(part) for part in parts)
    return kind is str


def _section_of(field: FieldInfo) -> type[Section] | None:
    """Returns the type of a field if it is a section, else None."""
    kind = field.annotation
    if not isinstance(kind, type) or not issubclass(kind, Section):
        return None
    if issubclass(kind, ClassOptions) and "choice" in vars(kind):
        options: type[Section] = kind.choice.options_class(kind.choice.default)
        return options
    return kind
