"""`vaedist evaluate`, `sample` and `reconstruct` of runs with random weights: numbers, comparisons and messages."""

import json

import numpy as np
import pytest
import tensorflow as tf
from board import Board
from click.testing import CliRunner
from PIL import Image
from random_runs import save_run
from synthetic import source

import vaedist
from vaedist.cli import main
from vaedist.config import Experiment
from vaedist.data.prepare import prepare
from vaedist.errors import RunError
from vaedist.monitor.pictures import by_rows, to_uint8

GREY = (4, 6, 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Returns a folder with two data sets, and runs with random weights."""
    folder = tmp_path_factory.mktemp("runs")
    for name, rows in (("numbers", 19), ("others", 20)):
        prepare(source(train=30, test=rows, shape=GREY), str(folder / name), shards=4)

    def make(name, seed, data, *overrides):
        sizes = ("model.hidden=8", "model.latent=4", "model.flow.depth=0")
        if name == "hierarchy":
            sizes = ("model.type=resnet", "model.width=4", "model.latent=2", "model.flow.depth=0")
        sizes = (*sizes, f"seed={seed}", *overrides)
        experiment = Experiment().with_overrides(f"data.path={folder / data}", *sizes)

        def change(model):
            if name == "gaussian":  # means from -1 to 2
                model.decoder.out.bias[:].assign(np.r_[np.linspace(-1, 2, 24), np.zeros(24)])
                model.decoder.out.kernel.assign(np.zeros(model.decoder.out.kernel.shape))

        save_run(folder / name, experiment, change=change)

    make("grey", 0, "numbers")
    make("dynamic", 0, "numbers", "data.binarize=dynamic")
    make("fixed", 1, "numbers", "data.binarize=fixed")
    make("flow", 2, "numbers", "data.binarize=dynamic", "model.flow.depth=1", "model.flow.width=4")
    make("gaussian", 0, "numbers", "model.likelihood=gaussian")
    make("hierarchy", 0, "numbers")
    make("elsewhere", 0, "others", "data.binarize=dynamic")
    return folder


@pytest.fixture
def invoke(place, monkeypatch):
    """Returns a function that calls vaedist in the folder of the runs."""
    monkeypatch.chdir(place)

    def call(*words, code=0):
        done = CliRunner().invoke(main, [str(word) for word in words], prog_name="vaedist")
        assert done.exit_code == code, done.output
        return done

    return call


def test_two_runs_are_compared_image_by_image(invoke, place):
    told = json.loads(invoke("evaluate", "dynamic", "fixed", "flow", "--samples", 6, "--json").stdout)
    assert [record["run"] for record in told["runs"]] == ["dynamic", "fixed", "flow"]
    assert [(each["run"], each["less"]) for each in told["differences"]] == [("fixed", "dynamic"), ("flow", "dynamic")]
    first, second, _ = (vaedist.load_run(place / name).evaluate(samples=6) for name in ("dynamic", "fixed", "flow"))
    apart = second.scores.importance_bound - first.scores.importance_bound
    found = told["differences"][0]
    assert found["images"] == 19
    assert found["importance_bound"]["mean"] == pytest.approx(apart.mean(), abs=1e-5)
    assert found["importance_bound"]["standard_error"] == pytest.approx(apart.std(ddof=1) / np.sqrt(19), abs=1e-5)
    means = [record["bounds"]["1"]["mean"] for record in told["runs"]]
    assert found["elbo"]["mean"] == pytest.approx(means[1] - means[0], abs=1e-5)
    shown = invoke("evaluate", "dynamic", "fixed", "--samples", 6).stdout
    assert "fixed less dynamic" in shown
    assert f"{found['elbo']['mean']:.3f} +- {found['elbo']['standard_error']:.3f} nats" in shown
    for name in ("dynamic", "fixed"):
        assert len(list((place / name / "evaluations").glob("test-k6-*.json"))) == 1


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ("elsewhere", "elsewhere cannot be compared with dynamic: their data sets differ, fingerprint "),
        ("grey", "one scores pixel values in [0, 1], the other binary pixels drawn once for each image"),
        ("gaussian", "one scores dequantised pixels, the other binary pixels drawn once for each image"),
    ],
)
def test_runs_of_other_data_or_of_other_pixels_are_not_compared(invoke, place, other, says):
    done = invoke("evaluate", "dynamic", other, "--samples", 3, code=2)
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not list(place.glob("*/evaluations/test-k3-*"))


def test_the_known_properties_of_a_bound_are_printed(invoke):
    record = json.loads(invoke("evaluate", "flow", "--samples", 6, "--json").stdout)
    assert set(record["monte_carlo_errors"]) == {"1", "2", "4", "6"}
    assert all(error > 0 for error in record["monte_carlo_errors"].values())
    assert record["rise"]["mean"] > 0
    assert record["still_rises"] in (True, False)
    assert record["active_units"] is None
    assert "with N = 19 images and K = 6 samples of z" in record["active_units_withheld"]
    assert record["scored"] == "binary pixels drawn once for each image"
    shown = " ".join(invoke("evaluate", "flow", "--samples", 6).stdout.split())
    for text in ("log p(x) >= L_6", "NLL <=", "Monte Carlo error", "L_6 - L_3", "effective samples",
                 "not counted: 3 sqrt(2 / (N K (K - 1)))", "this needs K = 98 or N = 6,000"):  # fmt: skip
        assert text in shown
    assert "bits/dim" not in shown  # of binary pixels
    one = json.loads(invoke("evaluate", "flow", "--samples", 1, "--json").stdout)
    assert (one["rise"], one["monte_carlo_errors"]) == (None, {"1": None})
    exact = json.loads(invoke("evaluate", "dynamic", "--samples", 1, "--json").stdout)
    assert exact["active_units"] is not None
    assert exact["active_units_withheld"] is None


def test_only_likelihoods_are_reported_in_nats(invoke):
    assert "NLL <=" not in invoke("evaluate", "grey", "--samples", 2).stdout
    gaussian = invoke("evaluate", "gaussian", "--samples", 2).stdout
    assert gaussian.index("NLL <=") < gaussian.index("bits/dim")
    done = invoke("evaluate", "fixed", "--bits-per-dim", code=2)
    assert "the model scores binary pixels drawn once for each image, in nats" in done.stderr


def test_averages_that_were_not_kept_are_refused(place, invoke):
    with pytest.raises(RunError, match="kept no moving averages of its weights"):
        vaedist.load_run(place / "grey", ema=True)
    done = invoke("evaluate", "grey", "--bits-per-dim", "--samples", 5, code=2)
    assert "the model scores pixel values in [0, 1] by a score that is not a density or a probability" in done.stderr
    assert not list(place.glob("grey/evaluations/test-k5-*"))


def test_pixels_that_a_gaussian_has_outside_of_0_to_1_are_counted(invoke, tmp_path):
    """The 24 means from -1 to 2 have equal steps: 8 are below 0 and 8 above 1."""
    for command in ("sample", "reconstruct"):
        words = (command, "gaussian", "-n", 4, "-o", tmp_path / f"{command}.png")
        assert "66.7% of the pixel values were outside [0, 1]" in invoke(*words).stdout
        assert json.loads(invoke(*words, "--json").stdout)["clipped"] == pytest.approx(2 / 3)
        words = (command, "grey", "-n", 4, "-o", tmp_path / f"{command}.png")
        assert "outside" not in invoke(*words).stdout
        assert json.loads(invoke(*words, "--json").stdout)["clipped"] is None


def test_help_says_that_samples_are_means(invoke):
    told = " ".join(invoke("sample", "--help").stdout.split())
    assert "Each image is the mean E[x|z]" in told
    assert "with --pixels sample a sample of p(x|z)" in told


def test_samples_at_a_low_temperature_are_near_the_image_of_the_priors_mean(invoke, place, tmp_path):
    spreads = {}
    for temperature in (0, 0.5, 1):
        words = ("sample", "grey", "-n", 9, "--temperature", temperature, "-o", tmp_path / "samples.png")
        assert json.loads(invoke(*words, "--json").stdout)["temperature"] == temperature
        spreads[temperature] = vaedist.load_run(place / "grey").sample(9, temperature=temperature).std(0).mean()
    assert spreads[0] == pytest.approx(0, abs=1e-6)
    assert 0.3 * spreads[1] < spreads[0.5] < 0.8 * spreads[1]


def test_gpus_compute_in_float32(invoke, tmp_path):
    tf.config.experimental.enable_tensor_float_32_execution(True)  # TensorFlow's default
    invoke("sample", "grey", "-n", 1, "-o", tmp_path / "one.png")
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_python_sees_the_pixels_that_are_evaluated(place):
    run = vaedist.load_run(place / "dynamic")
    images = run.probe(19).images
    u = run.pixel_noise(19)
    np.testing.assert_array_equal(np.sort(run.evaluate(samples=2).scores.rows), np.arange(19))
    x = run.observed(images)
    assert u.shape == images.shape
    np.testing.assert_array_equal(x, run.model.preprocessing(images, u))
    assert set(np.unique(x)) == {0, 1}
    assert vaedist.load_run(place / "grey").pixel_noise(3) is None


def test_the_parts_of_a_hierarchy_are_told_by_layer(invoke, place, monkeypatch):
    """Two layers of 2 x 3 positions with 2 channels."""
    monkeypatch.setattr("vaedist.evaluation.importance.compiled", lambda function: function)  # to save time
    told = invoke("evaluate", "hierarchy", "--samples", 98).stdout
    (path,) = place.glob("hierarchy/evaluations/test-k98-*.json")
    record = json.loads(path.read_text())
    assert (record["latents"], record["channels"]) == (24, {"z_1_2": 2, "z_1_1": 2})
    assert f"{record['active_units']} of 24 latents" in told
    assert len(record["kl_per_unit"]) == 4
    assert f"{sum(record['active_channels'].values())} of 4 have a KL above 0.01 nats" in told
    assert sum(layer["mean"] for layer in record["kl_by_layer"].values()) == pytest.approx(record["kl"]["mean"])
    for name, layer in record["kl_by_layer"].items():
        row = next(line for line in told.splitlines() if name in line)
        assert f"{layer['mean']:.3f}" in row
        assert f"{record['active_channels'][name]} of 2" in row
    board = Board(place / "hierarchy/tensorboard/evaluation/test-k98")
    assert board.last("evaluation/kl/z_1_1") == pytest.approx(record["kl_by_layer"]["z_1_1"]["mean"])
    plain = invoke("evaluate", "dynamic", "--samples", 1).stdout
    assert "of 4 latents" in plain
    assert "KL by stochastic layer" not in plain
    assert "active channels" not in plain


def test_reconstructions_by_layer(invoke, place, tmp_path):
    words = ("reconstruct", "hierarchy", "--layers", "-n", 3, "--seed", 4, "-o", tmp_path / "layers.png")
    assert "columns: the original, then the top 2, 1, 0 of 2 layers from the image" in invoke(*words).stdout
    told = json.loads(invoke(*words, "--json").stdout)
    assert (told["images"], told["layers"], told["kept"]) == (3, 2, [2, 1, 0])
    run = vaedist.load_run(place / "hierarchy")
    images = run.probe(3).images
    found = run.progressive(images, seed=4)
    np.testing.assert_allclose(found.images[:, 0], run.reconstruct(images, seed=4), rtol=1e-5)
    np.testing.assert_allclose(found.images[:, 2], run.sample(3, seed=4), rtol=1e-5)
    with Image.open(tmp_path / "layers.png") as picture:
        sheet = np.asarray(picture)[::2, ::2]
    np.testing.assert_array_equal(sheet, by_rows(to_uint8(run.observed(images)), to_uint8(found.images))[..., 0])


def test_reconstructions_by_layer_need_several_layers(invoke, tmp_path):
    done = invoke("reconstruct", "grey", "--layers", "-o", tmp_path / "layers.png", code=2)
    assert done.stderr == (
        "error: run grey has the single stochastic layer z; reconstructions by layer are for models with several\n"
    )
    assert not list(tmp_path.iterdir())
