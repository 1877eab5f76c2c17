"""Sweeps on disk, with runs whose metrics are written as in training."""

import pytest

from vaedist.config import Sweep
from vaedist.monitor.metrics import MetricsLog
from vaedist.sweeps import SweepFolder, TrialLog

SPACE = {"model.flow.depth": {"choice": [0, 1, 2]}, "model.latent": {"choice": [16, 32]}}
STEPS = 100  # per epoch


class Written:
    """A sweep's folder and its log, with a method that adds complete trials."""

    def __init__(self, path, space, *, epochs=4, tune=(), **sections):
        self.sweep = Sweep.from_dict(
            {
                "run": {"name": "tune", "folder": str(path)},
                "training": {"epochs": epochs, "global_batch": 10},
                "tune": {"space": space, **dict(tune)},
                **sections,
            }
        )
        self.folder = SweepFolder.of(self.sweep)
        self.folder.path.mkdir(parents=True)
        self.folder.sweep.write_text(self.sweep.to_toml(), encoding="utf-8")
        self.log = TrialLog.open(self.folder)

    def trial(self, values, elbos=(), state="finished", reason="", split="test", **others):
        """Adds a trial with these values of the keys, in order, and these scores after its epochs."""
        number = len(self.log.trials)
        self.log.add(number, dict(zip(self.sweep.tune.space, values, strict=True)))
        if elbos:
            trial = self.log.set(number, "running")
            metrics = MetricsLog(trial.run.metrics, resume_step=None)
            for epoch, elbo in enumerate(elbos, start=1):
                step = epoch * STEPS
                metrics.append("train", epoch, step, {"elbo": elbo + 5, "reconstruction": elbo + 25, "kl": 20.0})
                more = {name: scores[epoch - 1] for name, scores in others.items()}
                row = {"elbo": elbo, "reconstruction": elbo + 20, "kl": 20.0, **more, "train_elbo": elbo + 5}
                metrics.append(split, epoch, step, {**row, "best": elbo == max(elbos[:epoch])})
            metrics.close()
        if state not in ("open", "running"):
            self.log.set(number, state, reason)
        return self.log.trials[number]


@pytest.fixture
def written(tmp_path):
    """Makes a sweep's folder."""

    def make(space=SPACE, **kwargs):
        return Written(tmp_path / "sweeps", space, **kwargs)

    return make


@pytest.fixture
def mixed(written):
    """Returns a sweep of seven trials in all final states; the best is number 2."""
    sweep = written(tune={"samples": 8})
    sweep.trial((0, 16), (-120.0, -110.0, -108.0, -109.0))
    sweep.trial((1, 16), (-118.0,), "stopped")
    sweep.trial((2, 32), (-115.0, -104.0, -101.0, -102.0))
    sweep.trial((2, 16), (-116.0, -105.0), "stopped")
    sweep.trial((1, 32), (-9e6,), "failed", "loss became NaN | at step 130\nof 400")
    sweep.trial((0, 32), (-119.0, -109.5), "running")
    sweep.trial((1, 16), (), "open")
    return sweep
