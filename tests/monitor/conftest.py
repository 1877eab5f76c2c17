import resource
from contextlib import contextmanager

import pytest


@pytest.fixture
def file_size_limit():
    """Context that limits the size of files that this process can write, as if the disk were full."""

    @contextmanager
    def limited(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
