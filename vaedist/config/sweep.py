"""A sweep: an experiment and the keys that its trials vary."""

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from vaedist.config.class_choice import ClassChoice, ClassNameError
from vaedist.config.dimension import Dimension, Value
from vaedist.config.experiment import Experiment, SweepGivenError
from vaedist.config.keys import class_keys, keys, with_options
from vaedist.config.reading import first_fault, nearest, placed
from vaedist.config.sections import Section
from vaedist.errors import ConfigError

METRICS = {"elbo": "max", "importance_bound": "max", "bits_per_dim": "min"}  # metric: direction
FIXED = ("run.", "data.", "scaling.", "monitor.", "checkpoint.")  # sections that all trials share
MOST_TRIALS = 100_000


class TuneSection(Section):
    """Search, scheduling and stopping of a sweep's trials."""

    metric: Literal["elbo", "importance_bound", "bits_per_dim"] = Field(
        default="elbo",
        description="Metric to optimise, on the validation images, or on the test images if there are none: the ELBO; "
        "the importance-weighted bound with monitor.importance_samples; or bits/dim.",
    )
    direction: Literal["auto", "max", "min"] = Field(
        default="auto", description="Direction of optimisation; auto minimises bits_per_dim and maximises the others."
    )
    search: Literal["grid", "random", "optuna"] = Field(
        default="random",
        description="All combinations of values; values drawn at random; or values proposed by Optuna's TPE sampler.",
    )
    samples: int = Field(default=20, ge=1, le=MOST_TRIALS, description="Number of trials, except in a grid search.")
    scheduler: Literal["none", "asha", "median"] = Field(
        default="asha",
        description="Early stopping: none; asha stops trials that are not among the best at a rung; median stops "
        "trials below the median of the others' running means.",
    )
    grace_epochs: int = Field(default=1, ge=1, description="Epochs before a trial may be stopped early.")
    reduction: float = Field(
        default=3.0,
        gt=1,
        le=100,
        description="Reduction factor of ASHA: one in this many trials continues at each rung.",
    )
    concurrent: int = Field(default=0, ge=0, description="Maximum number of concurrent trials; 0 runs as many as fit.")
    minutes: float = Field(default=0.0, ge=0, description="Time limit of the sweep; 0 sets no limit.")
    retries: int = Field(
        default=1,
        ge=0,
        description="Retries of a failed trial, from its newest checkpoint. Trials that diverged or whose model cannot "
        "be built are not retried.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the drawn values.")
    space: dict[str, Dimension] = Field(min_length=1, description="Values or range of each varied key.")

    @property
    def mode(self) -> str:
        """Direction of optimisation of the metric, "max" or "min"."""
        return METRICS[self.metric] if self.direction == "auto" else self.direction


class Sweep(Experiment):
    """An experiment with a [tune] section, which names the keys to vary; immutable like an experiment."""

    tune: TuneSection

    @model_validator(mode="after")
    def _space_of_valid_keys(self) -> Self:
        for key, dimension in self.tune.space.items():
            self._check_key(key)
            for value in dimension.extremes:
                self._check_value(key, value)
        if self.tune.search == "grid":
            ranges = [key for key, dimension in self.tune.space.items() if dimension.values is None]
            if ranges:
                raise ValueError(f"tune.space: a grid search needs a list of values, but {ranges[0]} has a range")
            if self.grid_size > MOST_TRIALS:
                raise ValueError(f"tune.space: the grid has {self.grid_size:,} trials; the limit is {MOST_TRIALS:,}")
        return self

    @model_validator(mode="after")
    def _trials_that_can_be_compared(self) -> Self:
        if self.scaling.elastic:
            raise ValueError(
                f"scaling.workers = {list(self.scaling.bounds)}: trials of a sweep need a fixed number of workers"
            )
        if self.tune.grace_epochs > self.training.epochs:
            raise ValueError(f"tune.grace_epochs must be at most training.epochs, {self.training.epochs}")
        if self.tune.metric == "importance_bound" and not self.monitor.importance_samples:
            raise ValueError("tune.metric = 'importance_bound': no run reports it if monitor.importance_samples is 0")
        if self.tune.metric == "bits_per_dim":
            self._check_bits_per_dim()
        return self

    @property
    def class_values(self) -> list[dict[str, Value]]:
        """Combinations of values of the varied keys that name classes, by key; [{}] if none is varied."""
        models = self.tune.space.get("model.type")
        tables: list[Mapping[str, Any]] = [{"model": {"type": kind}} for kind in models.extremes] if models else []
        names = {each.key for one in (self.model_dump(), *tables) for each in class_keys(self.of_classes_in(one))}
        varied = {key: dimension.extremes for key, dimension in self.tune.space.items() if key in names}
        return [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]

    def classes(self) -> Iterator[tuple[str, str, ClassChoice]]:
        """Yields each key of any trial that names a class, with its value and the classes that it may name."""
        found = {}
        for values in self.class_values:
            for each in class_keys(with_options(Experiment, self._trial(values))):
                found[each.key, each.name] = each.choice
        for (key, name), choice in found.items():
            yield key, name, choice

    def _check_key(self, key: str) -> None:
        """Raises an error for a key that some trial lacks, or that must have the same value in all trials."""
        if key.startswith(FIXED) and key in keys(Experiment):
            raise ValueError(
                f"tune.space has the key {key!r}, which cannot be varied: {key.partition('.')[0]} is the same in all "
                "trials"
            )
        for values in self.class_values:
            try:
                section = with_options(Experiment, self._trial(values))
            except ClassNameError as error:
                raise ValueError(f"tune.space: {error}") from None
            known = [known for known in keys(section) if not known.startswith(FIXED)]
            if key not in known:
                of = " and ".join(f"{name} = {value!r}" for name, value in values.items())
                where = f" in a trial of {of}" if len(self.class_values) > 1 else ""
                raise ValueError(
                    f"tune.space has the key {key!r}, which cannot be varied{where}{nearest(key, known, section)}"
                )

    def _check_value(self, key: str, value: Value) -> None:
        """Raises an error for a value that no trial can have; trials themselves detect invalid combinations."""
        for values in self.class_values:
            if values.get(key, value) != value:
                continue
            tables = self._trial({**values, key: value})
            try:
                Experiment.model_validate(tables)
            except ValidationError as error:
                if key in values or any(_key_of(fault).startswith(key) for fault in error.errors()):
                    raise ValueError(f"tune.space: {first_fault(Experiment.of_classes_in(tables), error)}") from None

    def _check_bits_per_dim(self) -> None:
        """Raises an error if neither the sweep's model nor one with a varied option reports bits/dim."""
        space, binarize = self.tune.space, self.data.binarize
        varied = [(key, value) for key in space if key.startswith("model.") for value in space[key].extremes]
        seen = [self.model.preprocessing(binarize)]
        for key, value in varied:
            with suppress(ValidationError):  # valid only in combination with other values
                trial = Experiment.model_validate(self._trial({key: value}))
                seen.append(trial.model.preprocessing(binarize))
        if any(preprocessing.levels is not None for preprocessing in seen):
            return
        raise ValueError(
            f"tune.metric = 'bits_per_dim': no run reports it, because the model scores {seen[0].shown}"
            + (", in nats" if seen[0].proper else " with a score that is no density")
        )

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any], where: str = "experiment", *, need_classes: bool = True) -> Self:
        """Returns a sweep from nested tables; the arguments are those of `Experiment.from_dict`.

        Raises:
            ConfigError: the tables are invalid, see `Experiment.from_dict`, or there is no [tune] section.
        """
        if "tune" not in tables:
            raise ConfigError(f"{where} has no [tune] section: it is not a sweep; use `vaedist train`")
        return super().from_dict(tables, where, need_classes=need_classes)

    @property
    def grid_size(self) -> int:
        """Number of combinations in the grid."""
        return math.prod(len(dimension.values or ()) for dimension in self.tune.space.values())

    @property
    def trials(self) -> int:
        """Number of trials in the sweep."""
        return self.grid_size if self.tune.search == "grid" else self.tune.samples

    def drawn(self, number: int) -> dict[str, Value]:
        """Returns the values that trial `number` of a grid or random search varies; they depend on nothing else."""
        import numpy as np  # slow to import, and not needed to read a job

        space = self.tune.space
        if self.tune.search == "grid":
            values = [dimension.values or [] for dimension in space.values()]
            return dict(zip(space, next(itertools.islice(itertools.product(*values), number, None)), strict=True))
        rng = np.random.default_rng((self.tune.seed, number))
        return {key: dimension.sample(rng) for key, dimension in space.items()}

    def experiment(self, params: Mapping[str, Value], **run: str) -> Experiment:
        """Returns the experiment of a trial.

        Args:
            params: values of the varied keys.
            run: `name` and `folder` of the trial's run.

        Raises:
            ConfigError: the combination of values is invalid.
        """
        return Experiment.from_dict(self._trial({**params, **{f"run.{k}": v for k, v in run.items()}}))

    def _trial(self, params: Mapping[str, Value]) -> dict[str, Any]:
        """Returns the experiment of a trial as nested tables.

        If the trial varies `model.type` or `model.flow.type`, the new class keeps those options of the sweep's class
        that differ from their defaults.
        """
        tables = self.tables_for(params, keep_changed=True)
        return placed({name: table for name, table in tables.items() if name != "tune"}, params)


def read_job(path: str | Path, overrides: tuple[str, ...] = ()) -> Experiment:
    """Returns the `Sweep` of a job file if it has a [tune] section, else its `Experiment`.

    Raises:
        ConfigError: as `Experiment.from_file`.
    """
    try:
        return Experiment.from_file(path, overrides)
    except SweepGivenError:
        return Sweep.from_file(path, overrides)


def _key_of(fault: Any) -> str:
    return ".".join(map(str, fault["loc"]))
