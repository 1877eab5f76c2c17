"""Times at which a worker saves before a preemption, and failures that then do not count."""

import pytest
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

from vaedist.launch.preemption.notice import Preemption
from vaedist.launch.ray_internals import is_preemption


class Clock:
    """Clock with the deadline of a preemption; it records notices."""

    def __init__(self):
        self.time, self.deadline, self.told, self.behind = 1000.0, None, [], 0.0
        self.preemption = Preemption(
            self.told.append, lambda: self.deadline, lambda: self.time - self.behind, lambda: self.time
        )

    def asked_until(self, end):
        """Returns the times at which saving is requested, polled every second."""
        saved = []
        while self.time <= end:
            saved += [self.time] * self.preemption.save_now()
            self.time += 1
        return saved


def test_nothing_is_saved_without_a_notice():
    clock = Clock()
    assert clock.asked_until(1100) == []
    assert clock.told == []


def test_a_notice_saves_at_once_and_again_just_before_the_deadline():
    clock = Clock()
    clock.asked_until(1005)
    clock.deadline = 1060.0
    assert clock.asked_until(1080) == [1006, 1050]
    assert len(clock.told) == 1
    assert "preempted at " in clock.told[0]


def test_setting_the_clock_does_not_move_the_last_save():
    for behind in (-3600.0, 3600.0):
        clock = Clock()
        clock.deadline = 1060.0
        assert clock.asked_until(1005) == [1000]
        clock.behind = behind
        assert clock.asked_until(1080) == [1050]


def test_a_short_notice_is_saved_once():
    clock = Clock()
    clock.deadline = 1004.0
    assert clock.asked_until(1010) == [1000]


def test_an_unknown_time_is_saved_once():
    clock = Clock()
    clock.deadline = 0.0
    assert clock.asked_until(1100) == [1000]
    assert "preempted: " in clock.told[0]


def test_a_notice_for_another_machine_is_a_new_one():
    clock = Clock()
    clock.deadline = 1060.0
    assert clock.asked_until(1055) == [1000, 1050]
    clock.deadline = 1058.0
    assert clock.asked_until(1100) == [1056]
    assert len(clock.told) == 2


@pytest.mark.parametrize("reclaimed", [True, False])
def test_a_group_on_a_preempted_machine_has_not_failed(reclaimed):
    death = WorkerHealthCheckFailedError("gone", RayActorError(None, "the actor died", preempted=reclaimed))
    assert is_preemption(WorkerGroupError("gone", {0: RuntimeError("the ring broke"), 1: death})) == reclaimed


def test_a_group_that_ended_after_a_notice_has_not_failed():
    assert is_preemption(PreemptionError(PreemptionInfo(deadline_ms=0, preempted_node_to_ranks={}), False))
    assert not is_preemption(RuntimeError("a fault"))
