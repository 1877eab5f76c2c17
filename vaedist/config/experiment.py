"""The experiment: all sections together, read from one TOML file.

An experiment is immutable: `with_values` and `with_overrides` return a new one.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import tomli_w
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, ValidationInfo, model_validator

from vaedist.config.class_choice import ClassChoice
from vaedist.config.class_options import NEED_CLASSES, ClassOptions, class_sections, classes_needed, of_its_type
from vaedist.config.keys import with_options
from vaedist.config.model_options import MODELS, ModelOptions
from vaedist.config.reading import first_fault, parse, parsed, placed, read_tables
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
    """A sweep was given where an experiment is expected."""


OptionsByType = Annotated[ModelOptions, BeforeValidator(of_its_type(ModelOptions))]


class Experiment(Section):
    """All settings of a run: the same experiment on the same data gives the same results."""

    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of all random numbers of the run.")
    run: RunSection = RunSection()
    data: DataSection = DataSection()
    model: SerializeAsAny[OptionsByType] = Field(default_factory=lambda: MODELS.options_class(MODELS.default)())
    objective: ObjectiveSection = ObjectiveSection()
    training: TrainingSection = TrainingSection()
    scaling: ScalingSection = ScalingSection()
    checkpoint: CheckpointSection = CheckpointSection()
    monitor: MonitorSection = MonitorSection()

    @model_validator(mode="after")
    def _pixels_that_the_model_scores(self, info: ValidationInfo) -> Self:
        if classes_needed(info):
            with user_code(f"model.type = {self.model.type!r}: preprocessing raises an exception", ValueError):
                self.model.preprocessing(self.data.binarize)
        return self

    @model_validator(mode="after")
    def _sums_that_gpus_can_take(self) -> Self:
        if self.training.reduce_dtype == "bfloat16" and self.scaling.gpus_per_worker:
            raise ValueError(
                "training.reduce_dtype = 'bfloat16' requires CPUs: TensorFlow cannot all-reduce bfloat16 on GPUs "
                f"(scaling.gpus_per_worker = {self.scaling.gpus_per_worker:g})"
            )
        return self

    @classmethod
    def of_classes_in(cls, tables: Mapping[str, Any]) -> type[Self]:
        """Returns this class with the options of the classes that nested tables name, see `with_options`.

        For the name of a class that does not exist, the options are those of the default.
        """
        return with_options(cls, tables, or_default=True)

    def classes(self) -> Iterator[tuple[str, str, ClassChoice]]:
        """Yields each key that names a class, with its value and the classes that it may name."""
        for key, options in class_sections(self):
            yield f"{key}.type", options.type, options.choice

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any], where: str = "experiment", *, need_classes: bool = True) -> Self:
        """Returns an experiment from nested tables.

        Args:
            tables: the tables.
            where: their origin, for errors.
            need_classes: False leaves the options of a user's class that cannot be imported as they are.

        Raises:
            ConfigError: the tables are invalid; the message names the first faulty key, its value and what is allowed.
            UserCodeError: the module of a user's model, or its options, raised an exception.
            SweepGivenError: there is a [tune] section.
        """
        if "tune" in tables and "tune" not in cls.model_fields:
            raise SweepGivenError(f"{where} has a [tune] section: it is a sweep; use `vaedist tune`")
        try:
            return cls.model_validate(tables, context={NEED_CLASSES: need_classes})
        except ValidationError as error:
            raise ConfigError(f"{where}: {first_fault(cls.of_classes_in(tables), error)}") from None

    @classmethod
    def from_toml(cls, text: str, where: str = "experiment") -> Self:
        """Returns an experiment from TOML text; `where` names its origin in errors."""
        return cls.from_dict(parse(text, where), where)

    @classmethod
    def from_file(
        cls, path: str | Path, overrides: Iterable[str] = (), values: Mapping[str, Any] | None = None
    ) -> Self:
        """Returns the experiment of a job file, with some values replaced.

        If run.name is not set, it is the file's name.

        Args:
            path: the file, TOML in UTF-8, with or without a byte order mark.
            overrides: texts `section.key=value`. Values are parsed as TOML, but values of text keys need no quotes.
            values: further values by dotted key, which take precedence over the overrides.

        Raises:
            ConfigError: the file is missing, is not TOML, or has an invalid key or value.
            UserCodeError: as `from_dict` raises it.
        """
        path = Path(path)
        tables = read_tables(path)
        cls.from_dict(tables, str(path))  # first, so that faults of the file are reported as such
        merged = placed(tables, parsed(overrides, cls.of_classes_in, tables))
        cls.from_dict(merged, "--set")
        merged = placed(merged, values or {})
        if not cls.from_dict(merged, "command line").run.name:
            merged["run"] = {**merged.get("run", {}), "name": path.stem}
        return cls.from_dict(merged, f"{path}: the file's name is not a valid name of a run, so set run.name")

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """Returns a new experiment with some values replaced, by dotted key.

        If `model.type` or `model.flow.type` changes, options of the new class that are not given have their defaults.

        Raises:
            ConfigError: a key is unknown, or a value is not allowed.
        """
        return self.from_dict(placed(self.tables_for(values), values))

    def with_overrides(self, *overrides: str) -> Self:
        """Returns a new experiment with `section.key=value` overrides applied as in `with_values`."""
        values = parsed(overrides, self.of_classes_in, self.tables_for({}))
        return self.from_dict(placed(self.tables_for(values), values), "--set")

    def tables_for(self, values: Mapping[str, Any], *, keep_changed: bool = False) -> dict[str, Any]:
        """Returns the experiment as nested tables, without the options of classes that the values replace.

        Args:
            values: values by dotted key.
            keep_changed: keep the options that differ from their defaults.
        """
        tables = self.model_dump(exclude_none=True)
        for key, options in class_sections(self):
            if values.get(f"{key}.type", options.type) != options.type:
                kept = options.changed() if keep_changed else {}
                tables = placed(tables, {key: {}, **{f"{key}.{name}": value for name, value in kept.items()}})
        return tables

    def to_toml(self) -> str:
        """Returns the experiment with all its defaults as TOML; `from_toml` returns an equal one."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def check_classes(job: Experiment) -> None:
    """Raises an error for an experiment or a sweep that names a user's class which does not fit its interface.

    Built-in classes are not imported.

    Raises:
        ClassNameError, UserCodeError: as `ClassChoice.load` raises them.
    """
    for key, name, choice in job.classes():
        choice.check(name, key)


def differences(old: Section, new: Section, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields the keys in which two experiments, or two sweeps, differ, with both values.

    If two classes differ, their options are not compared.
    """
    for name in type(old).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, ClassOptions) and before.type != after.type:
            yield f"{prefix}{name}.type", before.type, after.type
        elif isinstance(before, Section):
            yield from differences(before, after, f"{prefix}{name}.")
        elif before != after:
            yield prefix + name, before, after
