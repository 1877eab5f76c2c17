"""Locations: local paths, and URIs of object stores with optional connection parameters in the query.

Example: s3://bucket/runs?endpoint_override=127.0.0.1:5000&scheme=http is the folder runs in a bucket of that server.
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vaedist.errors import StorageError
from vaedist.files import is_undecoded

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file")
NAME_BYTES = 255  # maximum length of a file's name on common filesystems


def is_uri(location: str) -> bool:
    """Returns True if a location is a URI of any kind."""
    return "://" in location


def is_remote(location: str) -> bool:
    """Returns True if a location is not on a filesystem of this machine."""
    return is_uri(location) and not location.startswith("file://")


def local_path(location: str) -> Path:
    """Returns the path of a location that is not remote: a path, whose ~ or ~user is expanded, or a file:// URI."""
    return Path(unquote(urlsplit(location).path)) if is_uri(location) else Path(_expanded(location))


def absolute_location(location: str) -> str:
    """Returns a location that is valid in every process: a URI, or an absolute path; without a trailing slash."""
    return join_uri(location) if is_remote(location) else str(local_path(location).absolute())


def _expanded(path: str) -> str:
    """Expands a leading ~ or ~user; returns the path unchanged if there is no such user, or if it starts with ./ ."""
    return os.path.expanduser(path)  # noqa: PTH111 - a Path would lose the ./


def join_uri(uri: str, *names: str) -> str:
    """Returns the location of a file or folder in the folder `uri`; a URI's query stays at the end.

    Args:
        uri: URI or path of the folder.
        names: names or relative paths, each in the one before.
    """
    base, mark, query = uri.partition("?") if is_uri(uri) else (uri, "", "")
    return "/".join([base.rstrip("/"), *names]) + mark + query


def name_of(uri: str) -> str:
    """Returns the last part of a URI's path, or the bucket's name if it has no path."""
    return uri.partition("?")[0].rstrip("/").rpartition("/")[2]


def parent_of(uri: str) -> str:
    """Returns the URI of the folder that holds a file or folder."""
    base, mark, query = uri.partition("?")
    return base.rstrip("/").rpartition("/")[0] + mark + query


def fault_of(location: str) -> str | None:
    """Returns the fault of a location's text, as the end of a message; None if it is valid."""
    if "\0" in location:
        return "must not contain a zero byte"
    if not is_uri(location):
        if any(len(name.encode(errors="surrogatepass")) > NAME_BYTES for name in location.split("/")):
            return f"must not contain a name of more than {NAME_BYTES} bytes"
        user = location.partition("/")[0]
        if user.startswith("~") and _expanded(user) == user:
            return f"names the home folder of {user[1:] or 'a user'}, who is unknown here; ./{user} is a folder"
        return None
    scheme, _, rest = location.partition("://")
    if scheme not in SCHEMES and not scheme.startswith("fsspec+"):
        return f"must be a local path, or a URI that starts with {', '.join(f'{known}://' for known in SCHEMES)}"
    if "@" in rest.partition("/")[0] and scheme in ("s3", "gs", "gcs"):
        return "must not contain credentials: they come from the environment"
    if not re.match(r"^[^/?]+" if scheme != "file" else r"^/", rest):
        return f"must name a {'path' if scheme == 'file' else 'bucket or a host'} after {scheme}://"
    return None


def require_utf8(path: Path) -> Path:
    """Returns a path unchanged if pyarrow and Ray can use it.

    Raises:
        StorageError: its bytes are not UTF-8.
    """
    if is_undecoded(str(path)):
        raise StorageError(f"cannot use {path}: paths of data sets and runs, and of the current folder, must be UTF-8")
    return path
