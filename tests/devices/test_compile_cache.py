"""The cache of compiled programs: hits, damaged programs, and the size limit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vaedist.devices.compile_cache import LIMIT, check, keep_programs, make_room, program_bytes, seal, unsealed
from vaedist.errors import ConfigError

COMPILE = """
import sys, tensorflow as tf
from vaedist.devices.compilation import compiled
from vaedist.devices.strategy import configure_devices
configure_devices(threads=int(sys.argv[1]), gpus=0, logical_devices=1)
print(compiled(lambda x: tf.reduce_sum(tf.exp(x) @ x))(tf.linspace(0.0, 1.0, 64)[:, None] * tf.ones((1, 64))).numpy())
"""


def identity(path):
    """Returns properties that distinguish a file from another one at the same path."""
    return path.stat().st_ino, path.read_bytes()


@pytest.fixture
def compile_in(tmp_path):
    """Compiles a function in a separate process; returns its result, and the cached programs afterwards."""

    def compile_in(threads=1, **variables):
        done = subprocess.run(
            [sys.executable, "-c", COMPILE, str(threads)],
            env=os.environ | {"VAEDIST_CACHE": str(tmp_path)} | variables, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout, {path: identity(path) for path in tmp_path.glob("programs/*/*.pb")}

    return compile_in


@pytest.mark.slow
def test_a_program_is_used_again_unless_it_was_damaged_or_is_for_other_threads(compile_in):
    value, first = compile_in()
    assert len(first) == 1
    assert compile_in() == (value, first)  # recompilation would create another file

    (program,) = first
    program.write_bytes(program.read_bytes()[:1000])
    again, second = compile_in()
    assert again == value
    assert len(second) == 1
    assert len(program.read_bytes()) > 1000

    _, both = compile_in(threads=2)
    assert len(both) == 2
    assert both[program] == second[program]


@pytest.mark.slow
@pytest.mark.parametrize("variable", [{LIMIT: "0"}, {"TF_XLA_FLAGS": "--tf_xla_persistent_cache_directory="}])
def test_the_cache_can_be_disabled(compile_in, variable):
    assert compile_in(**variable)[1] == {}


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_not_used(compile_in, tmp_path):
    (tmp_path / "programs").write_text("no folder")
    assert compile_in()[1] == {}


def refuse(**_):
    raise PermissionError("another's")


def test_a_cache_of_another_user_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("VAEDIST_CACHE", str(tmp_path))
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # as such a folder does, except for root
    keep_programs(1)
    assert os.environ["TF_XLA_FLAGS"] == ""


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_a_program_that_does_not_match_its_digest_is_removed(tmp_path):
    for name in ("whole", "changed", "cut"):
        (tmp_path / f"{name}.pb").write_bytes(b"program " + name.encode())
    seal(tmp_path)
    assert files(tmp_path) == {f"{name}.{kind}" for name in ("whole", "changed", "cut") for kind in ("pb", "sha256")}
    for name in ("unknown", "just compiled", "of the future"):
        (tmp_path / f"{name}.pb").write_bytes(b"program")
    os.utime(tmp_path / "unknown.pb", (0, 0))
    os.utime(tmp_path / "of the future.pb", (4e9, 4e9))
    (tmp_path / "garbled.sha256").write_bytes(b"\xff")
    (tmp_path / "garbled.pb").write_bytes(b"program")
    (tmp_path / "changed.pb").write_bytes(b"prOgram changed")
    (tmp_path / "cut.pb").write_bytes(b"program")
    check(tmp_path)
    assert files(tmp_path) == {"whole.pb", "whole.sha256", "just compiled.pb"}


def test_only_the_process_that_compiled_a_program_writes_its_digest(tmp_path):
    (tmp_path / "before.pb").write_bytes(b"")
    others = unsealed(tmp_path)
    (tmp_path / "ours.pb").write_bytes(b"program")
    seal(tmp_path, others)
    assert files(tmp_path) == {"before.pb", "ours.pb", "ours.sha256"}
    (tmp_path / "new").write_bytes(b"compiled again")
    (tmp_path / "new").replace(tmp_path / "before.pb")
    seal(tmp_path, others)
    assert files(tmp_path) == {"before.pb", "before.sha256", "ours.pb", "ours.sha256"}


def test_the_oldest_programs_are_removed_first(tmp_path):
    for age, name in enumerate(("a/1", "b/2", "a/3")):
        program = tmp_path / f"{name}.pb"
        program.parent.mkdir(exist_ok=True)
        program.write_bytes(bytes(100))
        os.utime(program, (1e9 + age, 1e9 + age))
        seal(program.parent)
    (tmp_path / "a" / "old.pb.tmp").touch()
    (tmp_path / "b" / "new.pb.tmp").touch()
    os.utime(tmp_path / "a" / "old.pb.tmp", (0, 0))
    make_room(tmp_path, 250)
    assert {path.name for path in Path(tmp_path).glob("*/*")} == {
        "2.pb", "2.sha256", "3.pb", "3.sha256", "new.pb.tmp",
    }  # fmt: skip


def test_the_least_recently_used_programs_are_removed_although_the_clock_was_set_back(tmp_path, monkeypatch):
    begin, utime = 1_700_000_000_000_000_000, os.utime
    for name in ("a/1", "b/2"):
        program = tmp_path / f"{name}.pb"
        program.parent.mkdir(exist_ok=True)
        program.write_bytes(bytes(100))
        seal(program.parent)
    for hour, name in enumerate(("b", "a", "b", "a")):  # each an hour before the previous one
        now = begin - hour * 3_600_000_000_000
        monkeypatch.setattr("time.time_ns", lambda now=now: now)
        monkeypatch.setattr("os.utime", lambda path, *, ns=None, now=now: utime(path, ns=ns or (now, now)))
        check(tmp_path / name)
    make_room(tmp_path, 150)
    assert {path.name for path in tmp_path.glob("*/*.pb")} == {"1.pb"}


def test_a_limit_that_is_not_a_number_is_refused(monkeypatch):
    monkeypatch.setenv(LIMIT, "1 GB")
    with pytest.raises(ConfigError, match=f"{LIMIT} = '1 GB': must be a number of bytes"):
        program_bytes()
