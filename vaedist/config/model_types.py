"""The values of `model.type`: built-in models by name, and users' models as "package.module:Class".

Classes are named by import strings and imported when they are asked for, so that reading an experiment loads no
Keras. A user's class is imported from `sys.path` as the user set it, and from nowhere else.
"""

import difflib
import os
from importlib import import_module
from typing import Any

from vaedist.config.model_options import ModelOptions
from vaedist.errors import ConfigError
from vaedist.user_code import quiet_tensorflow, user_code

DEFAULT = "mlp"
# Name: import strings of the class of its options, and of the model's class.
BUILT_IN = {
    "mlp": ("vaedist.models.mlp.options:MLPOptions", "vaedist.models.mlp.model:VAE"),
}
BASE = "vaedist.models.model:Model"  # of users' models


class ModelTypeError(ConfigError):
    """A value of `model.type` names no model that can be trained.

    Attributes:
        reason: what is wrong, without the key and its value.
    """

    reason = ""


def options_class(kind: str) -> type[ModelOptions]:
    """Returns the class of a model's options.

    Of a user's model, its module is imported, and nothing else.

    Args:
        kind: a value of `model.type`.

    Raises:
        ModelTypeError: there is no such model, or its `Options` are not a subclass of `ModelOptions`.
        UserCodeError: its module raises an exception when it is imported.
    """
    if kind in BUILT_IN:
        return _imported(BUILT_IN[kind][0])
    model = _users_class(kind)
    options = getattr(model, "Options", None)
    if options is None:
        raise _refusal(kind, f"class {model.__qualname__} has no Options, a subclass of vaedist.ModelOptions")
    if not isinstance(options, type) or not issubclass(options, ModelOptions):
        raise _refusal(kind, f"{model.__qualname__}.Options must be a subclass of vaedist.ModelOptions")
    return options


def model_class(kind: str) -> type:
    """Returns the class of a model, which loads Keras.

    Args:
        kind: a value of `model.type`.

    Raises:
        ModelTypeError: as `options_class` raises it, or the class does not fit the interface of models.
        UserCodeError: its module raises an exception when it is imported.
    """
    if kind in BUILT_IN:
        return _imported(BUILT_IN[kind][1])
    options_class(kind)
    with quiet_tensorflow():
        model, base = _users_class(kind), _imported(BASE)
    if not issubclass(model, base):
        raise _refusal(kind, f"class {model.__qualname__} must be a subclass of {_shown(base)}")
    if missing := sorted(getattr(model, "__abstractmethods__", ())):
        raise _refusal(kind, f"class {model.__qualname__} lacks {', '.join(missing)}, which {_shown(base)} requires")
    return model


def check_model_class(kind: str) -> None:
    """Refuses a user's model that does not fit the interface of models; built-in models are not imported.

    Raises:
        ModelTypeError, UserCodeError: as `model_class` raises them.
    """
    if kind not in BUILT_IN:
        model_class(kind)


def _users_class(kind: str) -> type:
    module_name, _, name = kind.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        names, hint = ", ".join(map(repr, BUILT_IN)), _nearest(kind, BUILT_IN)
        raise _refusal(kind, f"must be {names} or a class of your own, 'package.module:Class'{hint}")
    module = _users_module(kind, module_name)
    if not hasattr(module, name):
        classes = [word for word, value in vars(module).items() if isinstance(value, type)]
        raise _refusal(kind, f"module {module_name} has no class {name}{_nearest(name, classes)}")
    found = getattr(module, name)
    if not isinstance(found, type):
        raise _refusal(kind, f"{name} in module {module_name} is not a class")
    return found


def _users_module(kind: str, name: str) -> Any:
    with quiet_tensorflow(), user_code(f"model.type = {kind!r}: module {name} cannot be imported"):
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there, and imports one that is not
            path = os.environ.get("PYTHONPATH")
            raise _refusal(
                kind,
                f"there is no module {error.name} in PYTHONPATH ({path or 'not set'}) or among the installed packages; "
                "set PYTHONPATH to the folder that holds it, or send it along with a job by --package",
            ) from None


def _imported(import_string: str) -> Any:
    module, _, name = import_string.partition(":")
    return getattr(import_module(module), name)


def _refusal(kind: str, reason: str) -> ModelTypeError:
    error = ModelTypeError(f"model.type = {kind!r}: {reason}")
    error.reason = reason
    return error


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _shown(base: type) -> str:
    return f"vaedist.models.{base.__name__}"
