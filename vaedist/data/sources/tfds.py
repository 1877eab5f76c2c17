"""Image data sets of tensorflow-datasets, by name."""

import difflib
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np

from vaedist.data.manifest import ALL_SPLITS, SPLITS, Source, SplitName
from vaedist.data.sources.pixels import eight_bit_values
from vaedist.data.sources.source import Batch, ImageSource, plain_name
from vaedist.errors import DataError
from vaedist.storage.filesystem import first_line
from vaedist.tensorflow_log import without_import_messages

# name, name/config, name:version: data sets of tensorflow-datasets itself. A community name (owner:name) would run
# downloaded code.
_NAME = re.compile(r"[a-z0-9_]+(/[\w.+-]+)?(:\d+\.[\d.*]+)?")
BATCH = 256  # rows read at a time

RETRIES = 5  # of a download, with pauses of 6 s in total; those of tensorflow-datasets take minutes

_PUBLISHED = {"cifar10": "--archive cifar-10-binary.tar.gz"} | dict.fromkeys(
    ("mnist", "fashion_mnist", "kmnist", "emnist"), "--idx DIR"
)


def without_network(name: str) -> str:
    """Returns the end of a message: the command that reads a data set's published files; "" if there is none."""
    base = re.split("[:/]", name)[0]
    return f"; without a network: vaedist data prepare {base} {_PUBLISHED[base]}" if base in _PUBLISHED else ""


def tfds_source(name: str, data_dir: str | Path | None = None) -> ImageSource:
    """Returns the images of a data set of tensorflow-datasets, which is downloaded and prepared if necessary.

    A data set without class labels gets the single class "unlabelled". A validation split is used if there is one.
    16-bit pixels are scaled to 8 bits; alpha is kept as a fourth channel.

    Args:
        name: name in tensorflow-datasets, such as "cifar10" or "mnist:3.0.1".
        data_dir: data folder of tensorflow-datasets; None means its default, ~/tensorflow_datasets.

    Raises:
        DataError: the name is unknown, the images have no fixed shape, the training or test split is missing, or the
            download fails.
    """
    if not _NAME.fullmatch(name):
        raise DataError(f"{name!r} is not the name of a data set: expected NAME, NAME/CONFIG or NAME:VERSION")
    _leave_gpus_free()
    builder = _builder(name, data_dir)
    shape = _image_shape(builder, name)
    classes = _class_names(builder)
    _download(builder, name)
    missing = [split for split in SPLITS if split not in builder.info.splits]
    if missing:
        has = ", ".join(sorted(builder.info.splits))
        raise DataError(f"data set {name} has no {missing[0]} split; it has {has}, and both train and test are needed")
    return ImageSource(
        name=plain_name(name.partition(":")[0]),
        shape=shape,
        classes=classes or ("unlabelled",),
        provenance=Source(kind="tfds", name=builder.info.full_name),
        counts={split: builder.info.splits[split].num_examples for split in ALL_SPLITS if split in builder.info.splits},
        reader=lambda split: _read(builder, split, labelled=bool(classes)),
    )


def _leave_gpus_free() -> None:
    """Prevents TensorFlow from allocating all GPU memory, as it only reads files here."""
    with without_import_messages():
        import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        with suppress(RuntimeError):  # already initialised
            tf.config.experimental.set_memory_growth(gpu, True)


def _builder(name: str, data_dir: str | Path | None) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise DataError(f"no data set {name!r} in tensorflow-datasets{hint}") from error
    except Exception as error:  # a wrong version or config; error types vary
        raise DataError(f"cannot open data set {name}: {first_line(error)}") from error


def _image_shape(builder: Any, name: str) -> tuple[int, int, int]:
    import tensorflow_datasets as tfds

    features = builder.info.features
    image = features["image"] if "image" in features else None  # noqa: SIM401 - it is no dict
    if not isinstance(image, tfds.features.Image):
        raise DataError(f"data set {name} has no image feature; it has {', '.join(sorted(features))}")
    if None in image.shape or len(image.shape) != 3 or image.np_dtype not in (np.uint8, np.uint16):
        shape = "x".join("?" if side is None else str(side) for side in image.shape)
        kind = np.dtype(image.np_dtype).name
        raise DataError(f"data set {name} has images {shape} of {kind}; one fixed shape of uint8 or uint16 is needed")
    height, width, channels = image.shape
    return height, width, channels


def _class_names(builder: Any) -> tuple[str, ...]:
    """Returns the names of the classes; empty if the images have no class labels."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    label = features["label"] if "label" in features else None  # noqa: SIM401 - it is no dict
    return tuple(label.names) if isinstance(label, tfds.features.ClassLabel) and label.num_classes else ()


def _download(builder: Any, name: str) -> None:
    try:
        with redirect_stdout(sys.stderr), _few_retries():  # it reports progress on stdout
            builder.download_and_prepare()
    except Exception as error:  # runs the data set's own code
        message = f"cannot download and prepare {name}: {first_line(error)}{without_network(name)}"
        raise DataError(message) from error


@contextmanager
def _few_retries() -> Iterator[None]:
    """Lets tensorflow-datasets retry a download `RETRIES` times, without a warning each time."""
    from tensorflow_datasets.core.download import downloader

    logger = logging.getLogger("urllib3.connectionpool")
    kept = downloader.MAX_RETRIES, logger.level
    downloader.MAX_RETRIES = RETRIES
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        downloader.MAX_RETRIES = kept[0]
        logger.setLevel(kept[1])


def _read(builder: Any, split: SplitName, *, labelled: bool) -> Iterator[Batch]:
    import tensorflow_datasets as tfds

    features = {"image": True, "label": True} if labelled else {"image": True}
    try:
        rows = builder.as_dataset(
            split=split, shuffle_files=False, decoders=tfds.decode.PartialDecoding(features)
        ).batch(BATCH)
        for row in tfds.as_numpy(rows):
            images = row["image"] if row["image"].dtype == np.uint8 else eight_bit_values(row["image"])
            yield images, row["label"] if labelled else np.zeros(len(images), np.int32)
    except Exception as error:  # TensorFlow's own errors
        raise DataError(f"cannot read the {split} split of {builder.info.full_name}: {first_line(error)}") from error
