"""Ten commands started at once on one machine, each with its own Ray."""

import tempfile
from pathlib import Path

import psutil
import pytest
from command import start

from vaedist.config import Sweep
from vaedist.monitor.metrics import read_metrics
from vaedist.runs.checkpoint_store import CheckpointStore
from vaedist.runs.folder import RunFolder
from vaedist.sweeps import SweepFolder

TRAININGS, SWEEPS = 8, 2
SECONDS = 1500  # ten Ray clusters of a dozen processes each start, on few CPUs


def listening():
    """Returns the ports on which processes of this machine listen."""
    return {one.laddr.port for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN}


def left_behind():
    """Returns the temporary files of vaedist and Ray, without the folder of Ray's session logs."""
    names = {path.name for path in Path(tempfile.gettempdir()).iterdir()}
    return {name for name in names if name.startswith(("ray", "vaedist"))} - {"ray"}


@pytest.mark.timeout(SECONDS + 300)
def test_ten_commands_at_once_do_not_meet(make_experiment, tmp_path):
    short = make_experiment(tmp_path / "runs").with_overrides("training.epochs=1", "scaling.cpus_per_worker=1")
    ports = listening()
    temporary = left_behind()
    commands = {}
    for number in range(TRAININGS):
        experiment = short.with_overrides(f"run.name=train-{number}", f"seed={number}")
        (tmp_path / f"train-{number}.toml").write_text(experiment.to_toml())
        commands[RunFolder.of(experiment)] = start("train", tmp_path / f"train-{number}.toml")
    for number in range(SWEEPS):
        tables = short.with_overrides(f"run.name=sweep-{number}", f"seed={100 + number}").model_dump()
        space = {"model.flow.depth": {"grid": [0, 1]}}
        sweep = Sweep.from_dict(tables | {"tune": {"search": "grid", "scheduler": "none", "space": space}})
        (tmp_path / f"sweep-{number}.toml").write_text(sweep.to_toml())
        commands[SweepFolder.of(sweep)] = start("tune", tmp_path / f"sweep-{number}.toml")
    said = {folder.name: command.communicate(timeout=SECONDS) for folder, command in commands.items()}
    for folder, command in commands.items():
        assert command.returncode == 0, said[folder.name]
    assert {path.name for path in (tmp_path / "runs").iterdir()} == set(said)
    scores = []
    for folder in commands:
        runs = [folder] if isinstance(folder, RunFolder) else [trial.run for trial in folder.read_trials()]
        assert len(runs) == (1 if isinstance(folder, RunFolder) else 2)
        for run in runs:
            rows = read_metrics(run.metrics)
            assert [row["step"] for row in rows] == [*range(5, 101, 5), 100]
            assert CheckpointStore(run).newest(pytest.fail).position.step == 100
            assert run.read_experiment().run.name == run.name
            scores.append(rows[-1]["elbo"])
    assert len(set(scores)) == len(scores)  # each with another seed
    assert not left_behind() - temporary
    assert not listening() - ports
