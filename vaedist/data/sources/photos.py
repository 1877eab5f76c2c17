"""The source `photos`: 32x32 crops of the photographs in the scikit-image package; needs no network.

Each photograph is divided into cells, some of which are test cells, and each crop lies within one cell. Thus no pixel
is used both for training and for testing, whatever the seed. Validation crops, if requested, come from separate cells,
too, taken from the training cells. Each photograph is a class.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from importlib.resources import files

import numpy as np
from PIL import Image

from vaedist.data.manifest import ALL_SPLITS, Source, SplitName
from vaedist.data.sources.source import Batch, ImageSource
from vaedist.errors import DataError

# Colour photographs of scenes that are in the wheel itself. motorcycle_right is omitted: as the other half of a stereo
# pair, it would show the test cells of motorcycle_left.
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
SIZE = 32  # pixels, both ways
LARGEST = 128  # pixels, the largest square that is scaled down to one crop; cells are at least as large
BATCH = 500  # rows generated at a time

Cell = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels, half-open."""


def photos(train: int = 10_000, test: int = 1_000, seed: int = 0, *, validation: int = 0) -> ImageSource:
    """Returns a source of square crops with sides of 32 to 128 pixels, averaged to 32x32, half of them mirrored.

    Args:
        train: crops from the training cells.
        test: crops from the test cells.
        seed: seed of positions, sizes and mirroring.
        validation: crops from the validation cells; with 0 there are no such cells, and no such split.

    Raises:
        DataError: scikit-image is not installed, or lacks its photographs.
    """
    contents = [_file(name) for name in PHOTOGRAPHS]
    pictures = [Image.open(io.BytesIO(content)).convert("RGB") for content in contents]
    digest = hashlib.sha256(b"".join(contents)).hexdigest()
    counts: dict[SplitName, int] = {"train": train, "test": test}
    if validation:
        counts["validation"] = validation
    return ImageSource(
        name="photos",
        shape=(SIZE, SIZE, 3),
        classes=tuple(name.partition(".")[0].partition("_")[0] for name in PHOTOGRAPHS),
        provenance=Source(kind="photos", name="scikit-image", sha256=digest),
        counts=counts,
        reader=lambda split: crops(pictures, split, counts[split], seed, validated=validation > 0),
    )


def cells(width: int, height: int, split: SplitName, *, validated: bool = False) -> list[Cell]:
    """Returns the cells of one split in a photograph; cells of different splits do not overlap.

    About every fifth cell is a test cell. They are a knight's move apart, so that they cover all parts of the
    photograph. With `validated`, there are as many validation cells; the rest are training cells.
    """
    colours: dict[int, SplitName] = {2: "test", 4: "validation"} if validated else {2: "test"}
    columns, rows = width // LARGEST, height // LARGEST
    xs, ys = (np.linspace(0, side, n + 1).astype(int).tolist() for side, n in ((width, columns), (height, rows)))
    return [
        (xs[column], ys[row], xs[column + 1], ys[row + 1])
        for row in range(rows)
        for column in range(columns)
        if colours.get((row + 2 * column) % 5, "train") == split
    ]


def _file(name: str) -> bytes:
    try:
        return (files("skimage") / "data" / name).read_bytes()
    except ModuleNotFoundError as error:
        raise DataError("the photographs are part of scikit-image: install `vaedist[photos]`") from error
    except OSError as error:
        raise DataError(f"scikit-image is installed without {name}: install `vaedist[photos]` again") from error


def crops(
    pictures: Sequence[Image.Image], split: SplitName, rows: int, seed: int, *, validated: bool = False
) -> Iterator[Batch]:
    """Yields `rows` crops from the cells of one split, round-robin over the pictures; labels are picture indices."""
    rng = np.random.default_rng([seed, ALL_SPLITS.index(split)])
    places = [cells(*picture.size, split, validated=validated) for picture in pictures]
    for start in range(0, rows, BATCH):
        labels = np.arange(start, min(start + BATCH, rows)) % len(pictures)
        yield np.stack([_crop(pictures[k], places[k], rng) for k in labels.tolist()]), labels


def _crop(picture: Image.Image, places: Sequence[Cell], rng: np.random.Generator) -> np.ndarray:
    """Returns a crop from a uniformly random position in a random cell, [32, 32, 3]."""
    left, top, right, bottom = places[int(rng.integers(len(places)))]
    side = int(rng.integers(SIZE, LARGEST, endpoint=True))
    x = int(rng.integers(left, right - side, endpoint=True))
    y = int(rng.integers(top, bottom - side, endpoint=True))
    box = (x, y, x + side, y + side)
    small = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BOX, box=box))
    return small[:, ::-1] if rng.random() < 0.5 else small
