"""Finds the image files below a folder, and derives splits and classes from the names of its subfolders.

| layout                                   | splits                             | classes             |
|------------------------------------------|------------------------------------|---------------------|
| CLASS/*.png                              | drawn                              | the folders         |
| *.png                                    | drawn                              | "unlabelled"        |
| train/, test/, each as one of the above  | the folders                        | as above, per split |
| train/, val/, test/                      | the folders                        | as above, per split |
| train/, val/                             | the folders; val is the test split | as above, per split |
| train/ alone                             | drawn                              | as above            |

Images may be in subfolders of a class. Names of splits are case-insensitive. "Drawn" test images are chosen at random.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vaedist.data.manifest import SplitName
from vaedist.data.sources.pixels import decoded_suffixes
from vaedist.errors import DataError
from vaedist.files import readable

UNLABELLED = "unlabelled"
ByClass = dict[str, list[Path]]
"""Image files, sorted, by the name of their class."""

EXPECTED = "CLASS/*.png, *.png, or train/ and test/ with either of these"
NAMED = 5  # maximum number of files or folders in a message

# Image formats for which Pillow has no decoder of its own.
_PICTURES = frozenset(
    {".heic", ".heif", ".hif", ".avif", ".jxl", ".svg", ".eps", ".ps", ".pdf", ".wmf", ".emf"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"}
)
_SPLITS: Mapping[str, SplitName] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


@dataclass(frozen=True)
class Layout:
    """Image files by split and class.

    Attributes:
        splits: files by split; a single split, "train", if the test images are yet to be drawn from it.
        notices: messages for the user, one line each.
    """

    splits: dict[SplitName, ByClass]
    notices: tuple[str, ...]


@dataclass(frozen=True)
class _Folder:
    """A folder with its sorted image files and subfolders."""

    path: Path
    images: list[Path]
    folders: "list[_Folder]"

    @property
    def count(self) -> int:
        """Number of images at any depth."""
        return len(self.images) + sum(folder.count for folder in self.folders)

    @property
    def filled(self) -> "list[_Folder]":
        """Direct subfolders that contain images at any depth."""
        return [folder for folder in self.folders if folder.count]

    def all_images(self) -> Iterator[Path]:
        """Yields the images at any depth."""
        yield from self.images
        for folder in self.folders:
            yield from folder.all_images()


@dataclass
class _Finder:
    """Walks through folders; counts ignored files, and collects notices."""

    ignored: Counter[str] = field(default_factory=Counter)
    notices: list[str] = field(default_factory=list)

    def walk(self, path: Path, above: tuple[tuple[int, int], ...] = ()) -> _Folder:
        """Lists a folder recursively; links are followed, but not in a cycle."""
        found = _Folder(path, [], [])
        try:
            status = path.stat()
            identity = status.st_dev, status.st_ino
            if identity in above:
                return found
            with os.scandir(path) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if _is_hidden(entry.name):
                        continue
                    if entry.is_dir():
                        found.folders.append(self.walk(path / entry.name, (*above, identity)))
                    elif fault := _fault(entry):
                        self.ignored[fault] += 1
                    else:
                        found.images.append(path / entry.name)
        except OSError as error:
            raise DataError(f"cannot read folder {error.filename}: {error.strerror}") from error
        return found

    def by_class(self, folder: _Folder) -> ByClass:
        """Returns images by class: one class per subfolder, or "unlabelled" if no subfolder has images."""
        classes = folder.filled
        if not classes:
            return {UNLABELLED: sorted(folder.images)} if folder.images else {}
        for below in classes:
            splits = _by_split(below)
            if "train" in splits and len(splits) > 1:
                names = _names(each.path.name for trees in splits.values() for each in trees)
                hint = f"; is it --folder {below.path}?" if len(classes) == 1 else ""
                raise DataError(f"{below.path} has folders {names} within a class: expected {EXPECTED}{hint}")
        if folder.images:
            self.notices.append(f"ignored {_images(folder.images)} beside the class folders in {folder.path}")
        if len(classes) == 1 and len(classes[0].filled) > 1 and not classes[0].images:
            below = classes[0]
            self.notices.append(
                f"all images are in one class, {readable(below.path.name)}; --folder {below.path} would use its "
                f"folders, {_names(each.path.name for each in below.filled)}, as classes"
            )
        named = {readable(below.path.name): sorted(below.all_images()) for below in classes}
        if len(named) < len(classes):
            raise DataError(f"two folders in {folder.path} have names that differ only in bytes that are not UTF-8")
        return named

    def split(self, top: _Folder) -> dict[SplitName, ByClass]:
        """Returns images by split and class."""
        splits = _by_split(top)
        others = [each for each in top.filled if split_of(each.path.name) is None]
        if not splits or ("train" not in splits and others):
            return {"train": self.by_class(top)}
        for trees in splits.values():
            if len(trees) > 1:
                raise DataError(f"{top.path} has {_names(each.path.name for each in trees)}, which are the same split")
        empty = [each.path for each in top.folders if not each.count and split_of(each.path.name) == "test"]
        if "train" not in splits or (empty and "test" not in splits):
            found = _names(each.path.name for each in top.filled)
            missing = "test" if "train" in splits else "train"
            raise DataError(f"{top.path} has images in {found}, but none in {missing}: expected {EXPECTED}")
        if len(splits) == 1 and others:
            self.notices.append(f"{splits['train'][0].path} is used as a class, as there is no folder test beside it")
            return {"train": self.by_class(top)}
        for each in others:
            self.notices.append(f"ignored {each.count} images in {each.path}, which is not a split")
        if top.images:
            self.notices.append(f"ignored {_images(top.images)} beside the split folders in {top.path}")
        return self.named_splits({split: trees[0] for split, trees in splits.items()})

    def named_splits(self, folders: dict[SplitName, _Folder]) -> dict[SplitName, ByClass]:
        """Returns images by split and class; without a test folder, the validation folder is the test split."""
        if "test" not in folders and "validation" in folders:
            folders["test"] = folders.pop("validation")
            self.notices.append(f"{folders['test'].path} is the test split, as there is no folder test")
        if "test" not in folders:
            self.notices.append(f"test images are drawn from {folders['train'].path}, as there is no folder test")
        found = {split: self.by_class(folder) for split, folder in folders.items()}
        for split, by_class in found.items():
            if unknown := by_class.keys() - found["train"].keys():
                self.notices.append(f"{folders[split].path} has classes that train lacks: {_names(unknown)}")
        return found


def find_images(path: Path) -> Layout:
    """Finds the images below a folder.

    Hidden files and folders, including `._NAME` and `__MACOSX`, are skipped. The notices state how many other files
    were ignored, and why.

    Raises:
        DataError: there is no folder or no image, or splits and classes are ambiguous.
    """
    if not path.is_dir():
        raise DataError(f"no folder at {path}")
    finder = _Finder()
    top = finder.walk(path)
    kinds = ", ".join(f"{count} {kind}" for kind, count in finder.ignored.most_common())
    if not top.count:
        found = f"; found {kinds}" if kinds else "; it is empty" if not top.folders else ""
        raise DataError(f"no images in {path}: expected {EXPECTED}{found}")
    splits = finder.split(top)
    if kinds:
        files = finder.ignored.total()
        finder.notices.append(f"ignored {files} file{'s' if files > 1 else ''}: {kinds}")
    return Layout(splits, tuple(map(readable, finder.notices)))


def image_files(path: Path) -> list[Path]:
    """Returns the image files below a folder, at any depth and sorted; hidden files and folders are skipped.

    Raises:
        DataError: there is no folder, it cannot be read, or there is no image.
    """
    if not path.is_dir():
        raise DataError(f"no folder at {path}")
    files = sorted(_Finder().walk(path).all_images())
    if not files:
        raise DataError(f"no images in {path}")
    return files


def split_of(name: str) -> SplitName | None:
    """Returns the split that a folder's name stands for, case-insensitively; None if it is not a split."""
    return _SPLITS.get(name.casefold())


def _by_split(folder: _Folder) -> dict[SplitName, list[_Folder]]:
    """Returns the subfolders that have images and the name of a split, by split."""
    found: dict[SplitName, list[_Folder]] = {}
    for below in folder.filled:
        if split := split_of(below.path.name):
            found.setdefault(split, []).append(below)
    return found


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _fault(entry: "os.DirEntry[str]") -> str | None:
    """Returns the reason why a file is not a readable image; None if it is one."""
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - a Path for each of a million files takes time
    if not entry.is_file():
        return f"{suffix or 'without a suffix'} (a broken link, or not a file)"
    if suffix in decoded_suffixes():
        return None
    return f"{suffix} (no decoder)" if suffix in _PICTURES else suffix or "without a suffix"


def _images(files: list[Path]) -> str:
    return f"{len(files)} image{'s' if len(files) > 1 else ''}, {_names(file.name for file in files)},"


def _names(names: Iterable[str]) -> str:
    """Lists up to `NAMED` names, and the number of others."""
    every = sorted(names)
    more = f" and {len(every) - NAMED} more" if len(every) > NAMED else ""
    return ", ".join(every[:NAMED]) + more
