"""Classes that keys of an experiment name: built-in ones by name, users' own as "package.module:Class".

Classes are stored as import strings and imported on demand, so that reading an experiment does not load Keras. A
user's class is imported from `sys.path` as the user set it, and from nowhere else.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from vaedist.errors import ConfigError
from vaedist.tensorflow_log import without_import_messages
from vaedist.user_code import user_code


class ClassNameError(ConfigError):
    """The value of a key does not name a usable class.

    Attributes:
        reason: the message without the key and its value.
    """

    reason = ""


@dataclass(frozen=True)
class ClassChoice:
    """The classes that a key may name.

    Attributes:
        noun: kind of class, such as "model".
        key: the key, such as "model.type".
        base: import string of the base class of users' classes.
        public: name of the base class in messages.
        built_in: import strings of the built-in classes, by name; the first is the default.
        built_in_options: import strings of their options classes, by the same names; empty if classes have no options.
        options: import string and public name of the base class of users' options; None if classes have no options.
    """

    noun: str
    key: str
    base: str
    public: str
    built_in: Mapping[str, str]
    built_in_options: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, str] | None = None

    @property
    def default(self) -> str:
        """Name of the default class."""
        return next(iter(self.built_in))

    def options_class(self, name: str, key: str | None = None) -> Any:
        """Returns the options class of a class.

        For a user's class, only its module is imported.

        Args:
            name: name of a built-in class, or "package.module:Class".
            key: key that has this value, for messages; None means `self.key`.

        Raises:
            ClassNameError: the class does not exist, or its `Options` is not a subclass of the required base class.
            UserCodeError: importing its module raises an exception.
        """
        if name in self.built_in:
            return _imported(self.built_in_options[name])
        assert self.options is not None
        base, public = _imported(self.options[0]), self.options[1]
        found = self._users_class(name, key)
        options = getattr(found, "Options", None)
        if options is None:
            raise self.refusal(name, key, f"class {found.__qualname__} lacks Options, a subclass of {public}")
        if not isinstance(options, type) or not issubclass(options, base):
            raise self.refusal(name, key, f"{found.__qualname__}.Options must be a subclass of {public}")
        return options

    def load(self, name: str, key: str | None = None) -> Any:
        """Imports and returns the class of a name, which loads Keras.

        Raises:
            ClassNameError: as `options_class` raises it, or the class does not fit the interface.
            UserCodeError: importing its module raises an exception.
        """
        if name in self.built_in:
            return _imported(self.built_in[name])
        if self.options is not None:
            self.options_class(name, key)
        with without_import_messages():
            found, base = self._users_class(name, key), _imported(self.base)
        if not issubclass(found, base):
            raise self.refusal(name, key, f"class {found.__qualname__} must be a subclass of {self.public}")
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            lacks = f"class {found.__qualname__} lacks {', '.join(missing)}, which {self.public} requires"
            raise self.refusal(name, key, lacks)
        return found

    def check(self, name: str, key: str | None = None) -> None:
        """Raises an error for a user's class that does not fit the interface; built-in classes are not imported.

        Raises:
            ClassNameError, UserCodeError: as `load` raises them.
        """
        if name not in self.built_in:
            self.load(name, key)

    def refusal(self, name: str, key: str | None, reason: str) -> ClassNameError:
        """Returns an error about a name; `key` is the key that has this value, `self.key` if None."""
        error = ClassNameError(f"{key or self.key} = {name!r}: {reason}")
        error.reason = reason
        return error

    def _users_class(self, name: str, key: str | None) -> type:
        module_name, _, class_name = name.partition(":")
        if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
            names, hint = ", ".join(map(repr, self.built_in)), _nearest(name, self.built_in)
            raise self.refusal(name, key, f"must be {names} or a class of your own, 'package.module:Class'{hint}")
        module = self._users_module(name, key, module_name)
        if not hasattr(module, class_name):
            classes = [word for word, value in vars(module).items() if isinstance(value, type)]
            reason = f"module {module_name} has no class {class_name}{_nearest(class_name, classes)}"
            raise self.refusal(name, key, reason)
        found = getattr(module, class_name)
        if not isinstance(found, type):
            raise self.refusal(name, key, f"{class_name} in module {module_name} is not a class")
        return found

    def _users_module(self, name: str, key: str | None, module: str) -> Any:
        with without_import_messages(), user_code(f"{key or self.key} = {name!r}: module {module} cannot be imported"):
            try:
                return import_module(module)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                    raise  # the module exists, but imports one that does not
                path = os.environ.get("PYTHONPATH")
                reason = (
                    f"there is no module {error.name} in PYTHONPATH ({path or 'not set'}) or among the installed "
                    "packages; set PYTHONPATH to the folder that contains it (vaedist submit sends it with --package)"
                )
                raise self.refusal(name, key, reason) from None


def _imported(import_string: str) -> Any:
    module, _, name = import_string.partition(":")
    return getattr(import_module(module), name)


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
