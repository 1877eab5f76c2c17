"""Bad input: one line on stderr, exit code 2, no traceback, and nothing half-written."""

import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from command import refused

pytestmark = pytest.mark.usefixtures("without_ray")

JOB = """
[data]
path = "{data}"

[model]
hidden = 8
latent = 4

[training]
epochs = 1
global_batch = 8
"""


@pytest.fixture
def place(tmp_path, small_dataset):
    """Returns a folder with a job, a data set and no runs."""
    shutil.copytree(small_dataset, tmp_path / "numbers")
    (tmp_path / "job.toml").write_text(JOB.format(data=tmp_path / "numbers"))
    return tmp_path


def test_a_missing_job(place):
    assert refused(place, "train", "jop.toml") == "error: no job file at jop.toml; did you mean job.toml?"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.flow.dept=3", "unknown key 'model.flow.dept'; did you mean 'model.flow.depth'?"),
        ("model.latent=many", "model.latent = 'many': must be a valid integer"),
        ("model.latent=0", "model.latent = 0: must be greater than or equal to 1"),
        ("model.likelihood=poisson", "model.likelihood = 'poisson': must be 'bernoulli', 'continuous_bernoulli'"),
        ("training.global_batch=1.5", "training.global_batch = 1.5: must be a valid integer"),
    ],
)
def test_a_bad_override(place, override, says):
    for command in (("config", "show"), ("train",)):
        assert says in refused(place, *command, "job.toml", "--set", override)


@pytest.mark.parametrize("command", [("train",), ("submit",), ("submit", "--tune", "--resume")])
def test_a_change_of_precision_without_a_run_to_resume(place, command):
    assert "--changed-precision requires --resume" in refused(place, *command, "job.toml", "--changed-precision")


def test_an_unknown_table_in_the_job(place):
    (place / "job.toml").write_text("[modle]\nlatent = 3\n")
    assert refused(place, "train", "job.toml") == "error: job.toml: unknown key 'modle'; did you mean 'model'?"


@pytest.mark.parametrize("command", [("train", "job.toml"), ("bench", "job.toml"), ("cluster", "up")])
def test_a_temporary_folder_that_is_too_deep_for_sockets(place, tmp_path_factory, monkeypatch, command):
    deep = tmp_path_factory.mktemp("deep") / ("d" * 90)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    line = refused(place, *command)
    assert line.startswith(
        f"error: TMPDIR = {deep}: {len(str(deep))} bytes are too long for the Unix sockets that Ray "
    )
    assert line.endswith("set TMPDIR to a shorter path, such as /tmp")
    assert not list(deep.glob("ray*"))


def test_an_address_at_which_something_else_answers(place):
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        line = refused(place, "train", "job.toml", "--address", f"127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()
    assert line.startswith(
        f"error: no Ray head at 127.0.0.1:{server.server_address[1]}: the server there does not speak"
    )


def test_a_missing_data_set(place):
    line = refused(place, "train", "job.toml", "--set", "data.path=nowhere")
    assert line.startswith("error: no data set at ")
    assert "vaedist data prepare" in line


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_shard(place, damage):
    shard = sorted((place / "numbers").glob("train-*.arrow"))[3]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "remove":
        shard.unlink()
    else:
        shard.write_bytes(content if damage == "flip" else content[:-1])
    line = refused(place, "train", "job.toml")
    assert shard.name in line
    assert ("missing" if damage == "remove" else "damaged") in line


def test_more_workers_than_shards(place):
    line = refused(place, "train", "job.toml", "--set", "scaling.workers=9", "--set", "training.global_batch=64")
    assert "9 workers cannot share 8 shards" in line


def test_fewer_images_a_step_than_devices(place):
    line = refused(place, "train", "job.toml", "--set", "training.global_batch=3", "--set", "scaling.workers=4")
    assert "training.global_batch = 3: must be at least the number of devices, 4" in line


def test_a_run_that_exists(place):
    (place / "runs" / "job").mkdir(parents=True)
    (place / "runs" / "job" / "experiment.toml").write_text((place / "job.toml").read_text())
    assert "exists: use --resume to resume it" in refused(place, "train", "job.toml")


def test_a_folder_that_is_no_run_is_not_resumed(place):
    (place / "runs" / "job").mkdir(parents=True)
    assert "no run at" in refused(place, "train", "job.toml", "--resume")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9"),
        ("localhost", "must be HOST:PORT"),
        ("ray://127.0.0.1:10001", "must be HOST:PORT"),
    ],
)
def test_an_address_that_cannot_be_reached(place, address, says):
    assert says in refused(place, "train", "job.toml", "--address", address)


def test_runs_that_are_not_there(place):
    for command in (
        ("evaluate", "nowhere"),
        ("sample", "nowhere"),
        ("reconstruct", "nowhere"),
        ("runs", "show", "nowhere"),
    ):
        assert "no run at" in refused(place, *command)
    for command in (("runs", "list", "nowhere"), ("tensorboard", "nowhere")):
        assert "no runs at nowhere" in refused(place, *command)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("evaluate", "runs/job", "--samples", "0"), "error: Invalid value for '--samples': 0 is not in the range"),
        (("sample", "runs/job", "--temperature", "-1"), "error: Invalid value for '--temperature': -1.0 is not"),
        (("sample", "runs/job", "--temperature", "nan"), "error: Invalid value for '--temperature': nan is not"),
        (("cluster", "drain", "--seconds", "nan"), "error: Invalid value for '--seconds': nan is not a number"),
        (("evaluate", "runs/job", "--split", "dev"), "error: Invalid value for '--split': 'dev' is not one of"),
        (("evaluate",), "error: Missing argument 'RUN'; see vaedist evaluate --help"),
        (("evaluate", "--sample", "3", "runs/job"), "No such option"),
        (("trian",), "error: No such command 'trian'. Did you mean 'train'? See vaedist --help"),
    ],
)
def test_a_wrong_call_is_one_line(place, arguments, says):
    assert says in refused(place, *arguments)


# The next file to be opened must not receive messages.
CLOSED = """
import os, sys
from vaedist.cli import main
try:
    main(["trian"])
except SystemExit as end:
    print(end.code, os.open(sys.executable, os.O_RDONLY) > 2)
"""


def test_a_command_whose_stdin_and_stderr_are_closed():
    call = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", sys.executable, "-c", CLOSED]
    assert subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True).stdout == "2 True\n"


def test_binary_pixels_of_coloured_images(place):
    line = refused(place, "train", "job.toml", "--set", "data.binarize=dynamic")
    assert "data.binarize = 'dynamic' is for grey images, of 1 channel" in line
    assert line.endswith("have 3")


def test_binary_pixels_of_another_likelihood(place):
    overrides = ("--set", "data.binarize=threshold", "--set", "model.likelihood=gaussian")
    line = refused(place, "train", "job.toml", *overrides)
    assert line.startswith("error: data.binarize = 'threshold' makes pixels binary") or "--set: data.binarize" in line


def test_a_run_without_a_checkpoint(place):
    (place / "runs" / "job").mkdir(parents=True)
    (place / "runs" / "job" / "experiment.toml").write_text((place / "job.toml").read_text())
    for command in ("evaluate", "sample", "reconstruct"):
        assert "has no checkpoint yet" in refused(place, command, "runs/job")
