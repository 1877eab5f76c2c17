"""Small data sets for tests: every image contains the number of its row."""

import gzip
import io
import tarfile

import numpy as np

from vaedist.data.manifest import Source
from vaedist.data.sources import ImageSource

SHAPE = (4, 6, 3)
CLASSES = ("cat", "dog", "ship")


def image_rows(start, stop, shape=SHAPE):
    """Returns images start, ..., stop - 1, whose pixels 0 and 1 hold the row's number."""
    rows = np.arange(start, stop)
    images = np.random.default_rng(0).integers(0, 256, (stop, *shape), dtype=np.uint8)[start:]
    flat = images.reshape(len(rows), -1)
    flat[:, 0], flat[:, 1] = rows // 256, rows % 256
    return images


def row_of(images):
    """Returns the numbers that image_rows wrote."""
    flat = images.reshape(len(images), -1).astype(int)
    return flat[:, 0] * 256 + flat[:, 1]


def source(train=53, test=11, *, validation=None, batch=7, fails_at=None, error=None, shape=SHAPE):
    """Returns numbered images; row n has label n % 3. `error` is raised after `fails_at` rows."""
    counts = {"train": train, "test": test}
    if validation is not None:
        counts["validation"] = validation

    def read(split):
        for start in range(0, counts[split], batch):
            if error is not None and split == "train" and start >= fails_at:
                raise error
            stop = min(start + batch, counts[split])
            yield image_rows(start, stop, shape), np.arange(start, stop) % len(CLASSES)

    return ImageSource(
        name="numbers",
        shape=shape,
        classes=CLASSES,
        provenance=Source(kind="test", name="numbers"),
        counts=counts,
        reader=read,
    )


NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
FOLDER = "cifar-10-batches-bin"


def cifar10_records(rows, seed=0):
    """Returns records [rows, 3073] as in the binary archive."""
    records = np.random.default_rng(seed).integers(0, 256, (rows, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    return records


def cifar10_members(train=50, test=20):
    """Returns name and content of each member of a small archive."""
    batches = np.array_split(cifar10_records(train), 5)
    members = {f"{FOLDER}/batches.meta.txt": "\n".join(NAMES.split()).encode() + b"\n\n"}
    members |= {f"{FOLDER}/data_batch_{k}.bin": part.tobytes() for k, part in enumerate(batches, 1)}
    members[f"{FOLDER}/test_batch.bin"] = cifar10_records(test, seed=1).tobytes()
    return members


def write_archive(path, members, extra=()):
    """Writes a gzip-compressed tar of members, and of `extra` TarInfo entries without content."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return path


IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
GREY = (6, 5)


def grey_arrays(train=50, test=20, shape=GREY):
    """Returns images and labels of two splits; image n has label n % 3 + 1."""
    rows = {"train": (0, train), "test": (train, train + test)}
    return {
        split: (image_rows(*each, (*shape, 1)).reshape(-1, *shape), (np.arange(*each) % 3 + 1).astype(np.uint8))
        for split, each in rows.items()
    }


def idx_bytes(array):
    """Returns an array of bytes as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_idx(folder, arrays=None, *, names=IDX_FILES, compress=True, labels=True):
    """Writes the four IDX files of a data set."""
    folder.mkdir(exist_ok=True)
    for split, pair in (arrays or grey_arrays()).items():
        for name, array in list(zip(names[split], pair, strict=True))[: 2 if labels else 1]:
            content = idx_bytes(array)
            (folder / (f"{name}.gz" if compress else name)).write_bytes(gzip.compress(content) if compress else content)
    return folder


def npz_arrays(arrays=None):
    """Returns the arrays of a data set by their names in Keras's mnist.npz."""
    arrays = arrays or grey_arrays()
    return {
        f"{letter}_{split}": array for split, pair in arrays.items() for letter, array in zip("xy", pair, strict=True)
    }


def write_npz(path, save=np.savez_compressed, **changes):
    """Writes the arrays of a data set, some of them replaced; None leaves one out."""
    arrays = npz_arrays() | changes
    save(path, **{name: array for name, array in arrays.items() if array is not None})
    return path
