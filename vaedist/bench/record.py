"""Records of benchmarks, with the samples of each measure, to be saved, shown and compared."""

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
WORKERS = "workers: "  # prefix of a measure's name, followed by the number of workers


@dataclass(frozen=True)
class Measure:
    """Samples of one quantity.

    Attributes:
        unit: unit of the samples, such as "images/s".
        samples: one sample per round.
    """

    unit: str
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Range of the samples, divided by their median."""
        return (max(self.samples) - min(self.samples)) / self.median


@dataclass(frozen=True)
class Record:
    """Record of a benchmark.

    Attributes:
        machine: processor, threads, devices and versions, by name.
        job: the settings that the speed depends on, by key.
        counts: numbers that are counted and not timed, by name: parameters, matrix products, convolutions,
            floating-point operations of both, bytes.
        measures: timed quantities, by name.
    """

    machine: dict[str, str]
    job: dict[str, Any]
    counts: dict[str, int]
    measures: dict[str, Measure]

    @property
    def seconds_a_step(self) -> dict[str, float]:
        """Seconds of a step, and of its parts when run alone: "step", "products", "update", "memory" and "input"."""
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
        """Time of the matrix products and the memory traffic of the update alone, divided by that of the step.

        Convolutions count as matrix products, see `Convolution.product`.
        """
        seconds = self.seconds_a_step
        return (seconds["products"] + seconds["memory"]) / seconds["step"]

    @property
    def scaling(self) -> dict[int, Measure]:
        """Images per second of training, by number of workers."""
        found = ((name.partition(WORKERS), measure) for name, measure in self.measures.items())
        return {int(count): measure for (_, prefix, count), measure in found if prefix}

    def to_json(self) -> str:
        """Returns the record as JSON, which `from_json` reads."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """Returns the record that `to_json` wrote.

        Raises:
            ValueError: the text is not a record; the message says why.
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
    """Reads the record of a benchmark from a file.

    Raises:
        ConfigError: the file cannot be read or holds no record.
    """
    try:
        return Record.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{display_path(path)} holds no benchmark that `vaedist bench` has written: {reason}"
        ) from error


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns the entries that differ, each as `key: old, now new`."""
    keys = dict.fromkeys([*old, *new])
    told = [(key, old.get(key, "unknown"), new.get(key, "unknown")) for key in keys]
    return [f"{key}: {before}, now {now}" for key, before, now in told if before != now]


def ratio(new: Sequence[float], old: Sequence[float]) -> tuple[float, bool]:
    """Returns the ratio of the medians, and True if the ranges of the two sets of samples do not overlap."""
    apart = min(new) > max(old) or max(new) < min(old)
    return statistics.median(new) / statistics.median(old), apart
