"""The experiment: all sections together, read from one TOML file.

Nothing changes an experiment once it is made: `with_values` and `with_overrides` make another.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import Field, ValidationError, model_validator

from vaedist.config.keys import keys
from vaedist.config.reading import first_fault, nearby_jobs, overridden, parse, placed
from vaedist.config.sections import (
    CheckpointSection,
    DataSection,
    ModelSection,
    MonitorSection,
    ObjectiveSection,
    RunSection,
    ScalingSection,
    Section,
    TrainingSection,
)
from vaedist.errors import ConfigError


class SweepGivenError(ConfigError):
    """A single experiment is wanted, and a sweep was given."""


class Experiment(Section):
    """All that decides a run: the same experiment on the same data gives the same numbers."""

    seed: int = Field(default=0, ge=0, lt=2**31, description="Key of every random number in the run.")
    run: RunSection = RunSection()
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    objective: ObjectiveSection = ObjectiveSection()
    training: TrainingSection = TrainingSection()
    scaling: ScalingSection = ScalingSection()
    checkpoint: CheckpointSection = CheckpointSection()
    monitor: MonitorSection = MonitorSection()

    @model_validator(mode="after")
    def _binary_pixels_of_a_bernoulli(self) -> Self:
        if self.data.binarize != "none" and self.model.likelihood != "bernoulli":
            raise ValueError(
                f"data.binarize = {self.data.binarize!r} makes pixels 0 or 1, which model.likelihood = 'bernoulli' "
                f"scores, not {self.model.likelihood!r}"
            )
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
    def from_dict(cls, tables: Mapping[str, Any], where: str = "experiment") -> Self:
        """Validate nested tables.

        Raises:
            ConfigError: with the first fault: key, value and what is allowed.
            SweepGivenError: there is a [tune] part.
        """
        if "tune" in tables and "tune" not in cls.model_fields:
            raise SweepGivenError(f"{where} has a [tune] part: it is a sweep, for `vaedist tune`")
        try:
            return cls.model_validate(tables)
        except ValidationError as error:
            raise ConfigError(f"{where}: {first_fault(cls, error)}") from None

    @classmethod
    def from_toml(cls, text: str, where: str = "experiment") -> Self:
        """Read an experiment from TOML text; `where` names it in errors."""
        return cls.from_dict(parse(text, where), where)

    @classmethod
    def from_file(
        cls, path: str | Path, overrides: Iterable[str] = (), values: Mapping[str, Any] | None = None
    ) -> Self:
        """Reads a job file, and puts other values in the place of some of its own.

        A run without a name takes the file's.

        Args:
            path: the file, TOML in UTF-8, with or without a byte order mark.
            overrides: `section.key=value` texts, whose values are read as TOML; those of keys that are text are
                taken as they stand, unless they are quoted.
            values: by dotted keys, as they are; they come last.

        Raises:
            ConfigError: the file is missing, is no TOML, or holds an invalid key or value.
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
        merged = overridden(cls, tables, overrides)
        cls.from_dict(merged, "--set")
        merged = placed(merged, values or {})
        if not cls.from_dict(merged, "command line").run.name:
            merged["run"] = {**merged.get("run", {}), "name": path.stem}
        return cls.from_dict(merged, f"{path}: its own name cannot be the run's, so set run.name")

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """A new experiment with other values, given by dotted keys.

        Raises:
            ConfigError: a key is unknown, or a value is not allowed.
        """
        return self.from_dict(placed(self.model_dump(exclude_none=True), values))

    def with_overrides(self, *overrides: str) -> Self:
        """A new experiment with `section.key=value` overrides applied, as `from_file` applies them."""
        return self.from_dict(overridden(type(self), self.model_dump(exclude_none=True), overrides), "--set")

    def to_toml(self) -> str:
        """The resolved experiment as TOML; `from_toml` reads it back to an equal one."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def differences(old: Experiment, new: Experiment) -> Iterator[tuple[str, Any, Any]]:
    """The keys in which two experiments, or two sweeps, differ, with both values."""
    for key in keys(type(old)):
        before, after = (_lookup(experiment, key) for experiment in (old, new))
        if before != after:
            yield key, before, after


def _lookup(experiment: Experiment, key: str) -> Any:
    value: Any = experiment
    for part in key.split("."):
        value = getattr(value, part)
    return value
