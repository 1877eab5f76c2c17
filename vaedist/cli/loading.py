"""Working with TensorFlow in a command: without a word from it, which would greet the user on stderr."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """What is printed meanwhile on the usual streams is lost."""
    from vaedist.launch.logs import output_to

    with output_to(Path(os.devnull)):
        yield


@contextmanager
def loaded(run: str | Path, **options: Any) -> Iterator[Any]:
    """The run as `load_run` opens it, and quiet meanwhile."""
    with quiet():
        from vaedist.api import load_run

        yield load_run(run, **options)
