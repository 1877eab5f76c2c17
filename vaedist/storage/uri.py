"""Places: local paths, and URIs of stores, whose query says how the store is reached.

s3://bucket/runs?endpoint_override=127.0.0.1:5000&scheme=http is the folder runs of a bucket behind that server.
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vaedist.errors import StorageError
from vaedist.files import is_undecoded

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file")
NAME_BYTES = 255  # of a file or a folder, on the filesystems that there are


def is_uri(place: str) -> bool:
    """Whether a place is given as a URI, of whatever kind."""
    return "://" in place


def is_remote(place: str) -> bool:
    """Whether a place is elsewhere than on a filesystem of this machine."""
    return is_uri(place) and not place.startswith("file://")


def local_path(place: str) -> Path:
    """The path of a place that is not remote, be it a file:// URI; ~ and ~user at its beginning are home folders."""
    return Path(unquote(urlsplit(place).path)) if is_uri(place) else Path(_expanded(place))


def absolute_location(location: str) -> str:
    """Returns a location that means the same in every process: a URI, or an absolute path."""
    return location if is_remote(location) else str(local_path(location).absolute())


def _expanded(path: str) -> str:
    """With a home folder in the place of ~ or ~user, and unchanged if there is none; ./~ is no home folder."""
    return os.path.expanduser(path)  # noqa: PTH111 - a Path would have lost the ./


def join_uri(uri: str, *names: str) -> str:
    """The place of what lies in the folder `uri`, by names or relative paths; a URI's query stays at the end."""
    base, mark, query = uri.partition("?") if is_uri(uri) else (uri, "", "")
    return "/".join([base.rstrip("/"), *names]) + mark + query


def name_of(uri: str) -> str:
    """The last part of a URI's path; the bucket's name, if it has no path."""
    return uri.partition("?")[0].rstrip("/").rpartition("/")[2]


def parent_of(uri: str) -> str:
    """The folder that a URI lies in."""
    base, mark, query = uri.partition("?")
    return base.rstrip("/").rpartition("/")[0] + mark + query


def fault_of(place: str) -> str | None:
    """What is wrong with a place, as far as its text tells; None if nothing is."""
    if "\0" in place:
        return "must not hold a zero byte"
    if not is_uri(place):
        if any(len(name.encode(errors="surrogatepass")) > NAME_BYTES for name in place.split("/")):
            return f"must not hold a name of more than {NAME_BYTES} bytes"
        user = place.partition("/")[0]
        if user.startswith("~") and _expanded(user) == user:
            return f"names the home folder of {user[1:] or 'a user'}, who is not known here; ./{user} is a folder"
        return None
    scheme, _, rest = place.partition("://")
    if scheme not in SCHEMES and not scheme.startswith("fsspec+"):
        return f"must be a local path, or a URI that starts with {', '.join(f'{known}://' for known in SCHEMES)}"
    if "@" in rest.partition("/")[0] and scheme in ("s3", "gs", "gcs"):
        return "must not hold credentials: they come from the environment"
    if not re.match(r"^[^/?]+" if scheme != "file" else r"^/", rest):
        return f"must name a {'path' if scheme == 'file' else 'bucket or a host'} after {scheme}://"
    return None


def require_utf8(path: Path) -> Path:
    """Returns a path that pyarrow and Ray can use.

    Raises:
        StorageError: its bytes are not UTF-8.
    """
    if is_undecoded(str(path)):
        raise StorageError(f"cannot use {path}: paths of data sets and runs, and of the current folder, must be UTF-8")
    return path
