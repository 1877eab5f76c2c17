"""Exported models give the numbers of the Python API, in processes with nothing but TensorFlow, or with Keras."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from command import refused
from model_runs import EXAMPLES, MODELS, SHAPE

import vaedist
from vaedist.cli import main
from vaedist.errors import RunError, UserCodeError
from vaedist.evaluation.row_functions import by_layer
from vaedist.evaluation.scoring import score_layout
from vaedist.export.origin import origin_of
from vaedist.export.saved_model import save_servable
from vaedist.models import Model

# Calls the functions of every exported model with batches of several sizes, and saves the results.
PLAIN = """
import importlib.abc, re, sys
import numpy as np

class NoVaedist(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("vaedist", "conv_vae", "planar_flow"):
            raise ImportError(name)

sys.meta_path.insert(0, NoVaedist())
try:
    import vaedist
except ImportError:
    pass
else:
    sys.exit("vaedist can be imported")
import os
import tensorflow as tf

images, found = np.load("images.npy"), {}
for name in sys.argv[1:]:
    model = tf.saved_model.load(f"exported/{name}/saved_model/1")
    encoded = model.encode(images, seed=3)
    for key, value in encoded.items():
        found[f"{name}/{key}"] = value
    parts = [model.encode(images[a:b], seed=3, first_row=a)["z"] for a, b in ((0, 1), (1, 3), (3, len(images)))]
    found[f"{name}/parts"] = np.concatenate(parts)
    found[f"{name}/unit"] = model.encode_float(images / np.float32(255), seed=3)["z"]
    found[f"{name}/decoded"] = model.decode(encoded["z"])["images"]
    found[f"{name}/reconstructed"] = model.reconstruct(images, seed=3)["images"]
    z = tf.Variable(encoded["z"])
    with tf.GradientTape() as tape:
        brightness = tf.reduce_sum(model.decode(z)["images"])
    found[f"{name}/gradient"] = tape.gradient(brightness, z)
    found[f"{name}/new"] = model.generate(3, seed=5, temperature=0.7)["images"]
    found[f"{name}/default"] = model.generate(2)["images"]
    found[f"{name}/pixels"] = model.generate_pixels(3, seed=5)["images"]
    served = model.signatures["score"](
        images=tf.constant(images), seed=tf.constant(3, tf.int64), first_row=tf.constant(0, tf.int64)
    )
    for key, value in served.items():
        found[f"{name}/{key}"] = value
    os.chdir(f"exported/{name}")
    exec(re.findall("^```python\\n(.*?)^```$", open("README.md").read(), re.M | re.S)[0], {})
    os.chdir("../..")
np.savez("plain.npz", **found)
"""

# Loads every Keras file as its model card says, and saves the score of images with given noise.
KERAS = """
import re, os, sys
import numpy as np

images, found = np.load("images.npy"), {}
for name in sys.argv[1:]:
    os.chdir(f"exported/{name}")
    names = {}
    exec(re.findall("^```python\\n(.*?)^```$", open("README.md").read(), re.M | re.S)[1], names)
    os.chdir("../..")
    model = names["model"]
    eps = {stream: np.full((len(images), *shape), 0.3, np.float32) for stream, shape in model.noise.items()}
    score = model.score(model.encode(images, np.full(images.shape, 0.3, np.float32)), eps)
    found[name] = score.log_px
np.savez("keras.npz", **found)
"""


def run_elsewhere(code, place, *arguments, path=()):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def images(place):
    images = np.random.default_rng(7).integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    np.save(place / "images.npy", images)
    return images


@pytest.fixture(scope="module")
def plain(place, exports, images):
    """Returns the results of all exported models in a process that cannot import vaedist."""
    run_elsewhere(PLAIN, place, *MODELS)
    return np.load(place / "plain.npz")


@pytest.mark.parametrize("name", MODELS)
def test_plain_tensorflow_gives_the_numbers_of_the_python_api(name, plain, place, images):
    run = vaedist.load_run(place / name)
    z, score = tf.constant(run.encode(images, seed=3)), run.score(images, seed=3)
    with tf.GradientTape() as tape:
        tape.watch(z)
        brightness = tf.reduce_sum(run.model.decode(by_layer(score_layout(run.model), z)))
    expected = {
        "z": z, "parts": z, "unit": z, "decoded": run.decode(z), "gradient": tape.gradient(brightness, z),
        "reconstructed": run.reconstruct(images, seed=3), "new": run.sample(3, seed=5, temperature=0.7),
        "default": run.sample(2), "pixels": run.sample(3, seed=5, pixels="sample"),
        "elbo": score.elbo, "reconstruction": score.reconstruction, "kl": score.kl,
    }  # fmt: skip
    if len(score.by_layer) > 1:
        expected |= {f"kl_{layer}": kl for layer, kl in score.by_layer.items()}
    for key, value in expected.items():
        np.testing.assert_allclose(plain[f"{name}/{key}"], value, rtol=1e-5, atol=1e-5, err_msg=key)
    assert all(np.ptp(expected[key], axis=0).min() > 0 for key in ("z", "elbo"))
    assert all(np.ptp(expected[key], axis=0).max() > 0 for key in ("decoded", "new", "pixels"))


@pytest.mark.parametrize("name", MODELS)
def test_encode_returns_the_base_distribution_of_models_that_have_one(name, plain, place, images):
    run = vaedist.load_run(place / name)
    base = run.model.posterior_base(run.model.encode(images, run.pixel_noise(len(images))))
    if base is None:
        assert f"{name}/mean" not in plain
        return
    ((mean, log_sigma),) = base.values()
    np.testing.assert_allclose(plain[f"{name}/mean"], mean, atol=1e-5)
    np.testing.assert_allclose(plain[f"{name}/log_sigma"], log_sigma, atol=1e-5)


def test_keras_loads_every_model_in_another_process(place, exports, images):
    run_elsewhere(KERAS, place, *MODELS, path=[EXAMPLES / "conv_vae", EXAMPLES / "planar_flow"])
    found = np.load(place / "keras.npz")
    for name in MODELS:
        model = vaedist.load_run(place / name).model
        eps = {stream: np.full((len(images), *shape), 0.3, np.float32) for stream, shape in model.noise.items()}
        score = model.score(model.encode(images, np.full(images.shape, 0.3, np.float32)), eps)
        np.testing.assert_allclose(found[name], score.log_px, rtol=1e-6, err_msg=name)


def test_an_export_appears_as_a_whole_or_not_at_all(place, exports, tmp_path, monkeypatch):
    files = {path.relative_to(exports / "mlp").as_posix() for path in (exports / "mlp").rglob("*") if path.is_file()}
    assert {"README.md", "model.keras", "experiment.toml", "saved_model/1/saved_model.pb"} <= files
    run = vaedist.load_run(place / "mlp")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("vaedist.export.folder.model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.export(tmp_path / "empty")
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_the_command_exports_a_step_into_an_empty_folder(place, tmp_path):
    words = ["export", place / "mlp", "-o", tmp_path, "--checkpoint", 8, "--license", "cc0-1.0", "--json"]
    done = CliRunner().invoke(main, list(map(str, words)), prog_name="vaedist")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"output": str(tmp_path), "step": 8, "ema": False}
    card = (tmp_path / "README.md").read_text()
    assert "step 8 (2 of 100 epochs)" in card
    assert 'license: "cc0-1.0"' in card
    images = np.zeros((1, *SHAPE), np.uint8)
    loaded = tf.saved_model.load(tmp_path / "saved_model/1")
    z = loaded.encode(images)["z"]
    np.testing.assert_allclose(z, vaedist.load_run(place / "mlp", checkpoint=8).encode(images), atol=1e-5)
    assert not np.allclose(z, vaedist.load_run(place / "mlp").encode(images), atol=1e-5)


def test_an_export_names_no_folder_of_this_machine(place, exports):
    run = vaedist.load_run(place / "mlp")
    assert str(place) in run.experiment.to_toml()
    for path in exports.rglob("*"):
        assert path.is_dir() or str(place.parent).encode() not in path.read_bytes(), path
    told = vaedist.Experiment.from_file(exports / "mlp/experiment.toml")
    assert (told.run.folder, told.data.path) == ("runs", "data/numbers")
    assert told == run.experiment.model_copy(update={"run": told.run, "data": told.data})
    assert told.data == run.experiment.data.model_copy(update={"path": "data/numbers"})


def test_an_export_names_no_network(place):
    run = vaedist.load_run(place / "mlp")
    experiment = run.experiment.with_overrides("scaling.peer_networks=['10.7.0.0/16']")
    origin = origin_of(run.folder, experiment, run.checkpoint.position, ema=False)
    assert origin.experiment.scaling.peer_networks
    assert not origin.portable_experiment.scaling.peer_networks


def test_a_folder_that_is_not_empty_is_refused(place, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    for taken in ("full", "full/file"):
        line = refused(tmp_path, "export", place / "mlp", "-o", taken)
        assert line == f"error: {taken} already exists and is not an empty folder: choose another output, or remove it"
    line = refused(tmp_path / "full", "export", place / "mlp", "-o", ".")
    assert line == "error: output . is the current folder: choose another output"


def test_a_step_without_a_checkpoint_and_a_wrong_name_are_refused(place, tmp_path):
    line = refused(tmp_path, "export", place / "mlp", "-o", "out", "--checkpoint", 5)
    assert line.endswith(f"no checkpoint of step 5 in {place / 'mlp/checkpoints'}; it has steps 4, 8")
    for name in ("last", "-1", "1_0", "٣"):
        line = refused(tmp_path, "export", place / "mlp", "-o", "out", "--checkpoint", name)
        assert f"'{name}' must be best, newest, or the step of a checkpoint" in line


def test_checkpoints_are_chosen_by_name_or_step(place):
    chosen = {name: vaedist.load_run(place / "mlp", checkpoint=name) for name in ("best", "newest", 4, 8)}
    assert {name: run.checkpoint.position.step for name, run in chosen.items()} == {"best": 4, "newest": 8, 4: 4, 8: 8}


class OneSize(Model):
    """Works only if the number of images is known."""

    noise = {"z": (2,)}  # noqa: RUF012

    def encode(self, images, u=None, *, training=False):
        return sum(range(images.shape[0]))

    def score(self, encoding, eps, *, training=False):
        z = eps["z"]
        return vaedist.Score(z[:, 0] + encoding, {"z": z}, {"z": z})

    def decode(self, latents, u=None):
        return latents["z"]


def test_a_model_for_one_batch_size_is_refused_with_its_line(tmp_path):
    model = OneSize(SHAPE, preprocessing=vaedist.ModelOptions().preprocessing("none"))
    with pytest.raises(UserCodeError, match="OneSize: it cannot be traced for batches of any size") as error:
        save_servable(model, tmp_path / "saved")
    assert "sum(range(images.shape[0]))" in str(error.value)
    assert not any(tmp_path.iterdir())


def test_an_export_on_an_object_store_has_the_same_files(s3, place, exports):
    vaedist.load_run(place / "mlp").export(s3.uri("exports/mlp"))
    from vaedist.storage.transfer import Store

    files = {path.relative_to(exports / "mlp").as_posix() for path in (exports / "mlp").rglob("*") if path.is_file()}
    assert set(Store(s3.uri("exports/mlp")).files()) == files
    with pytest.raises(RunError, match="already exists and is not an empty folder"):
        vaedist.load_run(place / "mlp").export(s3.uri("exports/mlp"))
