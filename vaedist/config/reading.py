"""Parsing of TOML and `section.key=value` texts, and one-line messages for pydantic's validation errors."""

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import ValidationError

from vaedist.config.keys import ClassKey, class_keys, keys, tables, text_keys
from vaedist.config.sections import Section
from vaedist.errors import ConfigError


def parse(text: str, where: str) -> dict[str, Any]:
    """Parses TOML text to nested tables; `where` names its origin in errors."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{where}: not valid TOML: nested too deeply") from None
    except ValueError as error:  # a TOMLDecodeError, or a number of too many digits
        raise ConfigError(f"{where}: not valid TOML: {error}") from None


def read_tables(path: Path) -> dict[str, Any]:
    """Returns the nested tables of a TOML file in UTF-8, with or without a byte order mark.

    Raises:
        ConfigError: the file is missing, cannot be read, or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"no job file at {path}{nearby_jobs(path)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"cannot read job file {path}: not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"cannot read job file {path}: {error.strerror}") from None
    return parse(text, str(path))


def parsed(
    overrides: Iterable[str], section_for: Callable[[Mapping[str, Any]], type[Section]], nested: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the values of `section.key=value` texts, by dotted key.

    Args:
        overrides: the texts, in any order; the last one for a key wins.
        section_for: function that returns the experiment class with the options of the classes that tables name.
        nested: the tables that the values will be set in.

    Raises:
        ConfigError: a text is malformed, or its key is unknown.
    """
    given = [*map(_Override.parse, overrides)]
    if not given:
        return {}
    section = _section_with(given, section_for, nested)
    known, texts = set(keys(section)), set(text_keys(section))
    values: dict[str, Any] = {}
    for each in given:
        if each.key not in known:
            raise ConfigError(f"--set {each.shown}: {unknown_key(each.key, section, known)}")
        values[each.key] = _text(each.value, spaced=each.spaced) if each.key in texts else _toml_value(each.value)
    return values


def _section_with(
    given: "list[_Override]", section_for: Callable[[Mapping[str, Any]], type[Section]], nested: Mapping[str, Any]
) -> type[Section]:
    """Returns the experiment class with the options of the classes that overrides, or else nested tables, name.

    Options of a class may name further classes, hence the loop.
    """
    named: dict[str, str] = {}
    while True:
        section = section_for(nested)
        known = {each.key for each in class_keys(section)} - named.keys()
        found = {each.key: _text(each.value, spaced=each.spaced) for each in given if each.key in known}
        if not found:
            return section
        nested, named = placed(nested, found), named | found


class _Override(NamedTuple):
    """A text `section.key=value`.

    Attributes:
        key: the dotted key.
        value: the unparsed value.
        spaced: True if the text has the form KEY = VALUE, as in a file: the spaces are not part of the value.
        shown: the text, on one line.
    """

    key: str
    value: str
    spaced: bool
    shown: str

    @classmethod
    def parse(cls, text: str) -> Self:
        left, equals, value = text.partition("=")
        shown = text if text.isprintable() else repr(text)
        if not equals:
            raise ConfigError(f"--set {shown}: must be KEY=VALUE, as in training.epochs=4")
        return cls(left.strip(), value, left != left.rstrip(), shown)


def placed(nested: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of nested tables with values set at dotted keys; missing tables are added."""
    merged = {k: dict(v) if isinstance(v, Mapping) else v for k, v in nested.items()}
    for key, value in values.items():
        table = merged
        *path, leaf = key.split(".")
        for name in path:
            table[name] = dict(table.get(name, {}))
            table = table[name]
        table[leaf] = value
    return merged


def _text(given: str, *, spaced: bool) -> str:
    """Returns the value of a text key: a quoted TOML string, or else the text itself."""
    value = _toml_value(given)
    if isinstance(value, str) and value != given.strip():
        return value
    return given.strip() if spaced else given


def _toml_value(given: str) -> Any:
    """Parses a TOML value; text that is not valid TOML is a string, so that shell users need not quote it."""
    text = given.strip()
    try:
        # Within brackets, too: a comment would hide the closing one, and drop a part of the text silently.
        read, whole = tomllib.loads(f"value = {text}"), tomllib.loads(f"value = [{text}]")
    except (ValueError, RecursionError):
        return text
    return read["value"] if len(read) == len(whole) == len(whole["value"]) == 1 else text


def first_fault(section: type[Section], error: ValidationError) -> str:
    """Returns a one-line message about the first fault: the key, its value, and what is allowed."""
    faults = error.errors(include_url=False)
    unknown = [fault for fault in faults if fault["type"] == "extra_forbidden"]
    fault = (unknown or faults)[0]
    key = ".".join(str(part) for part in fault["loc"])
    if unknown:
        return unknown_key(key, section, [*keys(section), *tables(section)])
    if fault["type"] == "missing":
        return f"{key} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    message = (
        message.replace("Input should", "must").replace("String should", "must").replace("a valid tuple", "an array")
    )
    if fault["type"] == "string_pattern_mismatch":
        message = "must be letters, digits, '.', '_' or '-', and start with a letter or a digit"
    if fault["type"] in ("model_type", "model_attributes_type"):
        return f"{key} must be a table, [{key}]"
    value = fault["input"]
    shown = f" = {_short(value)}" if not isinstance(value, Mapping) else ""
    return f"{key}{shown}: {message}" if key else message


def unknown_key(key: str, section: type[Section], known: Iterable[str]) -> str:
    """Returns the error message for an unknown key, with the class that lacks it and the nearest valid key."""
    owners = [each for each in _chosen(section) if each.owns(key)]
    of = f" of {owners[-1].key} = {owners[-1].name!r}" if owners else ""
    return f"unknown key {key!r}{of}{nearest(key, known, section)}"


def _chosen(section: type[Section]) -> list[ClassKey]:
    """Returns the keys that name a class other than the default."""
    return [each for each in class_keys(section) if each.name != each.choice.default]


def _short(value: Any) -> str:
    """Returns a value as text of limited length."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        return "a number with thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}...{text[-15:]}"


def nearest(key: str, known: Iterable[str], section: type[Section] | None = None) -> str:
    """Returns a hint that names the valid key most similar to `key`, by the whole key or else by its last part.

    If none is similar, the hint names the command that lists the keys, with the classes that the section names.
    """
    known = list(known)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not close:
        leaf = key.rpartition(".")[2]
        leaves = {k.rpartition(".")[2]: k for k in known}
        close = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.6)]
    if close:
        return f"; did you mean {close[0]!r}?"
    options = "".join(f" --{each.key.split('.')[-2]} {each.name}" for each in _chosen(section)) if section else ""
    return f"; `vaedist config schema{options}` lists the valid ones"


def nearby_jobs(path: Path) -> str:
    """Returns a hint that names the job files in the folder of a missing one."""
    names = sorted(p.name for p in path.parent.glob("*.toml"))
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {path.parent / close[0]}?"
    return f"; {path.parent} has {', '.join(names)}" if names else ""
