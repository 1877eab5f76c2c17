"""Names that are not UTF-8, terminals that cannot show a character, and a stdout that is closed or full."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from vaedist.cli import main; main(prog_name='vaedist')"]
LATIN = b"caf\xe9"  # in ISO-8859-1, which is not UTF-8
FULL = Path("/dev/full")
JOB = '[data]\npath = "numbers"\n[model]\nhidden = 8\nlatent = 4\n[training]\nepochs = 1\nglobal_batch = 8\n'


@pytest.fixture
def place(tmp_path, small_dataset):
    """A data set, a job and a folder whose names are not UTF-8, and one of each with a plain name."""
    for folder in (tmp_path, tmp_path / os.fsdecode(LATIN)):
        shutil.copytree(small_dataset, folder / "numbers")
        (folder / "job.toml").write_text(JOB)
        (folder / os.fsdecode(LATIN + b".toml")).write_text(JOB)
    return tmp_path


def run(*arguments, cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY"))}
    environment |= {"PYTHONPATH": os.environ.get("PYTHONPATH", "")} | variables
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, stdout=stdout, stderr=stderr, env=environment, timeout=120, check=False
    )


def files(place):
    return sorted(path.relative_to(place) for path in place.rglob("*"))


IN_LATIN = [
    ("data", "prepare", "photos", "--train", "8", "--test", "8", "--out", "made"),
    ("data", "verify", "numbers"),
    ("data", "inspect", "numbers"),
    ("train", "job.toml"),
]
OF_LATIN = [
    ("data", "prepare", "photos", "--train", "8", "--test", "8", "--out", LATIN + b"/made"),
    ("data", "verify", LATIN + b"/numbers"),
    ("data", "inspect", LATIN + b"/numbers"),
    ("train", "job.toml", "--runs", LATIN),
    ("train", "job.toml", "--name", LATIN),
    ("train", LATIN + b".toml"),
    ("config", "show", "job.toml", "--set", b"data.path=" + LATIN),
    ("runs", "list", LATIN),
    ("runs", "show", LATIN),
    (LATIN,),
]


@pytest.mark.parametrize(
    ("arguments", "below"), [*((call, LATIN) for call in IN_LATIN), *((call, b".") for call in OF_LATIN)]
)
def test_names_that_are_not_utf8_are_refused_in_one_line(place, arguments, below):
    """Names of data sets, runs and jobs, and of the current folder if it is part of them."""
    before = files(place)
    done = run(*arguments, cwd=os.fsencode(place) + b"/" + below, PYTHONIOENCODING="utf-8")
    *waiting, line = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    assert "caf\\xe9" in line or "caf\\udce9" in line
    assert set(waiting) <= {"starting", "checking the data"}
    assert (done.returncode, done.stdout) == (2, b"")
    assert files(place) == before


def test_a_command_that_needs_no_such_name_works_in_such_a_folder(place):
    cwd = os.fsencode(place) + b"/" + LATIN
    assert b"latent = 4" in run("config", "show", "job.toml", cwd=cwd).stdout
    made = run("data", "prepare", "folder", "--help", cwd=cwd)
    assert made.returncode == 0


@pytest.mark.parametrize("arguments", [("data", "verify", "numbers"), ("train", "/dev/null")])
def test_a_deleted_current_folder_is_refused(place, arguments):
    call = ["sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', "sh", *COMMAND, *arguments]
    done = subprocess.run(call, cwd=place, capture_output=True, timeout=120, check=False)
    assert done.stderr.splitlines()[-1] == b"error: the current folder no longer exists"
    assert b"Traceback" not in done.stderr
    assert done.returncode == 2


def test_images_in_a_folder_whose_name_is_not_utf8_are_prepared(place):
    from PIL import Image

    pictures = place / os.fsdecode(LATIN) / "pictures"
    for k in range(4):
        pictures.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (k, 0, 0)).save(pictures / os.fsdecode(LATIN + b"%d.png" % k))
    (pictures / os.fsdecode(LATIN + b"9.png")).write_bytes(b"no image")
    command = ("data", "prepare", "folder", "--folder", LATIN + b"/pictures", "--shards", "1", "--skip-damaged")
    made = run(*command, cwd=place, PYTHONIOENCODING="ascii:strict")
    assert made.stdout.startswith(b"data/folder: 3 training and 1 test images")
    assert made.stderr == b"warning: left out image caf\\xe9/pictures/caf\\xe99.png: cannot identify image file\n"


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "utf-8"])
def test_characters_outside_of_the_encoding_are_escaped(place, encoding):
    (place / "numbers").rename(place / "Œuvres")
    shown = run("data", "inspect", "Œuvres", cwd=place, PYTHONIOENCODING=encoding)
    text = shown.stdout.decode(encoding.partition(":")[0])
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert ("numbers in Œuvres" if encoding == "utf-8" else "numbers in \\u0152uvres") in text
    refused = run("data", "verify", "Œ", cwd=place, PYTHONIOENCODING=encoding)
    assert refused.stderr.startswith(b"error: no data set at ")
    assert refused.stderr.count(b"\n") == 1


WRITING = [
    ("--help",),
    ("data", "inspect", "numbers"),
    ("data", "verify", "numbers"),
    ("config", "schema"),
    ("runs", "list", ".", "--json"),
]


@pytest.mark.parametrize("arguments", WRITING)
def test_a_full_stdout_is_reported_in_one_line(place, arguments):
    with FULL.open("wb") as full:
        done = run(*arguments, cwd=place, stdout=full)
    assert done.stderr == b"error: cannot write to stdout: No space left on device\n"
    assert done.returncode == 2


@pytest.mark.parametrize("arguments", WRITING)
def test_a_pipe_that_was_closed_ends_the_command_without_a_word(place, arguments):
    """In `vaedist runs list | head -1`, the exit code is a shell's code of SIGPIPE."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(*arguments, cwd=place, stdout=writing)
    finally:
        os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 141


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("data", "verify", "numbers"), 0),
        (("data", "verify", "nowhere"), 2),
        (("data", "prepare", "photos", "--train", "8", "--test", "8"), 0),  # prints a warning
        (("trian",), 2),
        ((), 2),
    ],
)
def test_a_full_stderr_ends_no_command(place, arguments, code):
    with FULL.open("wb") as full:
        done = run(*arguments, cwd=place, stderr=full)
    assert done.returncode == code
    if code == 0:
        assert b"fingerprint" in done.stdout


def test_a_full_stdout_does_not_hide_the_error(place):
    with FULL.open("wb") as full:
        done = run("data", "verify", "nowhere", cwd=place, stdout=full)
    assert done.stderr.startswith(b"error: no data set at nowhere")
    assert done.returncode == 2
