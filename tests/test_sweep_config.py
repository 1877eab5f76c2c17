"""The search space of a sweep: valid values, and the values that are drawn."""

from collections import Counter

import numpy as np
import pytest

from vaedist.config import Dimension, Sweep, read_job
from vaedist.errors import ConfigError


def sweep(space, **settings):
    return Sweep.from_dict({"tune": {"search": "random", **settings, "space": space}})


def test_a_grid_has_all_combinations_and_varies_the_last_key_first():
    made = sweep({"model.latent": {"grid": [8, 16]}, "model.flow.depth": {"choice": [0, 1, 2]}}, search="grid")
    assert made.trials == made.grid_size == 6
    drawn = [tuple(made.drawn(number).values()) for number in range(6)]
    assert drawn == [(8, 0), (8, 1), (8, 2), (16, 0), (16, 1), (16, 2)]


def test_drawn_values_depend_only_on_the_trials_number_and_the_seed():
    space = {"model.latent": {"randint": [2, 1000]}, "training.learning_rate": {"loguniform": [1e-5, 1e-1]}}
    few, many = sweep(space, samples=2), sweep(space, samples=9)
    assert [few.drawn(n) for n in range(2)] == [many.drawn(n) for n in range(2)]
    assert len({tuple(many.drawn(n).values()) for n in range(9)}) == 9
    assert many.drawn(0) != sweep(space, seed=1).drawn(0)


@pytest.mark.parametrize(("kind", "low", "high"), [("uniform", 0.0, 4.0), ("randint", 3, 7), ("loguniform", 1e-4, 1.0)])
def test_ranges_are_filled_evenly_to_both_ends(kind, low, high):
    rng = np.random.default_rng(0)
    drawn = np.array([Dimension(**{kind: [low, high]}).sample(rng) for _ in range(4000)])
    assert low <= drawn.min()
    assert drawn.max() <= high
    if kind == "randint":
        assert set(drawn) == set(range(3, 8))
        assert all(700 < count < 900 for count in Counter(drawn.tolist()).values())
        return
    scale = np.log if kind == "loguniform" else np.asarray
    places = (scale(drawn) - scale(low)) / (scale(high) - scale(low))
    assert np.histogram(places, bins=4, range=(0, 1))[0] == pytest.approx([1000] * 4, abs=150)


@pytest.mark.parametrize(
    ("dimension", "values"),
    [
        ({"randint": [64, 512], "step": 64}, {64, 128, 192, 256, 320, 384, 448, 512}),
        ({"randint": [1, 6], "step": 2}, {1, 3, 5}),
        ({"uniform": [0.0, 1.0], "step": 0.25}, {0.0, 0.25, 0.5, 0.75, 1.0}),
        ({"uniform": [0.0, 1.0], "step": 0.4}, {0.0, 0.4, 0.8}),
    ],
)
def test_steps_quantise_within_the_bounds(dimension, values):
    rng = np.random.default_rng(0)
    made = Dimension(**dimension)
    assert {made.sample(rng) for _ in range(400)} == values


def test_values_keep_their_types():
    rng = np.random.default_rng(0)
    for value in (True, 3, 0.5, "affine"):
        drawn = Dimension(choice=[value]).sample(rng)
        assert (drawn, type(drawn)) == (value, type(value))
    assert isinstance(Dimension(randint=[1, 9], step=2.0).sample(rng), int)


def test_a_trial_is_the_experiment_with_its_values():
    made = sweep({"model.flow.transform": {"choice": ["affine", "gated"]}, "seed": {"grid": [0, 1]}})
    trial = made.experiment({"model.flow.transform": "affine", "seed": 1}, name="0000", folder="somewhere")
    assert (trial.model.flow.transform, trial.seed, trial.run.name, trial.run.folder) == (
        "affine",
        1,
        "0000",
        "somewhere",
    )
    assert not isinstance(trial, Sweep)


def test_values_that_do_not_go_together_are_found_out_by_the_trial():
    made = sweep({"training.weight_decay": {"grid": [0.0, 0.1]}, "training.optimizer": {"grid": ["adam", "adamw"]}})
    made.experiment({"training.weight_decay": 0.1, "training.optimizer": "adamw"})
    with pytest.raises(ConfigError, match="weight_decay requires optimizer = 'adamw'"):
        made.experiment({"training.weight_decay": 0.1, "training.optimizer": "adam"})


def test_a_sweep_reads_back_from_its_toml_and_an_experiment_is_not_a_sweep(tmp_path):
    made = sweep({"model.latent": {"randint": [2, 8], "step": 2}, "model.flow.depth": {"grid": [0, 3]}})
    assert Sweep.from_toml(made.to_toml()) == made
    (tmp_path / "one.toml").write_text(made.to_toml())
    assert isinstance(read_job(tmp_path / "one.toml"), Sweep)
    (tmp_path / "two.toml").write_text(made.experiment({}).to_toml())
    assert not isinstance(read_job(tmp_path / "two.toml"), Sweep)


def test_bits_per_dim_are_better_the_lower_and_need_a_likelihood_that_gives_them():
    space = {"model.latent": {"grid": [2, 4]}}
    made = Sweep.from_dict({"model": {"likelihood": "gaussian"}, "tune": {"metric": "bits_per_dim", "space": space}})
    assert made.tune.mode == "min"
    assert sweep(space).tune.mode == "max"
    assert sweep(space, direction="min").tune.mode == "min"
    with pytest.raises(
        ConfigError,
        match=r"no run reports it, because the model scores pixel values in \[0, 1\] with a score that is no density",
    ):
        sweep(space, metric="bits_per_dim")
    for varied in (space, {"model.likelihood": {"grid": ["bernoulli"]}}):
        tables = {"data": {"binarize": "fixed"}, "tune": {"metric": "bits_per_dim", "space": varied}}
        with pytest.raises(
            ConfigError,
            match=r"no run reports it, because the model scores binary pixels drawn once for each image, in nats",
        ):
            Sweep.from_dict(tables)


def test_trials_have_a_fixed_number_of_workers():
    tables = {"scaling": {"workers": [1, 4]}, "tune": {"space": {"model.latent": {"grid": [2, 4]}}}}
    with pytest.raises(ConfigError, match=r"scaling\.workers = \[1, 4\]: trials of a sweep need a fixed number"):
        Sweep.from_dict(tables)


def test_the_schedule_of_the_learning_rate_can_be_varied():
    space = {"training.schedule": {"grid": ["cosine", "linear"]}, "training.decay_to": {"grid": [0.0, 0.1]}}
    made = sweep(space, search="grid")
    trials = [made.experiment(made.drawn(number)).training for number in range(4)]
    assert [(trial.schedule, trial.decay_to) for trial in trials] == [
        ("cosine", 0.0), ("cosine", 0.1), ("linear", 0.0), ("linear", 0.1)
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"tune\.space: training\.schedule = 'triangular': must be 'constant',"):
        sweep({"training.schedule": {"grid": ["triangular"]}})
