"""The folder of an export, written atomically."""

from collections.abc import Callable
from pathlib import Path

from vaedist.data.atomic_folder import committed_folder, storage_errors, uploaded_folder
from vaedist.errors import RunError, StorageError
from vaedist.export.card import model_card
from vaedist.export.loading import KERAS_FILE, SAVED_MODEL, VERSION
from vaedist.export.origin import Origin
from vaedist.export.saved_model import save_servable
from vaedist.files import sync
from vaedist.models.model import Model
from vaedist.storage.transfer import Store
from vaedist.storage.uri import fault_of, is_remote, local_path, require_utf8
from vaedist.user_code import user_code

CARD = "README.md"
EXPERIMENT = "experiment.toml"

Progress = Callable[[str], None]


def write_export(
    out: str, origin: Origin, model: Model, *, license_name: str | None = None, progress: Progress = lambda _: None
) -> None:
    """Writes a SavedModel, a Keras file, a model card and the experiment into a new folder.

    Args:
        out: path or URI of the folder, which must be new or empty.
        origin: origin of the model.
        model: the model.
        license_name: license of the weights; None if it is not stated.
        progress: called with a description of each part before it is made.

    Raises:
        RunError: the folder is not empty.
        StorageError: the folder cannot be written.
        ModelError, UserCodeError: a user's model cannot be exported.
    """
    require_empty(out)
    place = uploaded_folder(Store(out), last=CARD) if is_remote(out) else committed_folder(local_path(out).absolute())
    with place as folder:
        with storage_errors(out):
            progress("exporting: SavedModel")
            save_servable(model, folder / SAVED_MODEL / VERSION)
            progress("exporting: Keras file")
            _save_keras(model, folder / KERAS_FILE)
            progress("exporting: model card")
            (folder / CARD).write_text(model_card(origin, model, license_name), encoding="utf-8")
            (folder / EXPERIMENT).write_text(origin.portable_experiment.to_toml(), encoding="utf-8")
            for path in folder.rglob("*"):
                sync(path)
        if is_remote(out):
            progress(f"uploading to {out}")


def require_empty(out: str) -> None:
    """Checks that a folder is new or empty, so that an export can be written there.

    Raises:
        RunError: something else is there, or the location is not valid.
        StorageError: this cannot be determined.
    """
    if fault := fault_of(out):
        raise RunError(f"output {out}: {fault}")
    if not is_remote(out) and local_path(out).absolute() == Path.cwd():
        # it would be replaced, and leave the user's shell in a folder that no longer exists
        raise RunError(f"output {out} is the current folder: choose another output")
    try:
        taken = _is_taken(out)
    except OSError as error:
        raise StorageError(f"cannot access {out}: {error.strerror or error}") from error
    if taken:
        raise RunError(f"{out} already exists and is not an empty folder: choose another output, or remove it")


def _is_taken(out: str) -> bool:
    if is_remote(out):
        store = Store(out)
        store.check()
        return bool(store.files())
    path: Path = require_utf8(local_path(out).absolute())
    try:
        return any(path.iterdir())
    except FileNotFoundError:
        return path.is_symlink()
    except NotADirectoryError:
        return True


def _save_keras(model: Model, path: Path) -> None:
    with user_code(f"model {type(model).__name__}: Keras cannot save it", mixed=True):
        model.save(path)
