"""Signals that stop a sweep, without Ray."""

import os
import signal

import pytest

from vaedist.config import Sweep
from vaedist.launch.tuning.monitor import SweepMonitor
from vaedist.launch.tuning.search import Drawn
from vaedist.sweeps import SweepFolder, TrialLog


@pytest.fixture
def monitor(tmp_path):
    tables = {"run": {"name": "sweep", "folder": str(tmp_path)}, "tune": {"space": {"model.latent": {"grid": [2, 4]}}}}
    sweep = Sweep.from_dict(tables)
    return SweepMonitor(sweep, TrialLog(SweepFolder.of(sweep)), Drawn(sweep), lambda _: None)


@pytest.fixture(params=[signal.SIG_DFL, signal.SIG_IGN], ids=["usual", "nohup"])
def hang_up(request):
    before = signal.signal(signal.SIGHUP, request.param)
    yield request.param
    assert signal.getsignal(signal.SIGHUP) == request.param, "it was to be put back"
    signal.signal(signal.SIGHUP, before)


def send(number):
    os.kill(os.getpid(), number)


def test_a_lost_terminal_stops_a_sweep_but_only_once(monitor, hang_up):
    waited = False
    with monitor.interruptible():
        send(signal.SIGHUP)
        assert monitor.stopper().stop_all() is (hang_up is not signal.SIG_IGN)
        send(signal.SIGTERM)
        waited = True
    assert monitor.stopper().stop_all()
    assert waited is (hang_up is signal.SIG_IGN), "a second signal that is not of the terminal does not wait"


def test_sighup_after_ctrl_c_does_not_count_as_a_second_ctrl_c(monitor):
    with monitor.interruptible():
        send(signal.SIGINT)
        send(signal.SIGHUP)
        send(signal.SIGHUP)
        waited = True
    assert waited
    assert monitor.stopper().stop_all()
