"""Exceptions in users' code are shown with the users' lines, including chained exceptions."""

import importlib.util
import os
import sysconfig

import pytest

import vaedist
from vaedist.errors import DataError, UserCodeError
from vaedist.user_code import is_user_frame, user_code

CODE = """
import json


def read():
    try:
        json.loads("{")
    except ValueError as error:
        raise RuntimeError("unreadable") from error


def refuse():
    raise error


def interrupt():
    raise KeyboardInterrupt
"""


@pytest.fixture
def users(tmp_path):
    """Returns a user's module."""
    path = tmp_path / "users.py"
    path.write_text(CODE)
    spec = importlib.util.spec_from_file_location("users", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_chained_exceptions_are_shown_in_the_same_way(users):
    with pytest.raises(UserCodeError) as raised, user_code("it cannot be read"):
        users.read()
    lines = str(raised.value).splitlines()
    assert lines[0] == "it cannot be read:"
    # The frame of this test is also a user's.
    assert [line.split(", ")[1] for line in lines if users.__file__ in line] == ["line 7", "line 9"]
    assert not any(os.sep + "json" + os.sep in line for line in lines)
    assert "The above exception was the direct cause of the following exception:" in lines
    assert lines[-1] == "RuntimeError: unreadable"


def test_errors_of_vaedist_and_handled_ones_pass_through(users):
    users.error = DataError("no data")
    with pytest.raises(DataError, match="no data"), user_code("it fails"):
        users.refuse()
    users.error = ValueError("no value")
    with pytest.raises(ValueError, match="no value"), user_code("it fails", ValueError):
        users.refuse()
    with pytest.raises(KeyboardInterrupt), user_code("it fails"):
        users.interrupt()


@pytest.mark.parametrize(
    ("path", "users"),
    [
        ("/home/me/conv_vae/model.py", True),
        ("/venv/lib/python3.11/site-packages/conv_vae/model.py", True),
        ("/venv/lib/python3.11/site-packages/keras/src/layers/layer.py", False),
        (vaedist.__file__, False),
        (f"{sysconfig.get_paths()['stdlib']}/importlib/__init__.py", False),
        ("<frozen importlib._bootstrap>", False),
    ],
)
def test_lines_of_users_and_of_libraries_are_distinguished(path, users):
    assert is_user_frame(path) is users
