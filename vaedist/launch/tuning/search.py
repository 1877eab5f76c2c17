"""Search algorithms of a sweep, and their adapter for Ray Tune: trials to resume first, then new ones."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, Self

from ray.tune.search import Searcher

from vaedist.config import Dimension, Sweep, Value
from vaedist.errors import ConfigError
from vaedist.sweeps import Trial, TrialLog


class Proposer(Protocol):
    """Search algorithm: proposes the parameters of new trials."""

    def propose(self, number: int) -> dict[str, Value]:
        """Returns the parameters of trial `number`."""
        ...

    def learn(self, number: int, params: Mapping[str, Value], score: float | None) -> None:
        """Takes the score of a trial that has ended; None if it has no score."""
        ...


class Drawn:
    """Grid or random search, in which the parameters of a trial depend only on its number."""

    def __init__(self, sweep: Sweep) -> None:
        self.propose = sweep.drawn

    def learn(self, number: int, params: Mapping[str, Value], score: float | None) -> None:
        """Ignores the score."""


class TreeParzen:
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

    Running trials count as bad ones, so that it does not propose the same parameters twice. When a sweep is resumed, it
    learns from all trials that have ended.

    Raises:
        ConfigError: Optuna is not installed.
    """

    def __init__(self, sweep: Sweep) -> None:
        try:
            import optuna
        except ImportError:
            raise ConfigError(
                "tune.search = 'optuna' needs Optuna, which is not installed: pip install 'vaedist[optuna]'"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._space = optuna, sweep.tune.space
        self._distributions = {key: self._distribution(dimension) for key, dimension in self._space.items()}
        self._direction = "maximize" if sweep.tune.mode == "max" else "minimize"
        self._seed = sweep.tune.seed
        self._study: Any = None
        self._past: list[tuple[Mapping[str, Value], float]] = []
        self._asked: dict[int, Any] = {}

    def propose(self, number: int) -> dict[str, Value]:
        """Returns the parameters that the study proposes."""
        study = self._ready(number)
        asked = self._asked[number] = study.ask(self._distributions)
        return {
            key: dimension.values[asked.params[key]]
            if dimension.values is not None
            else dimension.quantised(asked.params[key])
            for key, dimension in self._space.items()
        }

    def learn(self, number: int, params: Mapping[str, Value], score: float | None) -> None:
        """Adds the score to the study, or keeps it until the study is created by the first proposal."""
        if self._study is None:
            if score is not None:
                self._past.append((params, score))
        elif number in self._asked:
            states = self._optuna.trial.TrialState
            state = states.FAIL if score is None else states.COMPLETE
            self._study.tell(self._asked.pop(number), score, state=state)
        elif score is not None:
            self._add(params, score)

    def _ready(self, number: int) -> Any:
        if self._study is None:
            sampler = self._optuna.samplers.TPESampler(seed=self._seed + number, constant_liar=True, multivariate=True)
            self._study = self._optuna.create_study(direction=self._direction, sampler=sampler)
            for params, score in self._past:
                self._add(params, score)
        return self._study

    def _add(self, params: Mapping[str, Value], score: float) -> None:
        """Adds a trial that the study did not propose."""
        known = {
            key: dimension.values.index(params[key]) if dimension.values is not None else params[key]
            for key, dimension in self._space.items()
        }
        self._study.add_trial(
            self._optuna.trial.create_trial(params=known, distributions=self._distributions, value=score)
        )

    def _distribution(self, dimension: Dimension) -> Any:
        made = self._optuna.distributions
        if dimension.values is not None:  # by index, as Optuna does not distinguish True and 1
            return made.CategoricalDistribution(range(len(dimension.values)))
        low, high = dimension.bounds
        if dimension.randint is not None:
            return made.IntDistribution(int(low), int(high))
        return made.FloatDistribution(low, high, log=dimension.loguniform is not None)


def make_proposer(sweep: Sweep) -> Proposer:
    """Returns the search algorithm of a sweep."""
    return TreeParzen(sweep) if sweep.tune.search == "optuna" else Drawn(sweep)


class Unpickled:
    """Object that Ray Tune does not pickle; Ray's pickles are not used, as a sweep is resumed from its own log."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class TrialSearch(Unpickled, Searcher):
    """Adapter of a search algorithm for Ray Tune.

    Args:
        sweep: the sweep.
        log: log of its trials; a new trial is added to it before it starts.
        proposer: search algorithm for new trials.
        again: trials to resume.
    """

    def __init__(self, sweep: Sweep, log: TrialLog, proposer: Proposer, again: Iterable[Trial]) -> None:
        super().__init__(metric=sweep.tune.metric, mode=sweep.tune.mode)
        self._sweep, self._log, self._proposer = sweep, log, proposer
        self._again = deque(again)
        self.left = len(self._again) + max(0, sweep.trials - len(log.trials))

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Returns the configuration of the next trial."""
        if self._again:
            trial = self._again.popleft()
        elif (number := len(self._log.trials)) < self._sweep.trials:
            trial = self._log.add(number, self._proposer.propose(number))
        else:
            return Searcher.FINISHED
        return {"trial": trial.number, "params": dict(trial.params), "run": trial.name}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ignores the result: `SweepMonitor` tells the search algorithm."""

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing, as the sweep's log has everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing."""
