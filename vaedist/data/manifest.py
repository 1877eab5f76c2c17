"""Manifest of a data set: its shards and their digests.

A data set is a folder, local or at a pyarrow filesystem URI, that holds shard files and `manifest.json`. The manifest
contains no dates and no absolute paths, so that the same source and seed give the same bytes on every machine. Their
SHA-256 is the data set's fingerprint.
"""

import hashlib
import json
import math
from collections.abc import Callable
from typing import Literal, Self

import pyarrow as pa
import pyarrow.fs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vaedist.errors import DataError
from vaedist.storage.filesystem import first_line, open_filesystem, sha256_of
from vaedist.storage.retry import COMMAND_SECONDS, patiently
from vaedist.storage.uri import is_remote, join_uri

MANIFEST = "manifest.json"

SplitName = Literal["train", "test", "validation"]
SPLITS: tuple[SplitName, ...] = ("train", "test")  # splits that every data set has
ALL_SPLITS: tuple[SplitName, ...] = (*SPLITS, "validation")  # in the order of writing and reading
HeldOut = Literal["random", "end"]

PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
SHA256 = r"^[0-9a-f]{64}$"


MOST_VALUES = 2**31 - 1  # values per image, a limit of Arrow


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Shard(_Record):
    """One Arrow IPC file; `file` is its name in the data set's folder, without a path."""

    file: str = Field(pattern=PLAIN_NAME, max_length=255)
    rows: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=SHA256)


class Split(_Record):
    """Shards of one split; shard l of S holds ceil((rows - l) / S) rows."""

    rows: int = Field(ge=1)
    shards: tuple[Shard, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _dealt_evenly(self) -> Self:
        for lane, shard in enumerate(self.shards):
            expected = shard_rows(self.rows, len(self.shards), lane)
            if shard.rows != expected:
                raise ValueError(f"{shard.file} has {shard.rows} rows, but an even distribution gives {expected}")
        return self

    @property
    def bytes(self) -> int:
        """Total size of the shards in bytes."""
        return sum(shard.bytes for shard in self.shards)


class Source(_Record):
    """Provenance of the images.

    Attributes:
        kind: the reader: "cifar10-archive", "idx", "npz", "tfds", "photos" or "folder".
        name: base name of the file or folder, or name and version of the data set.
        sha256: digest of the file, or of the concatenated files, decompressed if they are IDX files; None if there is
            none.
        official: True if sha256 is the digest stated by the publisher; None if the publisher states none.
    """

    kind: str
    name: str
    sha256: str | None = Field(default=None, pattern=SHA256)
    official: bool | None = None


class Manifest(_Record):
    """Description of a data set, identified by `fingerprint`.

    Format 2 adds the validation split. A data set without one is written in format 1, so that its bytes and its
    fingerprint do not change, and older versions of vaedist can read it.

    Attributes:
        held_out: how the validation images were held out from the training images: "random" or "end"; None if there
            are none, or if they are a split of the source.
    """

    format: Literal[1, 2] = 1
    name: str = Field(pattern=PLAIN_NAME, max_length=128)
    shape: tuple[int, int, int]
    classes: tuple[str, ...] = Field(min_length=1)
    seed: int
    source: Source
    splits: dict[SplitName, Split]
    held_out: HeldOut | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if min(self.shape) < 1 or math.prod(self.shape) > MOST_VALUES:
            raise ValueError(
                f"shape {self.shape} must be height, width and channels, each at least 1, and of {MOST_VALUES:,} "
                "values at most"
            )
        missing = set(SPLITS) - set(self.splits)
        if missing:
            raise ValueError(f"no {' and no '.join(sorted(missing))} split")
        if ("validation" in self.splits) != (self.format == 2):
            raise ValueError(
                f"format {self.format} must be {'without' if self.format == 1 else 'with'} a validation split"
            )
        if self.held_out and "validation" not in self.splits:
            raise ValueError("held_out requires a validation split")
        files = [shard.file for split in self.splits.values() for shard in split.shards]
        if len(set(files)) < len(files):
            raise ValueError("a shard file is listed twice")
        return self

    def to_bytes(self) -> bytes:
        """Returns the canonical JSON, the content of manifest.json."""
        tables = self.model_dump(mode="json")
        if self.format == 1:
            del tables["held_out"]
        return (json.dumps(tables, indent=1, sort_keys=True) + "\n").encode()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def split_names(self) -> tuple[SplitName, ...]:
        """Splits of the data set, in the order of `ALL_SPLITS`."""
        return tuple(split for split in ALL_SPLITS if split in self.splits)

    @property
    def selection_split(self) -> SplitName:
        """Split that is scored after each epoch to select checkpoints and trials: validation if present, else test."""
        return "validation" if "validation" in self.splits else "test"

    @property
    def bytes(self) -> int:
        """Total size of all shards in bytes."""
        return sum(split.bytes for split in self.splits.values())


def shard_rows(rows: int, shards: int, lane: int) -> int:
    """Returns the rows of shard `lane` if `rows` are distributed round-robin: ceil((rows - lane) / shards)."""
    return -((lane - rows) // shards)


def load_manifest(uri: str, *, seconds: float = COMMAND_SECONDS) -> Manifest:
    """Reads the manifest of a data set; the shards are not checked.

    Args:
        uri: the data set.
        seconds: time limit for an object store to respond.

    Raises:
        DataError: there is no data set at `uri`, or its manifest is damaged or of another format.
        StorageError: the object store does not respond.
    """
    filesystem, path = open_filesystem(uri)
    where = join_uri(uri, MANIFEST)

    def read() -> bytes:
        with filesystem.open_input_stream(f"{path}/{MANIFEST}") as stream:
            return stream.read()

    try:
        text = patiently(read, f"read {where}", seconds=seconds) if is_remote(uri) else read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"no data set at {uri}: run `vaedist data prepare SOURCE --out {uri}`") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read {where}: {first_line(error)}") from error
    return parse_manifest(text, where)


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Parses and validates the text of a manifest; `where` names it in errors.

    Raises:
        DataError: the manifest is invalid; the message is about the first fault.
    """
    try:
        tables = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {first_line(error)}") from error
    found = tables.get("format") if isinstance(tables, dict) else None
    if found not in (1, 2):
        raise DataError(f"{where} has format {found!r}; this version of vaedist reads formats 1 and 2")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "string_pattern_mismatch":
            message = f"{fault['input']!r} must match {fault['ctx']['pattern']}"
        raise DataError(f"{where} is damaged: {key + ': ' if key else ''}{message}") from error


def verify(uri: str, *, progress: Callable[[int], None] | None = None) -> Manifest:
    """Compares the size and the SHA-256 of every shard with the manifest.

    Args:
        uri: the data set.
        progress: called repeatedly with the number of bytes read so far, of `Manifest.bytes` in all.

    Raises:
        DataError: there is no data set, or a shard is missing or differs; the message names it.
    """
    manifest = load_manifest(uri)
    filesystem, path = open_filesystem(uri)
    done = 0

    def seen(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done)

    for split in manifest.split_names:
        for shard in manifest.splits[split].shards:
            _verify_shard(filesystem, f"{path}/{shard.file}", shard, join_uri(uri, shard.file), seen)
    return manifest


def _verify_shard(
    filesystem: pyarrow.fs.FileSystem, path: str, shard: Shard, where: str, seen: Callable[[int], None]
) -> None:
    try:
        info = filesystem.get_file_info(path)
        if info.type != pyarrow.fs.FileType.File:
            raise DataError(f"shard {where} is missing; prepare the data set again")
        if info.size != shard.bytes:
            raise DataError(f"shard {where} is damaged: {info.size} bytes where {shard.bytes} were written")
        found = sha256_of(filesystem, path, seen)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read shard {where}: {first_line(error)}") from error
    if found != shard.sha256:
        raise DataError(f"shard {where} is damaged: SHA-256 {found[:12]}... where {shard.sha256[:12]}... was written")
