"""The output of a job: a folder with files for each part, local or on an object store.

A part is written atomically, under a name that depends only on the job. Existing parts are therefore complete, and an
interrupted output is completed by computing the missing ones.
"""

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vaedist.errors import RunError, StorageError
from vaedist.files import unfinished
from vaedist.inference.job import METADATA, Job
from vaedist.inference.parts import Part
from vaedist.storage.filesystem import first_line
from vaedist.storage.retry import MISSING
from vaedist.storage.stored_folder import StoredFolder

RECORD = "_vaedist.json"
SUCCESS = "_SUCCESS"
MARKS = "_parts"  # folder of the marks of complete parts, see `PngFormat`
LOCK = ".lock"  # of `claim_local_folder`
WRITTEN = re.compile(rf"{RECORD}|{SUCCESS}|\w+-\d{{6,}}(\.parquet)?|\d+\.png")  # names of files of an output
# What pyarrow raises for damaged files
DAMAGED = (pa.ArrowException, OSError, ValueError, LookupError, OverflowError, MemoryError)


@dataclass(frozen=True)
class OutputFolder(StoredFolder):
    """Files of a job's output; those whose names start with _ or . are not part of the table."""

    @property
    def record(self) -> Path:
        """Description of the job, see `record_text`."""
        return self.path / RECORD

    @property
    def logs(self) -> Path:
        """Output of Ray and TensorFlow."""
        return self.path / "_logs"

    @property
    def success(self) -> Path:
        """An empty file, written when the output is complete."""
        return self.path / SUCCESS

    def check(self, job: Job, fmt: "Format", *, resume: bool) -> None:
        """Checks that a job may write here.

        Raises:
            RunError: the folder is not empty, or with `resume`, not the output of the same job.
            StorageError: it cannot be read.
        """
        found = self._recorded()
        if found is None:
            if self.store.exists() and not all(_of_claim(path.name) for path in self.store.files()):
                raise RunError(f"{self.location} is not empty, and not an output of vaedist: use another name")
            return
        if not resume:
            raise RunError(
                f"{self.location} already exists: use another name, or --resume to complete it if it was interrupted"
            )
        wanted = _record(job, fmt)
        for key in {**wanted, **found}:
            if wanted.get(key) != found.get(key):
                raise RunError(
                    f"cannot resume {self.location}: its {key} is {json.dumps(found.get(key))}, not "
                    f"{json.dumps(wanted.get(key))}"
                )

    def check_owner(self, job: Job, fmt: "Format") -> None:
        """Checks that no command has replaced the record by that of another job, as object stores have no locks.

        Raises:
            RunError: the record is that of another job.
            StorageError: it cannot be read.
        """
        if self._recorded() not in (None, _record(job, fmt)):
            raise RunError(f"another command writes to {self.location}: use another name")

    def finish(self, job: Job, fmt: "Format") -> None:
        """Marks the output as complete, and removes temporary files that killed processes left.

        Raises:
            RunError: the record is that of another job.
            StorageError: a file cannot be read or written.
        """
        self.check_owner(job, fmt)
        self.clean()
        self.store.write(self.record, record_text(job, fmt).encode())  # a command that failed may have removed it
        self.store.write(self.success, b"")

    def clean(self) -> None:
        """Removes the mark of completeness, and temporary files; only for the command that owns the folder."""
        self.store.remove(self.success)
        for folder in (self.path, self.path / MARKS):
            with suppress(*MISSING), os.scandir(folder) as entries:
                for entry in entries:
                    if WRITTEN.fullmatch(unfinished(entry.name) or ""):
                        with suppress(OSError):
                            Path(entry.path).unlink()

    def read(self, name: str) -> bytes | None:
        """Returns the content of a file in the folder; None if there is no such file.

        Raises:
            StorageError: it cannot be read.
        """
        try:
            return self.store.read(self.path / name)
        except MISSING:
            return None
        except OSError as error:
            where = self.store.location_of(self.path / name)
            raise StorageError(f"cannot read {where}: {error.strerror or error}") from error

    def _recorded(self) -> dict[str, Any] | None:
        """Returns the record of the folder; None if there is none."""
        content = self.read(RECORD)
        if content is None:
            return None
        try:
            found = json.loads(content)
        except ValueError as error:
            raise StorageError(f"cannot read {self.store.location_of(self.record)}: {first_line(error)}") from error
        if not isinstance(found, dict):
            raise StorageError(f"cannot read {self.store.location_of(self.record)}: it must be a JSON object")
        return found


def _of_claim(name: str) -> bool:
    """Returns True for files of a command that was killed before it had written the record."""
    return name == LOCK or unfinished(name) == RECORD


def _record(job: Job, fmt: "Format") -> dict[str, Any]:
    """Returns the description of an output: the job and the format."""
    record: dict[str, Any] = json.loads(record_text(job, fmt))
    return record


def record_text(job: Job, fmt: "Format") -> str:
    """Returns the text of the file that describes an output: the job and the format, as JSON."""
    return json.dumps({"format": fmt.name, **job.record()}, indent=1) + "\n"


class Format(ABC):
    """Form in which the tables of a job are stored."""

    name: str

    @abstractmethod
    def write(self, output: OutputFolder, part: Part, table: pa.Table) -> None:
        """Writes a part atomically, replacing an older one.

        Raises:
            StorageError: it cannot be written; then the part does not exist, or is unchanged.
        """

    @abstractmethod
    def find(
        self, output: OutputFolder, part: Part, metadata: Mapping[str, str], columns: Sequence[str]
    ) -> pa.Table | None:
        """Returns some columns of a part if it exists and is intact, else None.

        Raises:
            StorageError: the folder cannot be read.
        """


@dataclass(frozen=True)
class ParquetFormat(Format):
    """One Parquet file for each part."""

    name = "parquet"

    def write(self, output: OutputFolder, part: Part, table: pa.Table) -> None:
        """Writes the file."""
        sink = pa.BufferOutputStream()
        texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
        pq.write_table(table, sink, use_dictionary=texts, write_page_checksum=True)  # type: ignore[arg-type]
        output.store.write(output.path / _parquet(part), sink.getvalue().to_pybytes())

    def find(
        self, output: OutputFolder, part: Part, metadata: Mapping[str, str], columns: Sequence[str]
    ) -> pa.Table | None:
        """Returns columns of the file if it can be read, and its number of rows and its metadata are those of the job.

        All of the file is read first, so that an error of the store cannot be taken for damage, or the reverse.
        """
        content = output.read(_parquet(part))
        if content is None:
            return None
        try:
            file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
            told = (file.schema_arrow.metadata or {}).get(METADATA.encode(), b"").decode()
            table = file.read()
            return table.select(list(columns)) if (table.num_rows, told) == (part.rows, metadata[METADATA]) else None
        except DAMAGED:
            return None


@dataclass(frozen=True)
class PngFormat(Format):
    """One PNG file for each row, named after its index; and an empty file for each part that is complete.

    Args:
        width: digits in a file's name.
    """

    width: int
    name = "png-files"

    def write(self, output: OutputFolder, part: Part, table: pa.Table) -> None:
        """Writes the files, then the mark of the part."""
        for index, image in zip(table["index"].to_pylist(), table["image"], strict=True):
            output.store.write(output.path / f"{index:0{self.width}d}.png", image.as_buffer().to_pybytes())
        output.store.write(output.path / _mark(part), b"")

    def find(
        self, output: OutputFolder, part: Part, metadata: Mapping[str, str], columns: Sequence[str]
    ) -> pa.Table | None:
        """Returns an empty table if the part is marked as complete."""
        return None if output.read(_mark(part)) is None else pa.table({})


def _parquet(part: Part) -> str:
    return f"{part.name}.parquet"


def _mark(part: Part) -> str:
    return f"{MARKS}/{part.name}"
