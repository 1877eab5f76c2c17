"""Reading, writing and listing a folder on an object store, with retries."""

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow.fs

from vaedist.errors import StorageError
from vaedist.storage.filesystem import BLOCK, open_filesystem
from vaedist.storage.retry import COMMAND_SECONDS, MISSING, patiently
from vaedist.storage.uri import join_uri

Notify = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class FileState:
    """State of a file: its size in bytes, and its modification time in ns since 1970."""

    size: int
    written: int


class Store:
    """A folder on an object store; all names are relative to it.

    Args:
        uri: URI of the folder.
        seconds: time limit for requests, including retries.
        notify: called when the object store does not respond.

    Raises:
        StorageError: from every method, if the object store refuses a request or does not respond in time.
    """

    def __init__(self, uri: str, *, seconds: float = COMMAND_SECONDS, notify: Notify = lambda _: None) -> None:
        self.uri, self.seconds, self.notify = uri, seconds, notify
        self.filesystem, self.path = open_filesystem(uri)

    def uri_of(self, name: str) -> str:
        """Returns the URI of a file or folder in it."""
        return join_uri(self.uri, name)

    def check(self) -> None:
        """Checks that the bucket exists and responds."""
        bucket = self.path.partition("/")[0]
        info = self._try(lambda: self.filesystem.get_file_info(bucket), f"reach {self.uri}")
        if self.filesystem.type_name in ("s3", "gcs") and info.type == pyarrow.fs.FileType.NotFound:
            raise StorageError(f"cannot reach {self.uri}: there is no bucket {bucket}")

    def files(self, under: str = "") -> dict[str, FileState]:
        """Returns the states of all files in the folder `under`, at any depth, by name."""
        root = f"{self.path}/{under}".rstrip("/")
        selector = pyarrow.fs.FileSelector(root, recursive=True, allow_not_found=True)
        where = self.uri_of(under) if under else self.uri
        found = self._try(lambda: self.filesystem.get_file_info(selector), f"list {where}")
        return {
            self._name(info.path): FileState(info.size, info.mtime_ns or 0)
            for info in found
            if info.type == pyarrow.fs.FileType.File
        }

    def folders(self) -> list[str]:
        """Returns the sorted names of the folders directly in it."""
        selector = pyarrow.fs.FileSelector(self.path, allow_not_found=True)
        found = self._try(lambda: self.filesystem.get_file_info(selector), f"list {self.uri}")
        return sorted(self._name(info.path) for info in found if info.type == pyarrow.fs.FileType.Directory)

    def exists(self) -> bool:
        """Returns True if there is anything at the URI, even an empty folder."""
        info = self._try(lambda: self.filesystem.get_file_info(self.path), f"reach {self.uri}")
        return info.type != pyarrow.fs.FileType.NotFound

    def read(self, name: str) -> bytes:
        """Returns the content of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """

        def do() -> bytes:
            with self.filesystem.open_input_stream(f"{self.path}/{name}") as stream:
                return stream.read()

        return self._try(do, f"read {self.uri_of(name)}")

    def read_from(self, name: str, start: int) -> bytes:
        """Returns the content of a file from byte `start` on.

        Raises:
            FileNotFoundError: there is no such file.
        """

        def do() -> bytes:
            with self.filesystem.open_input_file(f"{self.path}/{name}") as file:
                file.seek(start)
                return file.read()

        return self._try(do, f"read {self.uri_of(name)}")

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, replacing an older one atomically."""

        def do() -> None:
            self._make_parent(name)
            with self.filesystem.open_output_stream(f"{self.path}/{name}") as sink:
                sink.write(content)

        self._try(do, f"write {self.uri_of(name)}")

    def upload(self, local: Path, name: str) -> None:
        """Uploads a local file."""

        def do() -> None:
            self._make_parent(name)
            with local.open("rb") as source, self.filesystem.open_output_stream(f"{self.path}/{name}") as sink:
                shutil.copyfileobj(source, sink, BLOCK)

        self._try(do, f"write {self.uri_of(name)}")

    def download(self, name: str, local: Path, written: int = 0) -> None:
        """Downloads a file to a local one, atomically; it gets the modification time `written`, in ns.

        Raises:
            FileNotFoundError: there is no such file.
        """
        beside = local.with_name(f".{local.name}.{os.getpid()}.part")

        def do() -> None:
            with self.filesystem.open_input_stream(f"{self.path}/{name}") as source, beside.open("wb") as sink:
                shutil.copyfileobj(source, sink, BLOCK)

        try:
            local.parent.mkdir(parents=True, exist_ok=True)
            self._try(do, f"read {self.uri_of(name)}")
            os.utime(beside, ns=(written, written))
            beside.replace(local)
        except MISSING:
            raise
        except OSError as error:
            raise StorageError(f"cannot write {local}: {error.strerror or error}") from error
        finally:
            beside.unlink(missing_ok=True)

    def pull(self, local: Path, names: Iterable[str], known: dict[str, FileState]) -> None:
        """Downloads files of a listing, `known`, unless the local folder has them in the listed state."""
        for name in names:
            target = local / name
            if not target.exists() or (target.stat().st_size, target.stat().st_mtime_ns) != (
                known[name].size,
                known[name].written,
            ):
                self.download(name, target, known[name].written)

    def remove(self, name: str) -> None:
        """Removes a file if it exists."""
        with suppress(*MISSING):
            self._try(lambda: self.filesystem.delete_file(f"{self.path}/{name}"), f"remove {self.uri_of(name)}")

    def remove_folder(self, name: str) -> None:
        """Removes a folder with all its files if it exists."""
        with suppress(*MISSING):
            self._try(lambda: self.filesystem.delete_dir(f"{self.path}/{name}"), f"remove {self.uri_of(name)}")

    def remove_all(self) -> None:
        """Removes the whole folder."""
        with suppress(*MISSING):
            self._try(lambda: self.filesystem.delete_dir(self.path), f"remove {self.uri}")

    def rename(self, old: str, new: str) -> None:
        """Renames a file if it exists."""
        with suppress(*MISSING):
            paths = f"{self.path}/{old}", f"{self.path}/{new}"
            self._try(lambda: self.filesystem.move(*paths), f"move {self.uri_of(old)}")

    def _try(self, do: Callable[[], T], what: str) -> T:
        return patiently(do, what, seconds=self.seconds, notify=self.notify)

    def _make_parent(self, name: str) -> None:
        """Creates the folder of a file on filesystems that have folders; object stores have none."""
        if self.filesystem.type_name not in ("s3", "gcs"):
            self.filesystem.create_dir(f"{self.path}/{name}".rpartition("/")[0], recursive=True)

    def _name(self, path: str) -> str:
        """Returns a listed path relative to the folder; refuses names that would be outside a local folder."""
        name = path.removeprefix(f"{self.path}/")
        parts = name.split("/")
        if path == name or "\\" in name or "\0" in name or {"", ".", ".."} & set(parts):
            raise StorageError(f"{self.uri} holds a file whose name cannot be used: {name!r}")
        return name
