"""Opens pyarrow filesystems by path or URI, with timeouts."""

import hashlib
import os
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.fs

from vaedist.errors import StorageError
from vaedist.storage.uri import is_uri, local_path, require_utf8

BLOCK = 1 << 20  # bytes read at a time when a file is hashed or copied
CONNECT_SECONDS = 5.0  # timeout for connecting to an object store
ANSWER_SECONDS = 30.0  # timeout for the first response; pyarrow's default, 3 s, is too short for slow stores


def open_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Returns the filesystem of a folder, and the folder's path in it; no request is sent.

    pyarrow finds credentials in the environment, in configuration files, or by the machine's role. A server other than
    Amazon's is set by AWS_ENDPOINT_URL, or by ?endpoint_override=HOST:PORT&scheme=http in the URI.

    Args:
        uri: a local path, absolute, relative or below ~, or a pyarrow filesystem URI such as s3://bucket/cifar10.

    Returns:
        The filesystem, which memory-maps files if it is local, and the path without a trailing slash.

    Raises:
        StorageError: the scheme of the URI is unknown, its filesystem cannot be opened, or the path is not UTF-8.
    """
    if not is_uri(uri):
        return pyarrow.fs.LocalFileSystem(use_mmap=True), str(require_utf8(local_path(uri).absolute()))
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(_bounded(uri))
        if filesystem.type_name == "s3":
            filesystem = _patient_s3(uri, cast("pyarrow.fs.S3FileSystem", filesystem).region)
    except (pa.ArrowException, OSError, ValueError, TypeError, ImportError) as error:
        raise StorageError(f"cannot open {uri}: {first_line(error)}") from error
    if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        filesystem = pyarrow.fs.LocalFileSystem(use_mmap=True)
    return filesystem, path.rstrip("/")


def _bounded(uri: str) -> str:
    """Returns a URI with a limit on retries for Google's client, which otherwise retries for 15 minutes."""
    if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in uri:
        return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={ANSWER_SECONDS:.0f}"
    return uri


def _patient_s3(uri: str, region: str) -> pyarrow.fs.FileSystem:
    """Returns an S3 filesystem with the options of its URI's query, and with timeouts, which a query cannot set."""
    options: dict[str, Any] = {"region": region, "allow_delayed_open": True}  # one request for a small file
    server = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    if server.netloc:
        options |= {"endpoint_override": server.netloc, "scheme": server.scheme}
    for name, value in parse_qsl(urlsplit(uri).query):
        options[name] = {"true": True, "false": False}.get(value, value)
    return pyarrow.fs.S3FileSystem(**options, connect_timeout=CONNECT_SECONDS, request_timeout=ANSWER_SECONDS)


def sha256_of(filesystem: pyarrow.fs.FileSystem, path: str, seen: Callable[[int], None] | None = None) -> str:
    """Returns the SHA-256 of a file, read block by block; `seen` is called with the size of each block, in bytes."""
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path) as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            if seen is not None:
                seen(len(block))
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or the name of its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
