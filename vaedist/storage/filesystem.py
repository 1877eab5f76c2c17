"""Opens pyarrow filesystems by path or URI, with limits on how long they wait."""

import hashlib
import os
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.fs

from vaedist.errors import StorageError
from vaedist.storage.uri import is_uri, local_path, require_utf8

BLOCK = 1 << 20  # bytes read at a time where a file is hashed or copied
CONNECT_SECONDS = 5.0  # for an object store to accept a connection
ANSWER_SECONDS = 30.0  # for a first answer; pyarrow's own 3 s would give up on slow stores again and again


def open_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Returns the filesystem of a folder, and the folder's path in it; no request is sent.

    pyarrow finds credentials in the environment, in configuration files, or by the machine's role. AWS_ENDPOINT_URL
    names another server than Amazon's; so does ?endpoint_override=HOST:PORT&scheme=http in the URI.

    Args:
        uri: a local path, absolute or relative or below ~, or a pyarrow filesystem URI such as s3://bucket/cifar10.

    Returns:
        The filesystem, which maps files into memory if it is a local one, and the path without a trailing
        slash.

    Raises:
        StorageError: a URI of an unknown kind, or one whose filesystem cannot be made; or a path that is not UTF-8.
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
    """Returns a URI with a limit on retries for Google's client, which would retry for a quarter of an hour."""
    if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in uri:
        return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={ANSWER_SECONDS:.0f}"
    return uri


def _patient_s3(uri: str, region: str) -> pyarrow.fs.FileSystem:
    """Returns an S3 filesystem with the options of its URI's query and with timeouts, which a query cannot set."""
    options: dict[str, Any] = {"region": region, "allow_delayed_open": True}  # so that a small file is one request
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
