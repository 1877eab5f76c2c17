"""A folder of images, with or without subfolders for splits and classes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from vaedist.data.manifest import ALL_SPLITS, Source, SplitName
from vaedist.data.sources.layout import ByClass, find_images
from vaedist.data.sources.pixels import WHITE, Target, UnreadableImageError, decode
from vaedist.data.sources.source import Batch, ImageSource, plain_name
from vaedist.errors import DataError
from vaedist.files import readable

TEST_SHARE = 0.1
BATCH = 200  # images decoded at a time
LISTED = 20  # maximum number of unreadable images in a message

Labelled = tuple[Path, int]
Fault = tuple[Path, UnreadableImageError]


def folder(
    path: str | Path,
    size: tuple[int, int] = (32, 32),
    seed: int = 0,
    *,
    grey: bool = False,
    background: tuple[int, int, int] = WHITE,
    skip_damaged: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSource:
    """Images below a folder, turned upright, cut to the aspect of `size`, and resized.

    See `layout` for where splits and classes come from. Where there is no test split, a tenth of each class, drawn at
    random, is for testing. See `pixels` for how pixels of any kind become 8-bit grey or colour.

    Args:
        path: the folder.
        size: height and width of the images that are made, in pixels.
        seed: of the draw.
        grey: make images of one channel instead of three.
        background: colour behind transparent pixels, red, green and blue.
        skip_damaged: leave out images that cannot be decoded. To find these, every image is decoded once more.
        progress: called, while damaged images are looked for, with the images seen so far and their number.

    Raises:
        DataError: no folder, no images in it, or a layout in which splits and classes cannot be told. Reading raises
            it for unreadable images, and names them all, but no more than `LISTED`.
    """
    path, target = Path(path), Target(size, grey, background)
    layout = find_images(path)
    splits, notices = layout.splits, list(layout.notices)
    if skip_damaged and (faults := _faults(_files_in(splits), target, progress)):
        splits = _without(splits, faults)
        notices.append(readable(f"left out {_listed(faults)}"))
    if set(splits) == {"train"}:
        splits = _draw(splits["train"], seed)
    classes = sorted({name for by_class in splits.values() for name in by_class})
    rows = {split: _labelled(by_class, classes) for split, by_class in splits.items()}
    name = path.absolute().name
    return ImageSource(
        name=plain_name(name),
        shape=target.shape,
        classes=tuple(classes),
        provenance=Source(kind="folder", name=readable(name) or "/"),
        counts={split: len(files) for split, files in rows.items()},
        reader=lambda split: _read(rows, split, target),
        warnings=tuple(notices),
    )


def _files_in(splits: Mapping[SplitName, ByClass]) -> list[Path]:
    """Returns the images of all splits."""
    return [file for by_class in splits.values() for images in by_class.values() for file in images]


def _labelled(by_class: ByClass, classes: Sequence[str]) -> list[Labelled]:
    """Returns images with their labels, which are the positions of their classes in `classes`."""
    return [(file, classes.index(name)) for name, images in sorted(by_class.items()) for file in images]


def _draw(by_class: ByClass, seed: int) -> dict[SplitName, ByClass]:
    """Draws test images from the training images: a tenth of each class, at least one of two or more images."""
    rng = np.random.default_rng(seed)
    found: dict[SplitName, ByClass] = {"train": {}, "test": {}}
    for name, images in sorted(by_class.items()):
        count = min(max(1, round(TEST_SHARE * len(images))), len(images) - 1)
        drawn = set(rng.permutation(len(images))[:count].tolist())
        found["test"][name] = [images[k] for k in sorted(drawn)]
        found["train"][name] = [image for k, image in enumerate(images) if k not in drawn]
    return found


def _read(rows: Mapping[SplitName, Sequence[Labelled]], split: SplitName, target: Target) -> Iterator[Batch]:
    files = [file for file, _ in rows[split]]
    labels = np.array([label for _, label in rows[split]], np.int32)
    for start in range(0, len(files), BATCH):
        images = []
        for k, file in enumerate(files[start : start + BATCH], start):
            try:
                images.append(decode(file, target))
            except UnreadableImageError:
                later = [each for each in ALL_SPLITS[ALL_SPLITS.index(split) + 1 :] if each in rows]
                rest = [*files[k:], *(below for each in later for below, _ in rows[each])]
                faults = _faults(rest, target)
                raise DataError(f"cannot read {_listed(faults)}; --skip-damaged skips damaged images") from None
        yield np.stack(images), labels[start : start + BATCH]


def _faults(files: Sequence[Path], target: Target, progress: Callable[[int, int], None] | None = None) -> list[Fault]:
    """Decodes each file, and returns those that cannot be decoded."""
    found = []
    for count, file in enumerate(files, 1):
        try:
            decode(file, target)
        except UnreadableImageError as error:
            found.append((file, error))
        if progress is not None:
            progress(count, len(files))
    return found


def _without(splits: Mapping[SplitName, ByClass], faults: Sequence[Fault]) -> dict[SplitName, ByClass]:
    """Returns the images that have no fault.

    Raises:
        DataError: a file cannot be opened, although it may be intact; or a split has no images left.
    """
    closed = [(file, error) for file, error in faults if not error.damaged]
    if closed:
        raise DataError(f"cannot read {_listed(closed)}")
    left_out = {file for file, _ in faults}
    kept: dict[SplitName, ByClass] = {}
    for split, by_class in splits.items():
        intact = {name: [file for file in images if file not in left_out] for name, images in by_class.items()}
        kept[split] = {name: images for name, images in intact.items() if images}
        if not kept[split]:
            raise DataError(f"no image of the {split} split is left: cannot read {_listed(faults)}")
    return kept


def _listed(faults: Sequence[Fault]) -> str:
    """Describes unreadable images: their number if there are several, names and reasons."""
    named = [f"{file} ({error})" for file, error in faults[:LISTED]]
    more = f", and {len(faults) - LISTED} more" if len(faults) > LISTED else ""
    if len(faults) == 1:
        file, error = faults[0]
        return f"image {file}: {error}"
    return f"{len(faults)} images: {', '.join(named)}{more}"
