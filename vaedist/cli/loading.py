"""Contexts that keep TensorFlow's and Ray's messages off the terminal."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Discards all output on stdout and stderr within the context."""
    from vaedist.launch.logs import output_to

    with output_to(Path(os.devnull)):
        yield


@contextmanager
def loaded(run: str | Path, **options: Any) -> Iterator[Any]:
    """Yields the run that `load_run` returns, in a context that discards output on stdout and stderr.

    GPUs are configured by `configure_gpus`.
    """
    with quiet():
        from vaedist.api import load_run
        from vaedist.devices.gpus import configure_gpus

        configure_gpus()
        yield load_run(run, **options)


@contextmanager
def loaded_for_workers(run: str | Path, **options: Any) -> Iterator[Any]:
    """Yields the run that `load_run` returns, in a context that discards output on stdout and stderr.

    This process does not use GPUs, so that all their memory is left for workers.
    """
    with quiet():
        import tensorflow as tf

        from vaedist.api import load_run

        with suppress(RuntimeError):  # this process has used GPUs already
            tf.config.set_visible_devices([], "GPU")
        yield load_run(run, **options)
