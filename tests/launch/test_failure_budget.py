"""Failure budgets."""

from hypothesis import given
from hypothesis import strategies as st

from vaedist.launch.training.failure_budget import FailureBudget

HOUR = 3600.0


def spent(budget, failures):
    """Returns the first error message for failures given as (time, newest checkpoint), with its index."""
    for index, (now, checkpoint) in enumerate(failures):
        if fault := budget.fault(now, checkpoint):
            return index, fault
    return None


def test_a_run_of_weeks_survives_a_machine_lost_every_six_hours():
    failures = [(6 * HOUR * day, 1000 * day) for day in range(200)]
    assert spent(FailureBudget(3, 1.0), failures) is None
    assert spent(FailureBudget(3, 0), failures)[0] == 3  # the window that counts all failures


def test_failures_in_quick_succession_end_the_run_and_the_message_has_the_time():
    failures = [(60.0 * minute, 100 * minute) for minute in (0, 5, 30, 45)]
    assert spent(FailureBudget(3, 1.0), failures) == (
        3, "the workers failed 4 times within 45 min; scaling.max_failures = 3 in scaling.failure_window_hours = 1",
    )  # fmt: skip


def test_a_run_without_progress_ends_however_slowly_it_fails():
    failures = [(2 * HOUR * hour, 500) for hour in range(10)]
    index, fault = spent(FailureBudget(3, 1.0), failures)
    assert index == 3
    assert "4 times within 6 h" in fault
    assert spent(FailureBudget(3, 1.0), [(2 * HOUR * hour, None) for hour in range(10)])[0] == 3


def test_old_failures_expire_after_a_checkpoint():
    budget = FailureBudget(1, 1.0)
    assert budget.fault(0.0, 100) is None
    assert budget.fault(2 * HOUR, 200) is None
    assert "2 times within" in budget.fault(2.5 * HOUR, 300)


def test_a_budget_of_0_allows_no_failure():
    fault = FailureBudget(0, 1.0).fault(7.0, None)
    assert fault.startswith("the workers failed once; scaling.max_failures = 0")


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.integers(0, 5), st.floats(0.01, 100))
def test_with_progress_the_run_ends_exactly_if_too_many_failures_lie_in_one_window(gaps, most, hours):
    times = [sum(gaps[: index + 1]) for index in range(len(gaps))]
    found = spent(FailureBudget(most, hours), [(time, step) for step, time in enumerate(times)])
    crowded = [
        index
        for index, time in enumerate(times)
        if sum(time - other < hours * HOUR for other in times[: index + 1]) > most
    ]
    assert (found[0] if found else None) == (crowded[0] if crowded else None)
