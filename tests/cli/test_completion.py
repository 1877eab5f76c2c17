"""Completion by the shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from vaedist.cli import main

JOBS = Path(__file__).parents[2] / "jobs"


def completed(*words):
    """Returns what the last word can become, and how the shell completes it."""
    completer = BashComplete(main, {}, "vaedist", "_VAEDIST_COMPLETE")
    *before, last = words
    return {item.value: item.type for item in completer.get_completions(list(before), last)}


def test_commands_and_options_are_completed():
    assert completed("tra") == {"train": "plain"}
    assert "--resume" in completed("train", "--")


def test_runs_are_completed_as_folders_and_jobs_as_files():
    assert completed("tensorboard", "ru") == completed("runs", "show", "ru") == {"ru": "dir"}
    assert completed("train", "jo") == {"jo": "file"}


def test_keys_of_the_jobs_model_are_completed():
    job = JOBS / "photos-resnet.toml"
    assert set(completed("train", str(job), "--set", "model.le")) == {"model.levels="}
    assert set(completed("train", "none.toml", "--set", "training.warm")) == {"training.warmup_steps="}
    assert completed("train", str(job), "--set", "training.epochs=") == {}


def test_completing_does_not_import_the_users_code(tmp_path):
    job = tmp_path / "own.toml"
    job.write_text('[model]\ntype = "no_such_package.model:Model"\n')
    assert "model.hidden=" in completed("train", str(job), "--set", "model.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_names_the_command(shell):
    done = CliRunner().invoke(main, ["completion", shell], prog_name="vaedist")
    assert done.exit_code == 0
    assert f"_VAEDIST_COMPLETE={shell}_complete" in done.stdout


def test_bash_completes_with_the_script(tmp_path):
    """Runs the script in bash, with a `vaedist` on the path, as readline does."""
    command = tmp_path / "vaedist"
    command.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from vaedist.cli import main; main(prog_name=\'vaedist\')" "$@"\n'
    )
    command.chmod(0o755)
    script = CliRunner().invoke(main, ["completion", "bash"], prog_name="vaedist").stdout
    call = "COMP_WORDS=(vaedist comp); COMP_CWORD=1; _vaedist_completion vaedist; echo ${COMPREPLY[*]}"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{call}"], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["completion"]
