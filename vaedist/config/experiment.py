"""The experiment: all sections together, read from one TOML file.

An experiment is immutable: `with_values` and `with_overrides` return a new one.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import tomli_w
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from vaedist.config.keys import keys, with_options
from vaedist.config.model_options import ModelOptions
from vaedist.config.model_types import DEFAULT, ModelTypeError, options_class
from vaedist.config.reading import first_fault, nearby_jobs, parse, parsed, placed
from vaedist.config.sections import (
    CheckpointSection,
    DataSection,
    MonitorSection,
    ObjectiveSection,
    RunSection,
    ScalingSection,
    Section,
    TrainingSection,
)
from vaedist.errors import ConfigError
from vaedist.user_code import user_code


class SweepGivenError(ConfigError):
    """A single experiment is wanted, and a sweep was given."""


def _options(given: Any) -> Any:
    """Returns a [model] table as an instance of the model's class of options."""
    if not isinstance(given, Mapping | ModelOptions):
        return given
    kind = given.type if isinstance(given, ModelOptions) else given.get("type", DEFAULT)
    try:
        options = options_class(kind if isinstance(kind, str) else repr(kind))
    except ModelTypeError as error:
        raise _wrong_type(kind, error.reason) from None
    if isinstance(given, Mapping):
        with user_code(f"model.type = {kind!r}: its options raise an exception", ValueError):
            return options.model_validate({**given, "type": kind})
    if type(given) is not options:
        raise _wrong_type(kind, f"must be the model that {type(given).__qualname__} is the options of")
    return given


def _wrong_type(kind: Any, reason: str) -> ValidationError:
    """Returns a fault of the key `model.type`."""
    fault = PydanticCustomError("model_type_unknown", "{reason}", {"reason": reason})
    return ValidationError.from_exception_data("model", [{"type": fault, "loc": ("type",), "input": kind}])


OptionsByType = Annotated[ModelOptions, BeforeValidator(_options)]


class Experiment(Section):
    """All settings of a run: the same experiment on the same data gives the same numbers."""

    seed: int = Field(default=0, ge=0, lt=2**31, description="Key of every random number in the run.")
    run: RunSection = RunSection()
    data: DataSection = DataSection()
    model: SerializeAsAny[OptionsByType] = Field(default_factory=lambda: options_class(DEFAULT)())
    objective: ObjectiveSection = ObjectiveSection()
    training: TrainingSection = TrainingSection()
    scaling: ScalingSection = ScalingSection()
    checkpoint: CheckpointSection = CheckpointSection()
    monitor: MonitorSection = MonitorSection()

    @model_validator(mode="after")
    def _pixels_that_the_model_scores(self) -> Self:
        with user_code(f"model.type = {self.model.type!r}: preprocessing raises an exception", ValueError):
            self.model.preprocessing(self.data.binarize)
        return self

    @model_validator(mode="after")
    def _sums_that_gpus_can_take(self) -> Self:
        if self.training.reduce_dtype == "bfloat16" and self.scaling.gpus_per_worker:
            raise ValueError(
                "training.reduce_dtype = 'bfloat16' is for CPUs: TensorFlow sums no bfloat16 over GPUs "
                f"(scaling.gpus_per_worker = {self.scaling.gpus_per_worker:g})"
            )
        return self

    @classmethod
    def of_model_in(cls, tables: Mapping[str, Any]) -> type[Self]:
        """Returns this class with the options of the model that nested tables name, see `with_options`.

        If there is no such model, the options are those of the default model.
        """
        model = tables.get("model")
        kind = model.get("type", DEFAULT) if isinstance(model, Mapping) else DEFAULT
        try:
            return with_options(cls, str(kind))
        except ModelTypeError:
            return with_options(cls, DEFAULT)

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any], where: str = "experiment") -> Self:
        """Returns an experiment from nested tables; `where` names their origin in errors.

        Raises:
            ConfigError: with the first fault: key, value and what is allowed.
            UserCodeError: the module of a user's model, or its options, raised an exception.
            SweepGivenError: there is a [tune] part.
        """
        if "tune" in tables and "tune" not in cls.model_fields:
            raise SweepGivenError(f"{where} has a [tune] part: it is a sweep, for `vaedist tune`")
        try:
            return cls.model_validate(tables)
        except ValidationError as error:
            raise ConfigError(f"{where}: {first_fault(cls.of_model_in(tables), error)}") from None

    @classmethod
    def from_toml(cls, text: str, where: str = "experiment") -> Self:
        """Returns an experiment from TOML text; `where` names its origin in errors."""
        return cls.from_dict(parse(text, where), where)

    @classmethod
    def from_file(
        cls, path: str | Path, overrides: Iterable[str] = (), values: Mapping[str, Any] | None = None
    ) -> Self:
        """Returns the experiment of a job file, with some values replaced.

        A run without a name takes the file's.

        Args:
            path: the file, TOML in UTF-8, with or without a byte order mark.
            overrides: `section.key=value` texts, whose values are read as TOML; those of keys that are text are
                taken as they stand, unless they are quoted.
            values: further values by dotted key, which take precedence over the overrides.

        Raises:
            ConfigError: the file is missing, is not TOML, or has an invalid key or value.
            UserCodeError: as `from_dict` raises it.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise ConfigError(f"no job file at {path}{nearby_jobs(path)}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"cannot read job file {path}: not UTF-8 text") from None
        except OSError as error:
            raise ConfigError(f"cannot read job file {path}: {error.strerror}") from None
        tables = parse(text, str(path))
        cls.from_dict(tables, str(path))  # so that the file's own faults are told as the file's
        merged = placed(tables, parsed(overrides, cls.of_model_in, tables))
        cls.from_dict(merged, "--set")
        merged = placed(merged, values or {})
        if not cls.from_dict(merged, "command line").run.name:
            merged["run"] = {**merged.get("run", {}), "name": path.stem}
        return cls.from_dict(merged, f"{path}: its own name cannot be the run's, so set run.name")

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """Returns a new experiment with some values replaced, by dotted key.

        With another `model.type`, the options that are not given are that model's defaults.

        Raises:
            ConfigError: a key is unknown, or a value is not allowed.
        """
        return self.from_dict(placed(self._tables_for(values.get("model.type")), values))

    def with_overrides(self, *overrides: str) -> Self:
        """Returns a new experiment with `section.key=value` overrides applied, as `with_values` applies values."""
        values = parsed(overrides, self.of_model_in, self._tables_for(None))
        return self.from_dict(placed(self._tables_for(values.get("model.type")), values), "--set")

    def _tables_for(self, kind: Any) -> dict[str, Any]:
        """Returns the experiment as nested tables, without its model's options if another type of model is given."""
        tables = self.model_dump(exclude_none=True)
        if kind is not None and kind != self.model.type:
            tables["model"] = {}
        return tables

    def to_toml(self) -> str:
        """Returns the experiment with all its defaults as TOML; `from_toml` returns an equal one."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def differences(old: Experiment, new: Experiment) -> Iterator[tuple[str, Any, Any]]:
    """Returns the keys in which two experiments, or two sweeps, differ, with both values.

    Of different models, only their types are compared.
    """
    same_model = old.model.type == new.model.type
    for key in keys(with_options(type(old), old.model.type)):
        if same_model or key == "model.type" or not key.startswith("model."):
            before, after = (_lookup(experiment, key) for experiment in (old, new))
            if before != after:
                yield key, before, after


def _lookup(experiment: Experiment, key: str) -> Any:
    value: Any = experiment
    for part in key.split("."):
        value = getattr(value, part)
    return value
