"""What a benchmark found: samples of each measure, to be kept, shown and compared."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vaedist.errors import ConfigError
from vaedist.files import display_path

FORMAT = 1
GIGA = 1e9
WORKERS = "workers: "  # before their number, as the name of a measure


@dataclass(frozen=True)
class Measure:
    """One thing that was measured some times.

    Attributes:
        unit: of the samples, as in "images/s".
        samples: one a round.
    """

    unit: str
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the samples."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """From the least to the most, as a share of the median."""
        return (max(self.samples) - min(self.samples)) / self.median


@dataclass(frozen=True)
class Record:
    """All of one benchmark.

    Attributes:
        machine: processor, threads, devices and versions, by name.
        job: its name and what its speed depends on, by key.
        counts: what was counted, not timed: parameters, floating-point operations and bytes, by name.
        measures: what was timed, by name.
    """

    machine: dict[str, str]
    job: dict[str, Any]
    counts: dict[str, int]
    measures: dict[str, Measure]

    @property
    def seconds_a_step(self) -> dict[str, float]:
        """What a step takes, and what its parts take alone: "step", "products", "update", "memory" and "input"."""
        images = self.counts["images a step"]
        return {
            "step": images / self.measures["step"].median,
            "products": self.counts["flops a step"] / GIGA / self.measures["products"].median,
            "update": 1 / self.measures["update"].median,
            "memory": self.counts["bytes an update"] / GIGA / self.measures["memory"].median,
            "input": images / self.measures["input"].median,
        }

    @property
    def share_of_limit(self) -> float:
        """The time that the products, and the update's way through memory, take alone, over that of the step."""
        seconds = self.seconds_a_step
        return (seconds["products"] + seconds["memory"]) / seconds["step"]

    @property
    def scaling(self) -> dict[int, Measure]:
        """Images a second of training, by the number of workers."""
        found = ((name.partition(WORKERS), measure) for name, measure in self.measures.items())
        return {int(count): measure for (_, prefix, count), measure in found if prefix}

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """The record that `to_json` wrote.

        Raises:
            ValueError: it is none; the message says why.
        """
        found = json.loads(text)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"not a benchmark of format {FORMAT}")
        try:
            measures = {
                str(name): Measure(str(each["unit"]), tuple(float(sample) for sample in each["samples"]))
                for name, each in found["measures"].items()
            }
            record = cls(dict(found["machine"]), dict(found["job"]), dict(found["counts"]), measures)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a benchmark: {error!r}") from error
        if any(not measure.samples for measure in measures.values()):
            raise ValueError("a measure without samples")
        return record


def read_record(path: Path) -> Record:
    """A benchmark that was kept.

    Raises:
        ConfigError: there is none.
    """
    try:
        return Record.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{display_path(path)} holds no benchmark that `vaedist bench` has written: {reason}"
        ) from error


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Which entries differ, each as `key: old, now new`."""
    keys = dict.fromkeys([*old, *new])
    told = [(key, old.get(key, "not told"), new.get(key, "not told")) for key in keys]
    return [f"{key}: {before}, now {now}" for key, before, now in told if before != now]


def ratio(new: Sequence[float], old: Sequence[float]) -> tuple[float, bool]:
    """Median over median, and whether the two sets of samples lie apart: none of one is within the other's range."""
    apart = min(new) > max(old) or max(new) < min(old)
    return statistics.median(new) / statistics.median(old), apart
