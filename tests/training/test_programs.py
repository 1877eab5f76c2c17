"""Compiled programs that are kept: used again, never if damaged, and no more of them than may be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vaedist.errors import ConfigError
from vaedist.training.programs import LIMIT, make_room, program_bytes, remove_unknown, seal

COMPILE = """
import sys, tensorflow as tf
from vaedist.training.compiled import compiled
from vaedist.training.programs import seal
from vaedist.training.strategy import configure_devices
from pathlib import Path
configure_devices(threads=int(sys.argv[1]), gpus=0, logical_devices=1)
print(compiled(lambda x: tf.reduce_sum(tf.exp(x) @ x))(tf.linspace(0.0, 1.0, 64)[:, None] * tf.ones((1, 64))).numpy())
for folder in Path(sys.argv[2]).glob("programs/*"):
    seal(folder)
"""


@pytest.fixture
def compile_in(tmp_path):
    """Compiles a function in a process of its own; returns what it computed, and the programs that are kept then."""

    def compile_in(threads=1, **variables):
        done = subprocess.run(
            [sys.executable, "-c", COMPILE, str(threads), str(tmp_path)],
            env=os.environ | {"VAEDIST_CACHE": str(tmp_path)} | variables, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout, {path: path.stat().st_ino for path in tmp_path.glob("programs/*/*.pb")}

    return compile_in


def test_a_program_is_used_again_unless_it_was_damaged_or_is_for_other_threads(compile_in):
    value, first = compile_in()
    assert len(first) == 1
    assert compile_in() == (value, first)  # one that is compiled again would be another file

    (program,) = first
    program.write_bytes(program.read_bytes()[:1000])
    again, second = compile_in()
    assert again == value
    assert len(second) == 1
    assert len(program.read_bytes()) > 1000

    _, both = compile_in(threads=2)
    assert len(both) == 2
    assert both[program] == second[program]


@pytest.mark.parametrize("variable", [{LIMIT: "0"}, {"TF_XLA_FLAGS": "--tf_xla_persistent_cache_directory="}])
def test_nothing_is_kept_where_that_is_not_wanted(compile_in, variable):
    assert compile_in(**variable)[1] == {}


def test_a_cache_that_cannot_be_written_is_done_without(compile_in, tmp_path):
    (tmp_path / "programs").write_text("no folder")
    assert compile_in()[1] == {}


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_what_does_not_match_its_digest_is_removed(tmp_path):
    for name in ("whole", "changed", "cut"):
        (tmp_path / f"{name}.pb").write_bytes(b"program " + name.encode())
    seal(tmp_path)
    assert files(tmp_path) == {f"{name}.{kind}" for name in ("whole", "changed", "cut") for kind in ("pb", "sha256")}
    for name in ("unknown", "just compiled"):
        (tmp_path / f"{name}.pb").write_bytes(b"program")
    os.utime(tmp_path / "unknown.pb", (0, 0))
    (tmp_path / "changed.pb").write_bytes(b"prOgram changed")
    (tmp_path / "cut.pb").write_bytes(b"program")
    (tmp_path / "old.pb.tmp").touch()
    (tmp_path / "new.pb.tmp").touch()
    os.utime(tmp_path / "old.pb.tmp", (0, 0))
    remove_unknown(tmp_path)
    assert files(tmp_path) == {"whole.pb", "whole.sha256", "just compiled.pb", "new.pb.tmp"}


def test_the_oldest_make_room(tmp_path):
    for age, name in enumerate(("a/1", "b/2", "a/3")):
        program = tmp_path / f"{name}.pb"
        program.parent.mkdir(exist_ok=True)
        program.write_bytes(bytes(100))
        os.utime(program, (1e9 + age, 1e9 + age))
        seal(program.parent)
    make_room(tmp_path, 250)
    assert {path.name for path in Path(tmp_path).glob("*/*")} == {"2.pb", "2.sha256", "3.pb", "3.sha256"}


def test_a_limit_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv(LIMIT, "1 GB")
    with pytest.raises(ConfigError, match=f"{LIMIT} = '1 GB': must be a number of bytes"):
        program_bytes()
