"""Base of the options of models, the [model] part of an experiment."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from pydantic import Field
from pydantic_core import PydanticUndefined

from vaedist.config.sections import Section


class ModelOptions(Section):
    """Options of a model: a subclass adds its keys, each with a type, a default, a range and a description."""

    type: str = Field(
        default="", description="A built-in model, or a class of one's own, written 'package.module:Class'."
    )

    def preprocessing(self, binarize: str) -> Any:
        """Returns how pixels become the x that the model scores, a `vaedist.models.preprocessing.Preprocessing`.

        Unless a subclass says otherwise: the 256 levels of a pixel, or binary pixels.

        Args:
            binarize: the experiment's `data.binarize`.

        Raises:
            ValueError: the model cannot score pixels that are binarised in this way; one line says why.
        """
        preprocessing = import_module("vaedist.models.preprocessing")  # which stands above config/
        return preprocessing.BINARIZE[binarize] or preprocessing.Binned()

    def values(self) -> dict[str, Any]:
        """Returns all options but the type, by dotted key."""
        return {key: value for key, value, _ in _leaves(self, None)}

    def changed(self) -> dict[str, Any]:
        """Returns the options that differ from their defaults, by dotted key."""
        return {key: value for key, value, default in _leaves(self, None) if value != default}


def _leaves(section: Section, default: Section | None, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dotted keys of a section with their values and their defaults, without the model's type.

    Args:
        section: the section.
        default: one of the same class, whose values are the defaults; None takes those of the class.
        prefix: of the keys.
    """
    for name, field in type(section).model_fields.items():
        if name == "type" and isinstance(section, ModelOptions):
            continue
        value = getattr(section, name)
        usual = field.get_default(call_default_factory=True) if default is None else getattr(default, name)
        if isinstance(value, Section):
            yield from _leaves(value, None if usual is PydanticUndefined else usual, f"{prefix}{name}.")
        else:
            yield prefix + name, value, usual
