"""The processes of a command's own Ray end: the command says so, and its run can be resumed."""

import signal

import psutil
import pytest

from vaedist.launch.logs import RESUMABLE
from vaedist.runs.checkpoint_store import CheckpointStore


@pytest.mark.parametrize(
    ("name", "number"), [("raylet", signal.SIGTERM), ("raylet", signal.SIGKILL), ("gcs_server", signal.SIGKILL)]
)
def test_a_command_that_loses_its_ray_says_so_and_can_be_resumed(
    make_experiment, training, tmp_path, monkeypatch, name, number
):
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "10")  # patience of a command is for longer
    experiment = make_experiment(tmp_path / "runs").with_overrides(
        "run.name=lost", "checkpoint.every_steps=20", "training.epochs=100000"
    )
    begun = training(experiment)
    begun.wait_for_step(200)  # by then there is a checkpoint
    mine = psutil.Process(begun.process.pid).children(recursive=True)
    (lost,) = [process for process in mine if process.name() == name]
    workers = [process for process in mine if process.name().startswith("ray::RayTrainWorker")]
    assert workers
    lost.send_signal(number)
    *_, message = begun.end(code=1).splitlines()
    assert message.startswith("error: ")
    assert f"see {begun.run.logs / 'ray.log'}; {RESUMABLE}" in message
    _, left = psutil.wait_procs(workers, timeout=30)  # they may save checkpoints for some seconds longer
    assert not [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    epochs = CheckpointStore(begun.run).newest().position.step // 100 + 1
    resumed = training(experiment.with_overrides(f"training.epochs={epochs}"), "--resume")
    resumed.end()
    resumed.check_whole()
