"""Tasks alternate, and are repeated until a round is long enough."""

import time

from vaedist.bench import tasks
from vaedist.bench.tasks import Task, in_turn


def test_tasks_take_turns(monkeypatch):
    monkeypatch.setattr(tasks, "ROUND_SECONDS", 0.05)
    done = []

    def doing(name, seconds):
        return lambda: (done.append(name), time.sleep(seconds))

    found = in_turn({"slow": Task(doing("slow", 0.05), 3, "a/s"), "fast": Task(doing("fast", 0.005), 1, "b/s")}, 3)
    turns = [name for name, before in zip(done[1:], done, strict=False) if name != before]
    assert turns == ["fast", "slow", "fast", "slow", "fast", "slow", "fast"]
    assert done.count("fast") > done.count("slow")
    assert {name: (measure.unit, len(measure.samples)) for name, measure in found.items()} == {
        "slow": ("a/s", 3), "fast": ("b/s", 3)
    }  # fmt: skip
    assert all(0 < sample <= 60 for sample in found["slow"].samples)  # 3 in at least 0.05 s
