"""Ends the actors that compute for a command, and translates their errors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from vaedist.errors import VaedistError, WorkerError


@contextmanager
def ended(actors: Sequence[Any], died: str) -> Iterator[None]:
    """Ends actors at the end of the context, and raises their errors as vaedist's own.

    Args:
        actors: to be ended, in any case.
        died: message for one whose process ended, such as "a worker died".

    Raises:
        VaedistError: as an actor raised it.
        WorkerError: an actor died, or raised anything else.
    """
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, VaedistError):
            raise error.cause from None
        raise WorkerError(f"a worker failed: {type(error.cause).__name__}: {error.cause}") from error
    except RayActorError as error:
        raise WorkerError(f"{died}: {str(error).splitlines()[0]}") from error
    except RayError as error:  # it ran out of memory, or could not be started
        raise WorkerError(f"a worker failed: {str(error).splitlines()[0]}") from error
    finally:
        for actor in actors:
            ray.kill(actor)
