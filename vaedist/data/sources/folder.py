"""A folder of images, one subfolder a class."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vaedist.data.manifest import SPLITS, Source, SplitName
from vaedist.data.sources.source import Batch, ImageSource, plain_name
from vaedist.errors import DataError
from vaedist.storage.filesystem import first_line

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
TEST_SHARE = 0.1
BATCH = 200  # images decoded at a time

Labelled = tuple[Path, int]


def folder(path: str | Path, size: tuple[int, int] = (32, 32), seed: int = 0, *, grey: bool = False) -> ImageSource:
    """Images at path/CLASS/*.png and the like, turned upright, cut to the aspect of `size`, and resized.

    Where path/train and path/test exist, they hold the class folders; else a tenth of each class, drawn at
    random, is for testing.

    Args:
        path: the folder.
        size: height and width of the images that are made, in pixels.
        seed: of the draw.
        grey: make images of one channel instead of three.

    Raises:
        DataError: no folder, or no class folder with images in it. Reading raises it for an unreadable image.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"no folder at {path}")
    if all((path / split).is_dir() for split in SPLITS):
        found = {split: _by_class(path / split) for split in SPLITS}
        classes = sorted({name for by_class in found.values() for name in by_class})
    else:
        by_class = _by_class(path)
        classes = sorted(by_class)
        found = _draw(by_class, seed)
    if not classes:
        raise DataError(f"no images in {path}: expected {path}/CLASS/*.png, or *.jpg, *.webp, *.bmp, *.gif, *.tif")
    rows: dict[SplitName, list[Labelled]] = {
        split: [(file, classes.index(name)) for name, images in sorted(found[split].items()) for file in images]
        for split in SPLITS
    }
    return ImageSource(
        name=plain_name(path.absolute().name),
        shape=(*size, 1 if grey else 3),
        classes=tuple(classes),
        provenance=Source(kind="folder", name=path.absolute().name or "/"),
        counts={split: len(files) for split, files in rows.items()},
        reader=lambda split: _read(rows[split], size, "L" if grey else "RGB"),
    )


def _by_class(path: Path) -> dict[str, list[Path]]:
    """The image files of each class folder that has any, sorted."""
    try:
        found = {
            below.name: sorted(f for f in below.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())
            for below in path.iterdir()
            if below.is_dir() and not below.name.startswith(".")
        }
    except OSError as error:
        raise DataError(f"cannot read folder {error.filename}: {error.strerror}") from error
    return {name: images for name, images in found.items() if images}


def _draw(by_class: dict[str, list[Path]], seed: int) -> dict[SplitName, dict[str, list[Path]]]:
    """Test images drawn from each class: a tenth, but at least one of two or more."""
    rng = np.random.default_rng(seed)
    found: dict[SplitName, dict[str, list[Path]]] = {"train": {}, "test": {}}
    for name, images in sorted(by_class.items()):
        count = min(max(1, round(TEST_SHARE * len(images))), len(images) - 1)
        drawn = set(rng.permutation(len(images))[:count].tolist())
        found["test"][name] = [images[k] for k in sorted(drawn)]
        found["train"][name] = [image for k, image in enumerate(images) if k not in drawn]
    return found


def _read(rows: Sequence[Labelled], size: tuple[int, int], mode: str) -> Iterator[Batch]:
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        yield np.stack([_decode(file, size, mode) for file, _ in some]), np.array([label for _, label in some])


def _decode(file: Path, size: tuple[int, int], mode: str) -> np.ndarray:
    """One image file as [H, W, 3], or [H, W, 1] in the mode "L"."""
    height, width = size
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image).convert(mode)
        return np.asarray(ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)).reshape(height, width, -1)
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(f"cannot read image {file}: {first_line(error)}") from error
