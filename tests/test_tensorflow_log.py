"""Importing TensorFlow through `vaedist` prints nothing that is not a warning or an error."""

import os
import subprocess
import sys
import threading

import pytest

import vaedist
from vaedist.tensorflow_log import LEVEL, without_import_messages

MESSAGES = [
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n",
    "I0000 00:00:1796003940.589229   30842 port.cc:153] oneDNN custom operations are on.\n",
    "W0000 00:00:1796003940.589229   30842 a.cc:1] a warning\n",
    "E0000 00:00:1796003940.589229   30842 a.cc:1] an error\n",
    "I am the user's own line\n",
    "E0000 00:00:1796042270.052680   15301 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (999)\n",
]
NO_DRIVER = "E0000 00:00:1796042270.052680   15301 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)\n"


def printed(program, **variables):
    """Returns the stderr of a Python program, and its exit code."""
    environment = {name: value for name, value in os.environ.items() if name != LEVEL} | variables
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    return done.stderr, done.returncode


@pytest.fixture
def unimported(monkeypatch):
    """Makes it look as if TensorFlow was not imported yet."""
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)


def test_only_some_names_import_tensorflow_and_none_prints_anything():
    program = """if True:
        import sys, vaedist
        for name in sorted(set(vaedist.__all__) - vaedist._TENSORFLOW):
            getattr(vaedist, name)
            assert "tensorflow" not in sys.modules, name
        vaedist.load_run
        assert "tensorflow" in sys.modules
    """
    assert printed(program) == ("", 0)
    assert set(vaedist.__all__) > vaedist._TENSORFLOW


@pytest.mark.parametrize(("level", "kept"), [(None, 2), ("0", 0), ("1", 2), ("2", 3), ("many", 0)])
def test_messages_from_the_level_on_are_kept(level, kept, unimported, monkeypatch, capfd):
    if level is None:
        monkeypatch.delenv(LEVEL)
    else:
        monkeypatch.setenv(LEVEL, level)
    with without_import_messages():
        os.write(2, "".join([NO_DRIVER, *MESSAGES]).encode())
    os.write(2, b"I0000 00:00:1796003940.589229 later\n")
    first = "" if kept else NO_DRIVER
    assert capfd.readouterr().err == first + "".join(MESSAGES[kept:]) + "I0000 00:00:1796003940.589229 later\n"


def test_level_3_keeps_neither_warnings_nor_errors(unimported, monkeypatch, capfd):
    monkeypatch.setenv(LEVEL, "3")
    with without_import_messages():
        os.write(2, "".join(MESSAGES).encode())
    assert capfd.readouterr().err == "I am the user's own line\n"


def test_a_users_model_and_the_first_use_of_a_device_print_nothing(tmp_path):
    (tmp_path / "own.py").write_text("import vaedist\nclass Own(vaedist.Model):\n    Options = vaedist.ModelOptions\n")
    program = """if True:
        import sys, vaedist
        vaedist.Experiment.from_dict({"model": {"type": "own:Own"}})
        tf = sys.modules["tensorflow"]
        two = [tf.config.LogicalDeviceConfiguration()] * 2  # refused once devices are in use
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
        tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(1.0))
    """
    assert printed(program, PYTHONPATH=str(tmp_path)) == ("", 0)


def test_a_message_outlives_the_process():
    program = """if True:
        import os
        from vaedist.tensorflow_log import without_import_messages
        with without_import_messages():
            os.write(2, b"F0000 00:00:1796003940.589229 1 a.cc:1] this processor lacks AVX")
            os.abort()
    """
    text, code = printed(program)
    assert text.endswith("this processor lacks AVX")
    assert code != 0


def test_threads_restore_the_descriptor(unimported, monkeypatch, capfd):
    monkeypatch.setenv(LEVEL, "1")

    def enter():
        with without_import_messages():
            os.write(2, MESSAGES[2].encode())

    threads = [threading.Thread(target=enter) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, MESSAGES[1].encode())
    assert capfd.readouterr().err == 3 * MESSAGES[2] + MESSAGES[1]


def test_a_program_without_stderr_goes_on():
    program = """if True:
        import os
        from vaedist.tensorflow_log import without_import_messages
        os.close(2)
        with without_import_messages():
            os._exit(7)
    """
    assert printed(program) == ("", 7)
