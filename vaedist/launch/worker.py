"""A Ray Train worker: what the training needs to know of Ray, and what it raises, translated."""

import os
from typing import Any

import ray
import ray.train
from ray.train.collective import broadcast_from_rank_zero

from vaedist.config import Experiment
from vaedist.errors import Interrupted, NonFiniteError, VaedistError
from vaedist.launch.access import require_variables
from vaedist.launch.channel import WorkerLine
from vaedist.launch.fence import GROUP, Fence
from vaedist.launch.preemption import Preemption
from vaedist.launch.proxies import bypass_proxies_among_workers
from vaedist.monitor.events import Notice
from vaedist.training.run_folder import RunFolder


def work(config: dict[str, Any]) -> None:
    """Train as one worker of the group.

    An error that the user has to know is final: starting the workers again would only repeat it. It is reported
    through the channel; the group that Ray Train may start after it ends at once.

    Args:
        config: "experiment" as TOML, the run's place as "run", the "channel", and "threads" to compute with.
    """
    run = RunFolder.at(config["run"])
    group = os.environ[GROUP]
    line = WorkerLine(config["channel"], group)
    fence = Fence(run, group, lambda text: line.notify(Notice(text)))
    if line.given_up():
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    bypass_proxies_among_workers()
    from vaedist.training.worker import Worker, train  # TensorFlow takes seconds, and reads the environment

    context = ray.train.get_context()
    preemption = Preemption(lambda text: line.notify(Notice(text)))
    worker = Worker(
        rank=context.get_world_rank(),
        workers=context.get_world_size(),
        threads=config["threads"],
        notify=line.notify,
        should_stop=line.should_stop,
        should_save=lambda: line.should_save() or preemption.save_now(),
        agree=broadcast_from_rank_zero,
        may_write=fence.check,
    )
    try:
        require_variables()
        train(Experiment.from_toml(config["experiment"]), run, worker)
    except (Interrupted, NonFiniteError) as error:  # of all workers, after the same step; the first one knows most
        if worker.rank == 0:
            line.fail(error)
    except VaedistError as error:  # of this one: the others wait for it, until Ray Train ends them
        line.fail(error)
        raise
    except Exception as error:
        # Not as TensorFlow's: who reads its errors has to import it, and the controller, which only asks whether there
        # is one, would start the next group that much later.
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
