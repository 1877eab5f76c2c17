"""TensorBoard event files of one run, written without TensorFlow.

tensorboardX makes the records and frames them. Its SummaryWriter is not used: it writes from a thread through
a queue of ten places, so that a full disk kills the thread unseen and then blocks training for good, and it
names files by the second, so that a quick restart truncates the file before it. Here a record is written, and
fails, where it is made.

TensorBoard reads a folder's files in the order of their names, and never returns to a name before the one that it has
reached. So each new file is named after the newest that is there, and the clock decides only if it is later still: a
clock that was set back, or another machine's, hides nothing.
"""

import io
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from google.protobuf import text_format  # type: ignore[import-untyped]
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.record_writer import RecordWriter

from vaedist.errors import StorageError
from vaedist.files import replace_file
from vaedist.monitor.pictures import grid, save_png

PREFIX = "events.out.tfevents."
FLUSH_SECONDS = 10.0
HISTOGRAM_BINS = 64
SPRITE_PIXELS = 8192  # the Projector draws nothing from a larger sheet


class TensorBoardWriter:
    """Write one run's event file; `tensorboard --logdir` on the folder, or on one above it, shows it.

    Args:
        folder: the run's TensorBoard folder, made when missing. Each writer adds a file of its own to it.
        purge_step: first step that is about to be written again, which is the checkpoint's step + 1 in a run
            that goes on. TensorBoard then drops what the folder holds from that step on. None in a new run.
        after: names of event files that belong to the folder and are not in it, but on a store.

    Raises:
        StorageError: from every method, when the folder cannot be written.
    """

    def __init__(self, folder: str | Path, *, purge_step: int | None, after: Iterable[str] = ()) -> None:
        self._folder = Path(folder)
        self._flushed = time.monotonic()
        with self._storage():
            self._folder.mkdir(parents=True, exist_ok=True)
            names = [*after, *(path.name for path in self._folder.iterdir())]
            self._records = RecordWriter(str(self._folder / next_file_name(names)))
        self._write(Event(file_version="brain.Event:2"))
        if purge_step is not None:
            self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One point in each curve; a tag's part before the first slash is its group."""
        for tag, value in values.items():
            self._summary(summary.scalar(tag, float(value)), step)

    def picture(self, tag: str, step: int, png: bytes, caption: str = "") -> None:
        """A picture, as `encode_png` gives it, and what TensorBoard says of it."""
        with Image.open(io.BytesIO(png)) as picture:
            (width, height), channels = picture.size, len(picture.getbands())
        image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png)
        told = SummaryMetadata(summary_description=caption)
        self._summary(Summary(value=[Summary.Value(tag=tag, image=image, metadata=told)]), step)

    def histogram(self, tag: str, step: int, values: np.ndarray) -> None:
        """The distribution of values, any shape; those that are not finite are left out."""
        values = np.asarray(values, dtype=np.float64).ravel()
        values = values[np.isfinite(values)]
        if values.size:
            self._summary(summary.histogram(tag, values, bins=HISTOGRAM_BINS), step)

    def text(self, tag: str, text_markdown: str, step: int = 0) -> None:
        """A text in Markdown. A run that goes on need not repeat what it wrote at step 0."""
        self._summary(summary.text(tag, text_markdown), step)

    def hparams(
        self, params: Mapping[str, float | int | str | bool], metrics: Mapping[str, float], *, step: int = 0
    ) -> None:
        """The run's row in the HParams table: what was chosen, and what came out.

        Args:
            params: hyperparameters by name.
            metrics: results by tag; each becomes a scalar at `step`, so tags of curves should not be used.
            step: where the scalars stand.
        """
        for record in summary.hparams(dict(params), dict(metrics)):
            self._summary(record, step=0)
        self.scalars(step, metrics)

    def projector(
        self, tag: str, step: int, vectors: np.ndarray, labels: Sequence[str], thumbnails: np.ndarray
    ) -> None:
        """Points for TensorBoard's Projector; those of an earlier step under the same tag are replaced.

        Args:
            tag: names the points, and the folder below projector/ that holds them.
            step: shown behind the tag.
            vectors: [n, d].
            labels: n labels.
            thumbnails: uint8, [n, H, W, C]; made smaller when n of them would not fit one sheet.
        """
        n = len(vectors)
        if len(labels) != n or len(thumbnails) != n:
            raise ValueError(f"{n} vectors, {len(labels)} labels and {len(thumbnails)} thumbnails must be as many")
        columns = int(np.ceil(np.sqrt(n)))
        stride = -(-columns * max(thumbnails.shape[1:3]) // SPRITE_PIXELS)
        thumbnails = thumbnails[:, ::stride, ::stride]
        folder = self._folder / "projector" / tag.replace("/", "-")
        save_png(folder / "sprite.png", grid(thumbnails, columns, padding=0))
        with self._storage():
            replace_file(folder / "metadata.tsv", "".join(" ".join(label.split()) + "\n" for label in labels))
            rows = ("\t".join(f"{x:.7g}" for x in vector) for vector in vectors)
            replace_file(folder / "tensors.tsv", "".join(row + "\n" for row in rows))
            self._list_in_projector(f"{tag} (step {step})", folder, thumbnails.shape[1:3])

    def flush(self) -> None:
        """Bring all that was written to the disk."""
        with self._storage():
            self._records.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush and close the file."""
        with self._storage():
            self._records.flush()
            self._records.close()

    def _list_in_projector(self, name: str, folder: Path, size: tuple[int, ...]) -> None:
        """Put the points in `folder` into projector_config.pbtxt, in the place of those that were there."""
        path = self._folder / "projector_config.pbtxt"
        inside = folder.relative_to(self._folder).as_posix()
        config = ProjectorConfig()
        if path.exists():
            text_format.Parse(path.read_text(encoding="utf-8"), config)
        others = [e for e in config.embeddings if e.tensor_path != f"{inside}/tensors.tsv"]
        config.ClearField("embeddings")
        config.embeddings.extend(others)
        points = config.embeddings.add(
            tensor_name=name, tensor_path=f"{inside}/tensors.tsv", metadata_path=f"{inside}/metadata.tsv"
        )
        points.sprite.image_path = f"{inside}/sprite.png"
        points.sprite.single_image_dim.extend([size[1], size[0]])  # width, height
        replace_file(path, text_format.MessageToString(config))

    def _summary(self, record: Summary, step: int) -> None:
        self._write(Event(step=int(step), summary=record))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with self._storage():
            self._records.write(event.SerializeToString())
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    @contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"cannot write TensorBoard's {self._folder}: {error.strerror or error}") from error


def next_file_name(names: Iterable[str]) -> str:
    """Returns a name for an event file that sorts after those of all event files in `names`.

    It is TensorBoard's own form, events.out.tfevents.SECONDS.HOST, and a suffix by which no two are the same. The
    seconds are the clock's, or one more than those of the newest file where the clock is behind it.
    """
    found = (re.match(rf"{re.escape(PREFIX)}(\d{{10}})\.", name) for name in names)
    newest = max((int(match[1]) for match in found if match), default=0)
    seconds = max(int(time.time()), newest + 1)
    return f"{PREFIX}{seconds:010d}.{socket.gethostname()}.{time.time_ns()}"
