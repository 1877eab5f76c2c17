"""The model card states where a model comes from, and its scores with their standard errors."""

import json
from dataclasses import replace

import pytest
import yaml
from click.testing import CliRunner

import vaedist
from vaedist.cli import main
from vaedist.export.card import model_card
from vaedist.export.origin import origin_of


def card_of(run, **changes):
    origin = origin_of(run.folder, run.experiment, run.checkpoint.position, ema=run.ema)
    return model_card(replace(origin, **changes), run.model, "cc-by-4.0")


def metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


@pytest.fixture(scope="module")
def evaluated(place):
    """Returns a run whose newest checkpoint has an evaluation, and the record of that."""
    words = ["evaluate", str(place / "iaf"), "--samples", "2", "--limit", "8", "--checkpoint", "8", "--json"]
    done = CliRunner().invoke(main, words, prog_name="vaedist")
    assert done.exit_code == 0, done.output
    return place / "iaf", json.loads(done.stdout)


def test_scores_are_those_of_the_evaluations_of_these_weights(evaluated):
    folder, record = evaluated
    card = card_of(vaedist.load_run(folder, checkpoint=8))
    elbo, bound = record["bounds"]["1"], record["bounds"]["2"]
    shown = [f"{each['mean']:.3f} +- {each['standard_error']:.3f}" for each in (elbo, bound)]
    assert f"| test | 8 | 2 | {shown[0]} | {shown[1]} | " in card
    assert "no saved evaluation" not in card
    ((result,),) = (each["results"] for each in metadata(card)["model-index"])
    assert result["dataset"] == {"name": "numbers", "type": "numbers", "split": "test"}
    assert [metric["value"] for metric in result["metrics"]] == [elbo["mean"], bound["mean"]]


def test_without_an_evaluation_of_these_weights_the_scores_are_those_of_training(evaluated):
    card = card_of(vaedist.load_run(evaluated[0], checkpoint=4))
    assert "These weights have no saved evaluation" in card
    assert "| ELBO of this checkpoint | -21.500 nats per image |" in card
    assert "+-" not in card
    assert "model-index" not in metadata(card)


def test_the_card_states_model_data_and_training(place):
    run = vaedist.load_run(place / "iaf")
    card, fingerprint = card_of(run), run.checkpoint.position.fingerprint
    for row in (
        "| type | mlp |", "| `flow.depth` | 2 |", "| name | numbers |", "| train images | 30 |", "| test images | 19 |",
        "| validation images | 11 |", f"| fingerprint | {fingerprint} |", "| `data.binarize` | dynamic |",
        "| scored values | binary pixels drawn once for each image |", "| steps | 4 |", "| `objective.samples` | 1 |",
        "| `training.optimizer` | adam |", "| `training.precision` | float32 |", f"| vaedist | {vaedist.__version__} |",
        "`vaedist train experiment.toml`", "## License\n\ncc-by-4.0",
    ):  # fmt: skip
        assert row in card
    parameters = sum(weight.size for weight in run.model.get_weights())
    assert f"| trainable parameters | {parameters:,} |" in card


def test_a_card_without_license_or_data_set_says_so(place):
    run = vaedist.load_run(place / "mlp", data=str(place / "moved"))
    origin = origin_of(run.folder, run.experiment, run.checkpoint.position, ema=False)
    card = model_card(origin, run.model)
    assert "license" not in metadata(card)
    assert card.endswith("## License\n\nNot stated.\n")
    assert "| name | unknown: the data set was not available to the export |" in card
    assert f"| fingerprint | {run.checkpoint.position.fingerprint} |" in card


@pytest.mark.parametrize(("given", "fields"), [
    ("MIT", {"license": "mit"}), ("My own: terms", {"license": "other", "license_name": "My own: terms"}),
])  # fmt: skip
def test_a_license_is_an_identifier_or_other(place, given, fields):
    run = vaedist.load_run(place / "mlp")
    origin = origin_of(run.folder, run.experiment, run.checkpoint.position, ema=False)
    found = metadata(model_card(origin, run.model, given))
    assert {key: value for key, value in found.items() if key.startswith("license")} == fields


def test_the_card_of_a_users_model_names_its_package_and_class(place):
    card = card_of(vaedist.load_run(place / "own"))
    assert "which needs vaedist and the package `conv_vae`." in card
    assert "from conv_vae import ConvVAE  # registers the class with Keras" in card
    assert "z concatenates" not in card
    assert "which needs vaedist and the package `planar_flow`." in card_of(vaedist.load_run(place / "planar"))
    assert "which needs vaedist." in card_of(vaedist.load_run(place / "mlp"))


def test_the_card_of_a_hierarchical_model_names_its_layers(place):
    card = card_of(vaedist.load_run(place / "resnet"))
    assert "z concatenates the flattened latents of the layers `z_2_1` [1, 2, 2], `z_1_1` [2, 4, 2]." in card
    assert "such as `kl_z_2_1`" in card
