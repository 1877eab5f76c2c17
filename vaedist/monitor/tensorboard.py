"""TensorBoard event files of one run, written without TensorFlow.

tensorboardX builds and frames the records. Its SummaryWriter is not used: it writes from a thread with a queue of ten
records, so a full disk kills the thread silently and then blocks training forever. It also names files by the second,
so a quick restart truncates the previous file. Here, records are written synchronously, and errors are raised at once.

Scalars, pictures and histograms are written as tensors with metadata, like those of TensorFlow 2: of the older forms
that tensorboardX writes, TensorBoard's fast reader drops the descriptions.

TensorBoard reads a folder's files in the order of their names, and never returns to an earlier name. Therefore the name
of each new file sorts after all existing ones, even if the clock was set back or differs between machines.
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
from tensorboard.compat.proto.summary_pb2 import Summary as NewSummary
from tensorboard.data_compat import migrate_value
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboardX import summary
from tensorboardX.proto.api_pb2 import MetricInfo, MetricName
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.record_writer import RecordWriter

from vaedist.errors import StorageError
from vaedist.files import replace_file
from vaedist.monitor.curves import description
from vaedist.monitor.pictures import grid, save_png

PREFIX = "events.out.tfevents."
FLUSH_SECONDS = 10.0
HISTOGRAM_BINS = 64
SPRITE_PIXELS = 8192  # maximum side of a sprite sheet that the Projector can show


class TensorBoardWriter:
    """Writes an event file of one run, for `tensorboard --logdir` on its folder or a parent folder.

    Args:
        folder: the run's TensorBoard folder, created if missing. Each writer adds its own file.
        purge_step: first step that will be written again: the checkpoint's step + 1 in a resumed run. TensorBoard then
            drops earlier records from that step on. None for a new run.
        after: names of event files of the run that are only on an object store.

    Raises:
        StorageError: from every method, if the folder cannot be written.
    """

    def __init__(self, folder: str | Path, *, purge_step: int | None, after: Iterable[str] = ()) -> None:
        self._folder = Path(folder)
        self._flushed, self._described = time.monotonic(), set[str]()
        with self._storage():
            self._folder.mkdir(parents=True, exist_ok=True)
            names = [*after, *(path.name for path in self._folder.iterdir())]
            self._records = RecordWriter(str(self._folder / next_file_name(names)))
        self._write(Event(file_version="brain.Event:2"))
        if purge_step is not None:
            for _ in range(2):  # TensorBoard's slow reader takes the first one of a run for its start
                self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one point of each curve; the part of a tag before the first slash is its group.

        The description of a tag, see `monitor.curves`, is written with its first point.
        """
        for tag, value in values.items():
            self._summary(summary.scalar(tag, float(value), summary_description=self._new_description(tag)), step)

    def picture(self, tag: str, step: int, png: bytes, caption: str = "") -> None:
        """Writes a picture, encoded by `encode_png`, with a caption."""
        with Image.open(io.BytesIO(png)) as picture:
            (width, height), channels = picture.size, len(picture.getbands())
        image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png)
        metadata = SummaryMetadata(summary_description=caption)
        self._summary(Summary(value=[Summary.Value(tag=tag, image=image, metadata=metadata)]), step)

    def histogram(self, tag: str, step: int, values: np.ndarray) -> None:
        """Writes a histogram of values of any shape; non-finite values are omitted."""
        values = np.asarray(values, dtype=np.float64).ravel()
        values = values[np.isfinite(values)]
        if values.size:
            record = summary.histogram(tag, values, bins=HISTOGRAM_BINS)
            record.value[0].metadata.summary_description = self._new_description(tag)
            self._summary(record, step)

    def text(self, tag: str, text_markdown: str, step: int = 0) -> None:
        """Writes a text in Markdown. A resumed run need not repeat texts of step 0."""
        self._summary(summary.text(tag, text_markdown), step)

    def charts(self, titles: Mapping[str, Mapping[str, str]]) -> None:
        """Defines charts with several curves, for the dashboard "Custom Scalars". A resumed run need not repeat them.

        Args:
            titles: regular expression of the tags of a chart's curves, by category and title of the chart.
        """
        layout = {
            category: {title: ["Multiline", [tags]] for title, tags in charts.items()}
            for category, charts in titles.items()
        }
        self._summary(summary.custom_scalars(layout), step=0)

    def hparams(self, params: Mapping[str, float | int | str | bool], metrics: Iterable[tuple[str, str]]) -> None:
        """Begins the run's row of the HParams table, whose metrics are the last points of curves.

        Args:
            params: hyperparameters by name.
            metrics: subfolder and tag of each curve; the subfolder is "" for curves of this writer.
        """
        experiment, start, _ = summary.hparams(dict(params), {})
        plugin_data = experiment.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin_data.content)
        content.experiment.metric_infos.extend(
            MetricInfo(
                name=MetricName(group=group, tag=tag),
                display_name=f"{group} {tag}".strip(),
                description=description(tag),
            )
            for group, tag in metrics
        )
        plugin_data.content = content.SerializeToString()
        for record in (experiment, start):
            self._summary(record, step=0)

    def end_hparams(self) -> None:
        """Marks the row of the HParams table as that of a finished run."""
        *_, end = summary.hparams({}, {})
        self._summary(end, step=0)

    def projector(
        self, tag: str, step: int, vectors: np.ndarray, labels: Sequence[str], thumbnails: np.ndarray
    ) -> None:
        """Writes points for TensorBoard's Projector, and replaces those of an earlier step with the same tag.

        Args:
            tag: name of the points, and of their folder below projector/.
            step: step that is shown after the tag.
            vectors: [n, d].
            labels: n labels.
            thumbnails: uint8, [n, H, W, C]; subsampled if n of them do not fit on one sheet.
        """
        n = len(vectors)
        if len(labels) != n or len(thumbnails) != n:
            raise ValueError(f"{n} vectors, {len(labels)} labels, {len(thumbnails)} thumbnails: numbers must be equal")
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
        """Flushes all records to the file."""
        with self._storage():
            self._records.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes the file."""
        with self._storage():
            self._records.flush()
            self._records.close()

    def _new_description(self, tag: str) -> str:
        """Returns the description of a tag if this file does not have it yet, else an empty text."""
        if tag in self._described:
            return ""
        self._described.add(tag)
        return description(tag)

    def _list_in_projector(self, name: str, folder: Path, size: tuple[int, ...]) -> None:
        """Lists the points in `folder` in projector_config.pbtxt, in place of an earlier entry for that folder."""
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
        values = [migrate_value(value) for value in NewSummary.FromString(record.SerializeToString()).value]
        migrated = Summary.FromString(NewSummary(value=values).SerializeToString())
        self._write(Event(step=int(step), summary=migrated))

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

    The name is TensorBoard's events.out.tfevents.SECONDS.HOST with a unique suffix. The seconds are the clock's, or one
    more than those of the newest file if the clock is behind.
    """
    found = (re.match(rf"{re.escape(PREFIX)}(\d{{10}})\.", name) for name in names)
    newest = max((int(match[1]) for match in found if match), default=0)
    seconds = max(int(time.time()), newest + 1)
    return f"{PREFIX}{seconds:010d}.{socket.gethostname()}.{time.time_ns()}"
