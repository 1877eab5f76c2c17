"""The output of a job: a folder with files for each part, local or on an object store.

A part is written atomically, under a name that depends only on the job. Existing parts are therefore complete, and an
interrupted output is completed by computing the missing ones.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from vaedist.errors import RunError, StorageError
from vaedist.inference.job import METADATA, Job
from vaedist.inference.parts import Part
from vaedist.storage.filesystem import first_line, open_filesystem
from vaedist.storage.retry import MISSING, RUN_SECONDS, patiently
from vaedist.storage.stored_folder import StoredFolder

RECORD = "_vaedist.json"
SUCCESS = "_SUCCESS"
MARKS = "_parts"  # folder of the marks of complete parts, see `PngFormat`
LOCK = ".lock"  # of `claim_local_folder`
T = TypeVar("T")


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
        if not self.store.exists():
            return
        wanted = {"format": fmt.name, **job.record()}
        try:
            found = json.loads(self.store.read(self.record))
        except MISSING:
            if self.store.files():
                raise RunError(
                    f"{self.location} is not empty, and not an output of vaedist: use another name"
                ) from None
            return
        except (OSError, ValueError) as error:
            raise StorageError(f"cannot read {self.store.location_of(self.record)}: {first_line(error)}") from error
        if not resume:
            raise RunError(
                f"{self.location} already exists: use another name, or --resume to complete it if it was interrupted"
            )
        differing = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
        if differing:
            key = differing[0]
            raise RunError(
                f"cannot resume {self.location}: its {key} is {json.dumps(found.get(key))}, not "
                f"{json.dumps(wanted.get(key))}"
            )

    def finish(self) -> None:
        """Marks the output as complete, and removes temporary files that killed processes left."""
        self.clean()
        self.store.write(self.success, b"")

    def clean(self) -> None:
        """Removes the mark of completeness, and temporary files; only for the command that owns the folder."""
        self.store.remove(self.success)
        for folder in (self.path, self.path / MARKS):
            with suppress(*MISSING), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") and entry.name != LOCK:
                        with suppress(OSError):
                            Path(entry.path).unlink()

    def read(self, name: str, read: Callable[[pa.NativeFile], T]) -> T | None:
        """Returns the result of reading a file in the folder at random; None if there is no such file."""
        filesystem, folder = open_filesystem(self.location)

        def do() -> T:
            with filesystem.open_input_file(f"{folder}/{name}") as file:
                return read(file)

        try:
            return patiently(do, f"read {self.store.location_of(self.path / name)}", seconds=RUN_SECONDS)
        except MISSING:
            return None


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
        pq.write_table(table, sink, use_dictionary=texts)  # type: ignore[arg-type]
        output.store.write(output.path / _parquet(part), sink.getvalue().to_pybytes())

    def find(
        self, output: OutputFolder, part: Part, metadata: Mapping[str, str], columns: Sequence[str]
    ) -> pa.Table | None:
        """Returns columns of the file if its number of rows and its metadata are those of the job."""

        def read(source: pa.NativeFile) -> pa.Table | None:
            try:
                file = pq.ParquetFile(source)
                told = (file.schema_arrow.metadata or {}).get(METADATA.encode(), b"").decode()
                if file.metadata.num_rows != part.rows or told != metadata[METADATA]:
                    return None
                return file.read(columns=list(columns))
            except pa.ArrowInvalid:  # damaged
                return None

        return output.read(_parquet(part), read)


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
        return output.read(_mark(part), lambda _: pa.table({}))


def _parquet(part: Part) -> str:
    return f"{part.name}.parquet"


def _mark(part: Part) -> str:
    return f"{MARKS}/{part.name}"
