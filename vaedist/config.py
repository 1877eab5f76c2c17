"""The experiment: frozen, validated sections, read from one TOML file.

A default stands here and nowhere else. Every key has a type, a range and a sentence; `vaedist config schema`
prints them. Nothing changes an experiment once it is made: `with_overrides` makes another.
"""

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vaedist.errors import ConfigError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Section(BaseModel):
    """A frozen table of an experiment; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RunSection(Section):
    """Where a run is kept."""

    name: str = Field(
        default="",
        pattern=r"^$|" + NAME_PATTERN,
        max_length=128,
        description="Name of the run's folder; empty takes the job file's name.",
    )
    folder: str = Field(
        default="runs", min_length=1, description="Folder that holds the runs; every worker must reach it."
    )


class DataSection(Section):
    """Which images are trained on."""

    path: str = Field(
        default="data/cifar10",
        min_length=1,
        description="Data set made by `vaedist data prepare`: a folder or a pyarrow filesystem URI.",
    )
    verify: bool = Field(default=True, description="Check every shard's SHA-256 before the run starts.")


class FlowSection(Section):
    """The inverse autoregressive flow of the posterior (Kingma et al. 2016)."""

    depth: int = Field(default=3, ge=0, le=64, description="Number of flow steps; 0 is the plain VAE.")
    width: int = Field(default=500, ge=1, description="Units of each hidden layer of a step's autoregressive network.")
    layers: int = Field(default=1, ge=1, le=16, description="Hidden layers of a step's autoregressive network.")
    gate_bias: float = Field(
        default=2.0,
        ge=-20,
        le=20,
        description="Added to the gate's logits, so that a new step starts near the identity.",
    )


class ModelSection(Section):
    """Sizes of the VAE."""

    hidden: int = Field(default=500, ge=1, description="Units of the hidden layer of the encoder and of the decoder.")
    latent: int = Field(default=500, ge=1, description="Number of latents.")
    likelihood: Literal["bernoulli", "gaussian"] = Field(default="bernoulli", description="Distribution of the pixels.")
    flow: FlowSection = FlowSection()


class TrainingSection(Section):
    """How the model is fitted."""

    epochs: int = Field(default=100, ge=1, description="Passes over the training images.")
    global_batch: int = Field(default=32, ge=1, description="Images in one step, over all workers and devices.")
    learning_rate: float = Field(default=1e-4, gt=0, le=10, description="Adam's step size.")
    steps_per_call: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="Steps that one compiled call takes; the results do not depend on it.",
    )
    eval_batch: int = Field(default=256, ge=1, description="Images in one step of the test pass, over all devices.")


class ScalingSection(Section):
    """What Ray Train starts."""

    workers: int = Field(default=1, ge=1, le=4096, description="Worker processes, each with its own share of the data.")
    gpus_per_worker: int = Field(default=0, ge=0, le=64, description="GPUs of one worker; 0 trains on its CPUs.")
    cpus_per_worker: int = Field(
        default=0, ge=0, le=1024, description="CPUs of one worker; 0 divides the cluster's among the workers."
    )
    logical_devices: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Devices that a CPU worker's processor is split into (to try what several GPUs will do).",
    )
    max_failures: int = Field(default=3, ge=0, description="Times that a failed group of workers is started again.")
    autoscaling: bool = Field(
        default=False,
        description="The cluster adds nodes on demand: wait for them instead of "
        "refusing a job that is larger than the cluster is now.",
    )

    @model_validator(mode="after")
    def _devices_of_one_kind(self) -> Self:
        if self.gpus_per_worker and self.logical_devices > 1:
            raise ValueError("logical_devices splits a CPU; it must be 1 when gpus_per_worker is set")
        return self


class CheckpointSection(Section):
    """When checkpoints are written, and how many stay."""

    every_steps: int = Field(
        default=1000, ge=0, description="Steps between checkpoints; 0 writes at the end of epochs only."
    )
    keep: int = Field(default=2, ge=1, description="Newest checkpoints to keep; the best by test ELBO stays besides.")


class MonitorSection(Section):
    """What is logged, and how often."""

    log_every: int = Field(default=50, ge=1, description="Steps between two rows of training metrics.")
    pictures_every: int = Field(default=1, ge=0, description="Epochs between pictures; 0 makes them at the end only.")
    pictures: int = Field(
        default=32, ge=1, le=256, description="Images in the grid of reconstructions; twice that in samples."
    )


class Experiment(Section):
    """All that decides a run: the same experiment on the same data gives the same numbers."""

    seed: int = Field(default=0, ge=0, lt=2**31, description="Key of every random number in the run.")
    run: RunSection = RunSection()
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    scaling: ScalingSection = ScalingSection()
    checkpoint: CheckpointSection = CheckpointSection()
    monitor: MonitorSection = MonitorSection()

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any], where: str = "experiment") -> Self:
        """Validate nested tables.

        Raises:
            ConfigError: with the first fault: key, value and what is allowed.
        """
        try:
            return cls.model_validate(tables)
        except ValidationError as error:
            raise ConfigError(f"{where}: {_first_fault(cls, error)}") from None

    @classmethod
    def from_toml(cls, text: str, where: str = "experiment") -> Self:
        """Read an experiment from TOML text; `where` names it in errors."""
        return cls.from_dict(_parse(text, where), where)

    @classmethod
    def from_file(cls, path: str | Path, overrides: Iterable[str] = ()) -> Self:
        """Read a job file and apply `section.key=value` overrides to it.

        A run without a name takes the file's.

        Raises:
            ConfigError: the file is missing, is no TOML, or holds an invalid key or value.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(f"no job file at {path}{_nearby_jobs(path)}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"cannot read job file {path}: not UTF-8 text") from None
        except OSError as error:
            raise ConfigError(f"cannot read job file {path}: {error.strerror}") from None
        tables = _parse(text, str(path))
        cls.from_dict(tables, str(path))  # so that the file's own faults are told as the file's
        merged = _overridden(cls, tables, overrides)
        if not cls.from_dict(merged, "--set").run.name:
            merged["run"] = {**merged.get("run", {}), "name": path.stem}
        return cls.from_dict(merged, f"{path}: its own name cannot be the run's, so set run.name")

    def with_overrides(self, *overrides: str) -> Self:
        """A new experiment with `section.key=value` overrides applied, values read as TOML."""
        return self.from_dict(_overridden(type(self), self.model_dump(), overrides), "--set")

    def to_toml(self) -> str:
        """The resolved experiment as TOML; `from_toml` reads it back to an equal one."""
        return tomli_w.dumps(self.model_dump())


def keys(section: type[Section] = Experiment, prefix: str = "") -> Iterator[str]:
    """Every dotted key that an experiment has."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def differences(old: Experiment, new: Experiment) -> Iterator[tuple[str, Any, Any]]:
    """The keys in which two experiments differ, with both values."""
    for key in keys():
        before, after = (_lookup(experiment, key) for experiment in (old, new))
        if before != after:
            yield key, before, after


def _lookup(experiment: Experiment, key: str) -> Any:
    value: Any = experiment
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{where}: not valid TOML: nested too deeply") from None
    except ValueError as error:  # a TOMLDecodeError, or a number of too many digits
        raise ConfigError(f"{where}: not valid TOML: {error}") from None


def _overridden(cls: type[Experiment], tables: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `tables` with each `section.key=value` put in its place."""
    known = set(keys(cls))
    merged = {k: dict(v) if isinstance(v, Mapping) else v for k, v in tables.items()}
    for override in overrides:
        key, equals, value = override.partition("=")
        key = key.strip()
        shown = override if override.isprintable() else repr(override)
        if not equals:
            raise ConfigError(f"--set {shown}: must be KEY=VALUE, as in model.flow.depth=4")
        if key not in known:
            raise ConfigError(f"--set {shown}: unknown key {key!r}{_nearest(key, known)}")
        table = merged
        *sections, leaf = key.split(".")
        for section in sections:
            table[section] = dict(table.get(section, {}))
            table = table[section]
        table[leaf] = _toml_value(value.strip())
    return merged


def _toml_value(text: str) -> Any:
    """A TOML value; a bare word that is none is taken as a string, as a shell user means it."""
    try:
        tables = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return tables["value"] if len(tables) == 1 else text  # a second line is no second key


def _first_fault(cls: type[Experiment], error: ValidationError) -> str:
    """One line for the first fault: the key, its value, and what is allowed."""
    faults = error.errors(include_url=False)
    unknown = [fault for fault in faults if fault["type"] == "extra_forbidden"]
    fault = (unknown or faults)[0]
    key = ".".join(str(part) for part in fault["loc"])
    if unknown:
        known = list(keys(cls))
        return f"unknown key {key!r}{_nearest(key, [*known, *_sections(cls)])}"
    message = fault["msg"].removeprefix("Value error, ")
    message = message.replace("Input should", "must").replace("String should", "must")
    if fault["type"] == "string_pattern_mismatch":
        message = "must be letters, digits, '.', '_' or '-', and start with a letter or a digit"
    if fault["type"] in ("model_type", "model_attributes_type"):
        return f"{key} must be a table, [{key}]"
    value = fault["input"]
    shown = f" = {_short(value)}" if not isinstance(value, Mapping) else ""
    return f"{key}{shown}: {message}"


def _short(value: Any) -> str:
    """A value as it stands in a message: a line that is not endless."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}...{text[-15:]}"


def _sections(cls: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in cls.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield prefix + name
            yield from _sections(field.annotation, f"{prefix}{name}.")


def _nearest(key: str, known: Iterable[str]) -> str:
    """A hint that names the valid key most like `key`, by the whole key or else by its last part."""
    known = list(known)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not close:
        leaf = key.rpartition(".")[2]
        leaves = {k.rpartition(".")[2]: k for k in known}
        close = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.6)]
    return f"; did you mean {close[0]!r}?" if close else "; `vaedist config schema` lists the valid ones"


def _nearby_jobs(path: Path) -> str:
    """A hint that names the job files beside a missing one."""
    names = sorted(p.name for p in path.parent.glob("*.toml"))
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {path.parent / close[0]}?"
    return f"; {path.parent} has {', '.join(names)}" if names else ""
