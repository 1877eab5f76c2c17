"""Which trials a sweep makes, told to Ray Tune: those that are to be gone on with, then new ones."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, Self

from ray.tune.search import Searcher

from vaedist.config import Dimension, Sweep, Value
from vaedist.errors import ConfigError
from vaedist.sweeps import Trial, TrialLog


class Proposer(Protocol):
    """Says what new trials are."""

    def propose(self, number: int) -> dict[str, Value]:
        """The parameters of trial `number`."""
        ...

    def learn(self, number: int, params: Mapping[str, Value], score: float | None) -> None:
        """How a trial ended; None where it has no score."""
        ...


class Drawn:
    """A grid's trials, or random ones: a matter of their numbers alone."""

    def __init__(self, sweep: Sweep) -> None:
        self.propose = sweep.drawn

    def learn(self, number: int, params: Mapping[str, Value], score: float | None) -> None:
        """Nothing is learnt."""


class TreeParzen:
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

    Trials that run beside it count as bad ones, so that it does not propose the same twice; after a restart it learns
    anew from all that ended.

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
        """Ask the study."""
        study = self._ready(number)
        asked = self._asked[number] = study.ask(self._distributions)
        return {
            key: dimension.values[asked.params[key]]
            if dimension.values is not None
            else dimension.quantised(asked.params[key])
            for key, dimension in self._space.items()
        }

    def learn(self, number: int, params: Mapping[str, Value], score: float | None) -> None:
        """Tell the study; before it is asked for the first time, keep in mind."""
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
        """A trial that the study was not asked for."""
        known = {
            key: dimension.values.index(params[key]) if dimension.values is not None else params[key]
            for key, dimension in self._space.items()
        }
        self._study.add_trial(
            self._optuna.trial.create_trial(params=known, distributions=self._distributions, value=score)
        )

    def _distribution(self, dimension: Dimension) -> Any:
        made = self._optuna.distributions
        if dimension.values is not None:  # by their place: Optuna takes True for 1
            return made.CategoricalDistribution(range(len(dimension.values)))
        low, high = dimension.bounds
        if dimension.randint is not None:
            return made.IntDistribution(int(low), int(high))
        return made.FloatDistribution(low, high, log=dimension.loguniform is not None)


def make_proposer(sweep: Sweep) -> Proposer:
    """The proposer that a sweep asks for."""
    return TreeParzen(sweep) if sweep.tune.search == "optuna" else Drawn(sweep)


class Unpickled:
    """What Ray Tune pickles as nothing, for it is never read again: a sweep goes on from its own log."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class TrialSearch(Unpickled, Searcher):
    """Ray Tune's way to ask for trials.

    Args:
        sweep: how many there are to be.
        log: where a new trial is written down before it begins.
        proposer: of new ones.
        again: trials that are to be gone on with.
    """

    def __init__(self, sweep: Sweep, log: TrialLog, proposer: Proposer, again: Iterable[Trial]) -> None:
        super().__init__(metric=sweep.tune.metric, mode=sweep.tune.mode)
        self._sweep, self._log, self._proposer = sweep, log, proposer
        self._again = deque(again)
        self.left = len(self._again) + max(0, sweep.trials - len(log.trials))

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial, as Tune's configuration."""
        if self._again:
            trial = self._again.popleft()
        elif (number := len(self._log.trials)) < self._sweep.trials:
            trial = self._log.add(number, self._proposer.propose(number))
        else:
            return Searcher.FINISHED
        return {"trial": trial.number, "params": dict(trial.params), "run": trial.name}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The proposer learns from the sweep's own log instead."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept here: the sweep's log tells all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was kept."""
