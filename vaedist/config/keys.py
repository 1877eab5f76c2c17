"""Dotted keys of the sections of an experiment, with the options of one model."""

from collections.abc import Iterator
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from vaedist.config.model_options import ModelOptions
from vaedist.config.model_types import DEFAULT, options_class
from vaedist.config.sections import Section

S = TypeVar("S", bound=Section)


def with_options(section: type[S], kind: str) -> type[S]:
    """Returns the class of an experiment or a sweep whose [model] part has the options of one model.

    It describes keys and is never instantiated: every experiment is an instance of the class that is passed in.

    Args:
        section: the class.
        kind: a value of `model.type`.

    Raises:
        ModelTypeError, UserCodeError: as `options_class` raises them.
    """
    return _with_options(section, kind, options_class(kind))


@cache
def _with_options(section: type[S], kind: str, options: type[ModelOptions]) -> type[S]:
    field = options.model_fields["type"]
    if field.default != kind:
        named = (str, Field(default=kind, description=field.description))
        options = create_model(options.__name__, __base__=options, __doc__=options.__doc__, type=named)
    model = (options, Field(default_factory=options))
    return create_model(section.__name__, __base__=section, __doc__=section.__doc__, model=model)


def model_type_of(section: type[Section]) -> str:
    """Returns the `model.type` that a class of `with_options` is of; of any other class, the default."""
    field = section.model_fields.get("model")
    options = field and _section_of(field)
    return options.model_fields["type"].default if options else DEFAULT


def keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Returns every dotted key of a section and of the sections in it; those of [model] are the default model's."""
    for name, field in section.model_fields.items():
        if inner := _section_of(field):
            yield from keys(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def text_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Returns every dotted key whose value is text, also where only some words are allowed."""
    for name, field in section.model_fields.items():
        if inner := _section_of(field):
            yield from text_keys(inner, f"{prefix}{name}.")
        elif _is_text(field.annotation):
            yield prefix + name


def tables(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Returns every dotted name of a table that an experiment may have."""
    for name, field in section.model_fields.items():
        if inner := _section_of(field):
            yield prefix + name
            yield from tables(inner, f"{prefix}{name}.")


def _is_text(kind: Any) -> bool:
    """Returns True for the type of text, of one of a few words, and of either or None."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return all(isinstance(word, str) for word in parts)
    if get_origin(kind) in (Union, UnionType):
        return all(part is NoneType or _is_text(part) for part in parts)
    return kind is str


def _section_of(field: FieldInfo) -> type[Section] | None:
    """Returns the section that is the type of a field, if it is one."""
    kind = field.annotation
    if kind is ModelOptions:
        return options_class(DEFAULT)
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None
