"""Ends the actors of a command, and translates their errors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from vaedist.errors import VaedistError, WorkerError


@contextmanager
def ended(actors: Sequence[Any], died: str) -> Iterator[None]:
    """Ends actors when the context ends, and translates their errors to vaedist's.

    Args:
        actors: the actors; they are ended in any case.
        died: error message if the process of an actor ended, such as "a worker died".

    Raises:
        VaedistError: an actor raised it.
        WorkerError: an actor died, or raised another exception.
    """
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, VaedistError):
            raise error.cause from None
        raise WorkerError(f"a worker failed: {type(error.cause).__name__}: {error.cause}") from error
    except RayActorError as error:
        raise WorkerError(f"{died}: {str(error).splitlines()[0]}") from error
    except RayError as error:  # out of memory, or it could not be started
        raise WorkerError(f"a worker failed: {str(error).splitlines()[0]}") from error
    finally:
        for actor in actors:
            ray.kill(actor)
