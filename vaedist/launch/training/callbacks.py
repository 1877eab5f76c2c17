"""A run's group of workers is ended and another one is started: told to the user, and with no step lost needlessly.

Ray Train loads this module into the process of a run's controller, where some of Ray's own ways have to be mended.
"""

import time
from contextlib import suppress
from typing import Any

import ray
from ray._private import state
from ray.train.v2._internal.callbacks import placement_group_callback
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller import placement_group_cleaner
from ray.train.v2._internal.execution.controller.state import (
    ReschedulingState,
    ResizingState,
    RestartingState,
    TrainControllerState,
)
from ray.train.v2._internal.execution.scaling_policy import autoscaling_coordinator_client
from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError

from vaedist.errors import WorkerError
from vaedist.launch.training.failure_budget import FailureBudget

# A run tells Ray every 20 s which places it wants. When it died without a word, these count as taken until the last of
# it expires, so that an elastic run, the same one resumed above all, finds no room: by Ray's own setting for 180 s. It
# has to be set in the process of the controller, before that starts to speak: where this module is loaded.
PLACES_SECONDS = 60
autoscaling_coordinator_client.AUTOSCALING_REQUESTS_EXPIRE_TIME_S = PLACES_SECONDS

ANSWER_SECONDS = 10.0  # for the command to answer
SAVE_SECONDS = 120.0  # for a checkpoint before a resize; without it the next group goes on from the one before


class EndingCleaner(placement_group_cleaner.PlacementGroupCleaner):
    """Frees the places of a run whose controller died, as Ray's own does, and then ends its process.

    Ray's own ends no more than the thread that it watches in: 115 MB on the head for every run that was killed. And it
    asks the dashboard whether the controller lives, which some clusters do not have, and which does not list an actor
    at once: a run that is new would be taken for dead, and watched no longer.
    """

    def _monitor_loop(self) -> None:
        try:
            super()._monitor_loop()
        finally:
            if not self._stop_event.is_set():
                ray.kill(ray.get_runtime_context().current_actor)


def is_actor_alive(actor_id: str, timeout: float) -> bool:
    """Whether Ray's control store, which is asked at once, knows an actor that has not ended; so if it cannot say."""
    try:
        return state.actors(actor_id).get("State", "DEAD") != "DEAD"
    except (ray.exceptions.RayError, RuntimeError):
        return True


placement_group_callback.PlacementGroupCleaner = EndingCleaner
placement_group_cleaner.is_actor_alive = is_actor_alive


class WorkerGroupCallback(ControllerCallback):
    """In a run's controller: tells why a group ends, ends a run that fails too often, and loses no step of a sound one.

    Ray Train's own budget is one number for the whole run, however long; it is told not to count.

    Args:
        channel: the run's.
        budget: of failures; a machine that was announced to go is none.
    """

    def __init__(self, channel: Any, budget: FailureBudget) -> None:
        self._channel, self._budget = channel, budget

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        """Called by Ray Train whenever what it does changes."""
        match current_state:
            case RestartingState(training_failed_error=error) if is_preemption(error):
                self._channel.tell.remote(
                    "the machines that were to be taken away are left: starting again without them"
                )
            case RestartingState(training_failed_error=error):
                reason = last_line(error)
                if fault := self._budget.fault(time.monotonic(), self._checkpoint()):
                    raise WorkerError(f"{fault}; last: {reason}")  # to Ray Train, which ends the run
                self._channel.tell.remote(f"workers failed ({reason}): starting again from the newest checkpoint")
            case ReschedulingState() if not isinstance(previous_state, ReschedulingState):
                self._channel.tell.remote("the cluster has no room for the workers yet: waiting for it")
            case ResizingState():
                count = current_state.scaling_decision.num_workers
                self._channel.tell.remote(f"going on with {count} workers: saving first")
                with suppress(ray.exceptions.RayError):  # it takes too long, or the command is gone
                    ray.get(self._channel.save.remote(), timeout=SAVE_SECONDS)

    def _checkpoint(self) -> int | None:
        """Step of the run's newest checkpoint."""
        with suppress(ray.exceptions.RayError):  # the command is gone, and soon this too
            return ray.get(self._channel.checkpoint.remote(), timeout=ANSWER_SECONDS)
        return None


def is_preemption(error: BaseException) -> bool:
    """Returns True if a group ended because machines were reclaimed, announced to Ray before or known by it since."""
    if isinstance(error, WorkerGroupError):
        deaths = [getattr(failure, "health_check_failure", failure) for failure in error.worker_failures.values()]
        return any(isinstance(death, ray.exceptions.RayActorError) and death.preempted for death in deaths)
    return isinstance(error, PreemptionError)


def last_line(error: BaseException) -> str:
    """The line of a worker's traceback that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
