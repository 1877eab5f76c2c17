"""Dotted keys of the sections of an experiment."""

from collections.abc import Iterator
from typing import get_args

from vaedist.config.sections import Section


def keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a section and of the sections in it."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def text_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Every dotted key whose value is text, be it one of a few words."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from text_keys(field.annotation, f"{prefix}{name}.")
        elif field.annotation is str or all(isinstance(word, str) for word in get_args(field.annotation) or (None,)):
            yield prefix + name


def tables(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Every dotted name of a table that an experiment may have."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield prefix + name
            yield from tables(field.annotation, f"{prefix}{name}.")
