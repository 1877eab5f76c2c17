"""Scores and costs of a sweep's trials, and the importance of each parameter."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vaedist.config import Dimension, Sweep, Value, told
from vaedist.sweeps.trial import Epoch, Trial

FEWEST_TRIALS = 3  # needed for an importance
QUANTILES = 5


class Metric(NamedTuple):
    """Title, unit and number of decimals of a metric in reports."""

    title: str
    unit: str
    decimals: int


TOLD = {
    "elbo": Metric("ELBO", "nats per image", 2),
    "importance_bound": Metric("importance-weighted bound", "nats per image", 2),
    "bits_per_dim": Metric("bits/dim", "bits a dimension", 4),
}


@dataclass(frozen=True, eq=False)
class Outcome:
    """Scores and costs of a trial.

    Attributes:
        trial: the trial.
        metric: the metric that the sweep optimises.
        best: epoch with the best value of the metric; None if no epoch has one.
        images: number of images seen in training, the number of steps times global_batch.
        planned_steps: number of steps of all epochs.
        planned_images: number of images of all epochs.
    """

    trial: Trial
    metric: str
    best: Epoch | None
    images: int
    planned_steps: int
    planned_images: int

    @property
    def params(self) -> Mapping[str, Value]:
        """Values of the varied keys."""
        return self.trial.params

    @property
    def epochs(self) -> int:
        """Number of completed epochs."""
        return self.trial.epochs[-1].epoch if self.trial.epochs else 0

    @property
    def steps(self) -> int:
        """Number of steps of the completed epochs."""
        return self.trial.epochs[-1].step if self.trial.epochs else 0

    @property
    def score(self) -> float:
        """Metric at the best epoch; NaN if there is none."""
        return math.nan if self.best is None else getattr(self.best, self.metric)

    @property
    def last(self) -> float | None:
        """Metric after the last epoch; None if no epoch was completed."""
        return getattr(self.trial.epochs[-1], self.metric) if self.trial.epochs else None

    def at(self, epoch: int) -> float | None:
        """Returns the metric after an epoch; None if the epoch was not completed."""
        return next((getattr(made, self.metric) for made in self.trial.epochs if made.epoch == epoch), None)


def split_of(found: Iterable[Outcome]) -> str:
    """Returns the split that the trials were scored on, "validation" or "test"; both if the data set was changed."""
    return " and ".join(sorted({one.trial.split for one in found if one.trial.split}))


def title_of(metric: str, split: str) -> str:
    """Returns the title of a metric of a split."""
    return f"{split} {TOLD[metric].title}".strip()


def outcomes(sweep: Sweep, trials: Sequence[Trial]) -> list[Outcome]:
    """Returns the outcome of each trial."""
    return [_outcome(sweep, trial) for trial in trials]


def _outcome(sweep: Sweep, trial: Trial) -> Outcome:
    metric = sweep.tune.metric
    best = trial.best_epoch(metric, sweep.tune.mode)
    if not trial.epochs:
        return Outcome(trial, metric, best, 0, 0, 0)
    training, last = sweep.experiment(trial.params).training, trial.epochs[-1]
    planned = round(last.step / last.epoch * max(training.epochs, last.epoch))
    return Outcome(trial, metric, best, last.step * training.global_batch, planned, planned * training.global_batch)


def ranked(sweep: Sweep, found: Sequence[Outcome]) -> list[Outcome]:
    """Returns the outcomes that have a score, the best first; ties are in the order of the trials."""
    sign = -1 if sweep.tune.mode == "max" else 1
    return sorted((one for one in found if one.best is not None), key=lambda one: sign * one.score)


def counts(found: Sequence[Outcome]) -> dict[str, int]:
    """Counts trials by their final state; all others are open."""
    states = Counter(one.trial.state for one in found)
    ended = {state: states[state] for state in ("finished", "stopped", "failed")}
    return {**ended, "open": len(found) - sum(ended.values())}


def score_of(metric: str, value: float | None) -> str:
    """Returns a value of a metric as text, "-" for None."""
    return "-" if value is None else f"{value:.{TOLD[metric].decimals}f}"


def worst_of_most(scores: Sequence[float] | np.ndarray, mode: str) -> float:
    """Returns the worst score of the trials that did not diverge.

    A trial counts as diverged if its distance from the best score is more than 6 times that of the quartile on the
    worse side, and more than 3 % of the best score (30 % / n for n < 10 scores). With two scores, none is diverged.
    """
    sign = 1 if mode == "max" else -1
    signed = np.sort(sign * np.asarray(scores, dtype=float))
    if len(signed) < 3:
        return sign * float(signed[0])
    best, quartile = signed[-1], np.quantile(signed, 0.25, method="higher")
    limit = best - max(6 * (best - quartile), max(0.03, 0.3 / len(signed)) * abs(best))
    return sign * float(signed[signed >= limit][0])


@dataclass(frozen=True)
class Group:
    """Trials with the same value of a parameter, or with values in one range.

    Attributes:
        label: the value, or the lowest and highest value.
        members: the trials, at least one.
    """

    label: str
    members: tuple[Outcome, ...]


def by_value(key: str, dimension: Dimension, found: Sequence[Outcome]) -> list[Group]:
    """Returns a group for each value that occurs; numbers are in ascending order, others in the order of the sweep."""
    values = list(dict.fromkeys(one.params[key] for one in found))
    values.sort(key=(lambda value: value) if numeric(dimension) else list(dimension.values or ()).index)
    return [Group(told(value), tuple(one for one in found if one.params[key] == value)) for value in values]


def by_quantile(key: str, dimension: Dimension, found: Sequence[Outcome], most: int = QUANTILES) -> list[Group]:
    """Returns at most `most` quantile groups of about equal size, or a group for each value if there are few values."""
    if len({one.params[key] for one in found}) <= most:
        return by_value(key, dimension, found)
    values = np.array([one.params[key] for one in found], dtype=float)
    places = np.searchsorted(np.quantile(values, np.linspace(0, 1, most + 1)[1:-1]), values, side="left")
    groups = []
    for place in np.unique(places):
        members = tuple(one for one, its in zip(found, places, strict=True) if its == place)
        ends = [told(pick(one.params[key] for one in members)) for pick in (min, max)]
        groups.append(Group(" to ".join(dict.fromkeys(ends)), members))
    return groups


def groups_of(key: str, dimension: Dimension, found: Sequence[Outcome]) -> list[Group]:
    """Returns groups by value, or for a range up to five quantile groups with two or more trials each."""
    if dimension.values is not None:
        return by_value(key, dimension, found)
    return by_quantile(key, dimension, found, max(2, min(QUANTILES, len(found) // 2)))


def numeric(dimension: Dimension) -> bool:
    """Returns True if all values of a dimension are numbers."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in dimension.extremes)


@dataclass(frozen=True)
class Importance:
    """Share of a metric's variance that a parameter explains.

    Attributes:
        eta_squared: correlation ratio, 0 to 1; None if there are too few trials or groups.
        by_chance: expected value for a parameter without effect.
        groups: number of groups of trials.
        best: label of the group with the best mean.
    """

    eta_squared: float | None
    by_chance: float | None
    groups: int
    best: str


def compared_epoch(found: Sequence[Outcome]) -> int | None:
    """Returns the last epoch that all finished and stopped trials completed, or all trials if none has ended.

    It allows to compare all trials after the same number of epochs, whether or not they were stopped early. A trial
    that failed before is left out, so that it does not move the comparison to an early epoch.
    """
    made = [one for one in found if one.epochs]
    ended = [one for one in made if one.trial.state in ("finished", "stopped")]
    return min((one.epochs for one in ended or made), default=None)


def importance(sweep: Sweep, key: str, found: Sequence[Outcome]) -> Importance:
    """Computes the correlation ratio of a parameter and the metric at `compared_epoch`.

    eta^2 = sum_g n_g (mean_g - mean)^2 / sum_i (y_i - mean)^2, with a group g for each value, or each quantile of a
    range (`groups_of`). For n trials in k groups and a parameter without effect, its expected value is
    (k - 1) / (n - 1). Scores of diverged trials are replaced by the worst of the others (`worst_of_most`), as they
    would otherwise dominate the variance.
    """
    epoch = compared_epoch(found)
    scores = {one.trial.number: value for one in found if epoch and (value := one.at(epoch)) is not None}
    groups = groups_of(key, sweep.tune.space[key], [one for one in found if one.trial.number in scores])
    count = len(scores)
    if count < FEWEST_TRIALS or not 1 < len(groups) < count:
        return Importance(None, None, len(groups), "")
    worst = worst_of_most(list(scores.values()), sweep.tune.mode)
    clip = np.maximum if sweep.tune.mode == "max" else np.minimum
    parts = [clip([scores[one.trial.number] for one in group.members], worst) for group in groups]
    y = np.concatenate(parts)
    if np.ptp(y) == 0:
        return Importance(None, None, len(groups), "")
    means = [part.mean() for part in parts]
    between = sum(len(part) * (mean - y.mean()) ** 2 for part, mean in zip(parts, means, strict=True))
    best = int(np.argmax(means) if sweep.tune.mode == "max" else np.argmin(means))
    eta_squared = float(between / np.sum((y - y.mean()) ** 2))
    return Importance(min(eta_squared, 1.0), (len(groups) - 1) / (count - 1), len(groups), groups[best].label)


def importances(sweep: Sweep, found: Sequence[Outcome]) -> dict[str, Importance]:
    """Computes the importance of each parameter, most important first."""
    all_of_them = {key: importance(sweep, key, found) for key in sweep.tune.space}
    return dict(sorted(all_of_them.items(), key=lambda item: -(item[1].eta_squared or 0.0)))
