import csv
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from toys import TOY

from vaedist.config import Experiment
from vaedist.errors import RunError, StorageError
from vaedist.monitor.pictures import save_png
from vaedist.sweeps import SweepFolder
from vaedist.sweeps.analysis import by_quantile, compared_epoch, importance, importances, outcomes, worst_of_most
from vaedist.sweeps.plots import figures
from vaedist.sweeps.report import best_job, best_trial, write_report
from vaedist.sweeps.trial import Epoch

DEPTH, LATENT = "model.flow.depth", "model.latent"
RATE = "training.learning_rate"
STEPS = 100  # per epoch
DISCRETIZED = {"likelihood": "discretized_logistic"}


def read_csv(folder):
    with (folder.path / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read_json(folder):
    return json.loads((folder.path / "results.json").read_text(), parse_constant=pytest.fail)


def found(sweep):
    return outcomes(sweep.sweep, sweep.folder.read_trials())


def of(sweep, key):
    return importance(sweep.sweep, key, found(sweep))


def test_counts_and_totals(mixed):
    assert write_report(mixed.folder) == mixed.folder.path / "report.md"
    results = read_json(mixed.folder)
    assert results["counts"] == {"finished": 2, "stopped": 2, "failed": 1, "open": 2}
    assert (results["metric"], results["mode"], results["best_trial"]) == ("elbo", "max", 2)
    epochs, begun = 4 + 1 + 4 + 2 + 1 + 2, 6  # of 100 steps and 1000 images each; 4 were planned
    assert (results["steps"], results["images"]) == (100 * epochs, 1000 * epochs)
    assert (results["planned_steps"], results["planned_images"]) == (400 * begun, 4000 * begun)
    text = (mixed.folder.path / "report.md").read_text()
    assert "7 of 8 trials: 2 finished, 2 stopped early, 1 failed, 2 still open." in text
    assert "saw 14,000 images in 1,400 training steps, 58% of the 24,000 images in 2,400 steps of all" in text


def test_with_a_validation_split_trials_are_selected_on_it_and_the_report_states_it(written):
    sweep = written()
    sweep.trial((0, 16), (-120.0, -108.0, -109.0), split="validation")
    sweep.trial((2, 32), (-115.0, -101.0, -102.0), split="validation")
    text = write_report(sweep.folder).read_text()
    assert "Metric: validation ELBO (nats per image, more is better)" in text
    assert "selected on the validation images; the test images were not used." in text
    assert "Trial 1, `0001-depth-2-latent-32`: validation ELBO **-101.00** nats per image after epoch 2" in text
    assert "test ELBO" not in text
    assert read_json(sweep.folder)["split"] == "validation"
    assert [row["split"] for row in read_csv(sweep.folder)] == ["validation"] * 2
    assert "validation ELBO -101.00 nats per image after 2 epochs." in best_job(sweep.folder, "best.toml")
    drawn = figures(sweep.sweep, found(sweep), [DEPTH, LATENT])
    titles = [figure.axes[0].get_title(loc="left") for _, figure in drawn]
    assert titles == [
        f"Validation ELBO by {DEPTH}",
        f"Best validation ELBO by {DEPTH} and {LATENT}",
        "Validation ELBO of the trials during training",
        f"Validation ELBO by {LATENT}",
    ]


def test_without_a_validation_split_the_report_says_that_the_best_score_is_biased(mixed):
    assert "selected on the test images, so the best score is biased" in write_report(mixed.folder).read_text()


def test_tables_read_back(mixed):
    write_report(mixed.folder)
    rows, results = read_csv(mixed.folder), read_json(mixed.folder)
    assert [int(row["trial"]) for row in rows] == list(range(7))
    assert rows[2] == {
        "trial": "2",
        "run": "0002-depth-2-latent-32",
        "state": "finished",
        "starts": "1",
        DEPTH: "2",
        LATENT: "32",
        "epochs": "4",
        "steps": "400",
        "images": "4000",
        "split": "test",
        "best_epoch": "3",
        "best": "-101.0",
        "last": "-102.0",
        "elbo": "-101.0",
        "importance_bound": "",
        "bits_per_dim": "",
        "reason": "",
    }
    assert rows[4]["reason"] == "loss became NaN | at step 130\nof 400"
    assert (rows[6]["epochs"], rows[6]["best"], rows[6]["elbo"]) == ("0", "", "")
    for row, record in zip(rows, results["trials"], strict=True):
        params = record.pop("params")
        assert row == {k: "" if v is None else str(v) for k, v in (record | params).items()}


def test_the_best_trial_of_a_metric_that_is_better_high_or_low(mixed, tmp_path, written):
    assert best_trial(mixed.folder).number == 2
    shutil.rmtree(mixed.folder.path)
    low = written(tune={"metric": "bits_per_dim"}, model=DISCRETIZED)
    low.trial((0, 16), (-10.0, -9.0), bits_per_dim=(5.0, 4.5))
    low.trial((1, 16), (-11.0, -12.0), bits_per_dim=(4.25, 4.75))
    low.trial((2, 16), (-8.0,), bits_per_dim=(float("nan"),))
    assert best_trial(low.folder).number == 1
    write_report(low.folder)
    row = read_csv(low.folder)[1]
    assert (row["best"], row["best_epoch"], row["last"], row["elbo"]) == ("4.25", "1", "4.75", "-11.0")
    assert (
        "test bits/dim **4.2500** bits a dimension (ELBO -11.00 nats per image)"
        in (low.folder.path / "report.md").read_text()
    )


def test_a_given_direction_is_used(written):
    sweep = written(tune={"direction": "min"})
    sweep.trial((0, 16), (-10.0, -30.0))
    sweep.trial((1, 16), (-20.0, -25.0))
    assert best_trial(sweep.folder).number == 0


def test_ties_go_to_the_first_trial(written):
    sweep = written()
    for depth in (0, 1):
        sweep.trial((depth, 16), (-10.0,))
    assert best_trial(sweep.folder).number == 0


def test_eta_squared_by_hand(written):
    sweep = written()
    for depth, latent, elbo in ((0, 16, -1.0), (0, 32, -3.0), (1, 16, -5.0), (1, 32, -9.0), (2, 16, -3.0)):
        sweep.trial((depth, latent), (elbo,))
    # mean -4.2; total 10.24 + 1.44 + 0.64 + 23.04 + 1.44 = 36.8
    # depth: means -2, -7, -3; between 2 * 4.84 + 2 * 7.84 + 1.44 = 26.8
    # latent: means -3 (of 3), -6 (of 2); between 3 * 1.44 + 2 * 3.24 = 10.8
    depth, latent = of(sweep, DEPTH), of(sweep, LATENT)
    assert depth.eta_squared == pytest.approx(26.8 / 36.8)
    assert latent.eta_squared == pytest.approx(10.8 / 36.8)
    assert (depth.by_chance, latent.by_chance) == (2 / 4, 1 / 4)
    assert (depth.best, latent.best) == ("0", "16")
    write_report(sweep.folder)
    assert list(read_json(sweep.folder)["importance"]) == [DEPTH, LATENT]
    assert f"| `{DEPTH}` | 0.73 | 0.50 | 3 | 0 |" in (sweep.folder.path / "report.md").read_text()


def test_a_parameter_without_effect_has_the_importance_by_chance(written):
    sweep = written({DEPTH: {"choice": [0, 1, 2, 3]}})
    depths = np.repeat(np.arange(4), 3)
    for depth in depths:
        sweep.trial((int(depth),), (0.0,))
    ones, rng, values = found(sweep), np.random.default_rng(0), []
    for _ in range(300):
        for one, score in zip(ones, rng.normal(size=12), strict=True):
            vars(one.trial)["epochs"] = (Epoch(1, STEPS, float(score)),)
        result = importance(sweep.sweep, DEPTH, ones)
        assert result.by_chance == 3 / 11
        values.append(result.eta_squared)
    assert np.mean(values) == pytest.approx(3 / 11, abs=4 * np.std(values) / np.sqrt(300))


def test_trials_are_compared_after_the_last_epoch_that_all_have_completed(mixed):
    mixed.log.set(1, "failed")  # after epoch 1; the stopped trial and the open one have 2 epochs
    assert compared_epoch(found(mixed)) == 2
    # depth 0: -110, -109.5; depth 2: -104, -105; no trial of depth 1 reached it
    between, total = 4 * 2.625**2, 2.875**2 + 2.375**2 + 3.125**2 + 2.125**2
    assert of(mixed, DEPTH).eta_squared == pytest.approx(between / total)
    write_report(mixed.folder)
    assert read_json(mixed.folder)["importance_epoch"] == 2
    assert "over the 4 trials with a score after epoch 2" in (mixed.folder.path / "report.md").read_text()


def test_running_trials_are_compared_while_none_has_ended(written):
    sweep = written()
    sweep.trial((0, 16), (-3.0, -2.0), "running")
    sweep.trial((1, 16), (-3.0,), "running")
    assert compared_epoch(found(sweep)) == 1


def test_a_diverged_trial_does_not_dominate_the_variance(written):
    sweep = written()
    for depth in (0, 1, 2):
        for latent in (16, 32):
            sweep.trial((depth, latent), (-10.0 * depth + latent / 16,))
    clean = of(sweep, DEPTH).eta_squared
    sweep.trial((2, 16), (-1e12,), "failed")
    assert clean > 0.99
    assert of(sweep, DEPTH).eta_squared == pytest.approx(clean, abs=0.01)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_worst_of_most(sign):
    mode = "max" if sign > 0 else "min"
    assert worst_of_most([sign * x for x in (-1.0, -2.0, -3.0, -1e9)], mode) == sign * -3.0
    assert worst_of_most([sign * x for x in (-1.0, -2.0, -3.0, -9.0)], mode) == sign * -9.0
    assert worst_of_most([sign * x for x in (-1.0, -9e9)], mode) == sign * -9e9
    assert worst_of_most([sign * x for x in (-100.0, -101.0, -110.0)], mode) == sign * -110.0
    assert worst_of_most([sign * -5.0], mode) == sign * -5.0
    assert worst_of_most([sign * -100.0] * 5 + [sign * -102.0], mode) == sign * -102.0


@pytest.mark.parametrize(
    "scores",
    [[(0, -1.0), (1, -2.0)], [(0, -1.0), (1, -1.0), (1, -1.0)], [(0, -1.0), (0, -2.0), (0, -3.0)], []],
    ids=["two trials", "no variance", "one value", "no trial"],
)
def test_cases_without_an_importance(written, scores):
    sweep = written()
    for depth, score in scores:
        sweep.trial((depth, 16), (score,))
    assert of(sweep, DEPTH).eta_squared is None
    report = write_report(sweep.folder).read_text()
    assert f"| `{DEPTH}` | - | - |" in report or not scores


def test_ranges_are_compared_by_quantiles(written):
    sweep = written({RATE: {"loguniform": [1e-5, 1e-1]}})
    rates = [10.0 ** -(1 + 4 * place / 19) for place in range(20)]
    for place, rate in enumerate(rates):
        sweep.trial((rate,), (-float(place // 4),))
    result = of(sweep, RATE)
    assert (result.groups, result.eta_squared) == (5, pytest.approx(1.0))
    groups = by_quantile(RATE, sweep.sweep.tune.space[RATE], found(sweep))
    assert [len(group.members) for group in groups] == [4] * 5
    assert groups[-1].label == "0.0234 to 0.1" == result.best


def test_the_report_names_best_and_failed_and_shows_pictures(mixed):
    best = best_trial(mixed.folder)
    save_png(best.run.pictures / "samples.png", np.zeros((8, 8, 3), np.uint8))
    text = write_report(mixed.folder).read_text()
    assert "Trial 2, `0002-depth-2-latent-32`: test ELBO **-101.00** nats per image after epoch 3" in text
    assert "![samples](0002-depth-2-latent-32/pictures/samples.png)" in text
    assert "reconstructions" not in text
    assert "| 4 | 0004-depth-1-latent-32 | 1 | 1 | loss became NaN \\| at step 130 of 400 |" in text
    places = [line.split("|")[2].strip() for line in re.findall(r"^\| \d+ \| \d+ \| \d \|.*", text, re.MULTILINE)]
    assert places == ["2", "3", "0", "5", "1", "4"]
    for link in re.findall(r"\]\((.+?)\)", text):
        assert (mixed.folder.path / link).is_file(), link


def test_plots_are_images(mixed):
    write_report(mixed.folder)
    names = {path.name for path in (mixed.folder.path / "plots").iterdir()}
    assert names == {f"{DEPTH}.png", f"{LATENT}.png", "heat-map.png", "curves.png"}
    for name in names:
        with Image.open(mixed.folder.path / "plots" / name) as picture:
            assert picture.size == (1500, 900)
            pixels = np.asarray(picture.convert("RGB"))
        assert 0.005 < (pixels != 255).any(axis=2).mean() < 0.95
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_a_report_of_a_users_model_has_its_own_options(toy_package, written):
    space = {"model.stage.blocks": {"choice": [1, 2]}, "model.channels": {"choice": [8, 16]}}
    sweep = written(space, model={"type": TOY})
    for number, values in enumerate([(1, 8), (1, 16), (2, 8), (2, 16)]):
        sweep.trial(values, [-100.0 + 10 * (values[1] == 16) + number])
    assert figure_titles(sweep)[1] == "Best test ELBO by model.stage.blocks and model.channels"
    report = write_report(sweep.folder).read_text()
    assert report.index("| `model.channels` | 0.97") < report.index("| `model.stage.blocks` | 0.03")
    assert best_job(sweep.folder, "best.toml").count("channels = 16") == 1


def figure_titles(sweep):
    shown = outcomes(sweep.sweep, sweep.folder.read_trials())
    drawn = figures(sweep.sweep, shown, list(importances(sweep.sweep, shown)))
    return [figure.axes[0].get_title(loc="left") for _, figure in drawn]


SPACES = {
    "one of one value": {DEPTH: {"choice": [3]}},
    "strings, truths and ranges": {
        "model.flow.transform": {"choice": ["gated", "affine"]},
        "model.flow.context": {"choice": [True, False]},
        RATE: {"loguniform": [1e-5, 1e-1]},
        "model.hidden": {"randint": [10, 500]},
        "model.flow.gate_bias": {"uniform": [-1.0, 2.0]},
    },
    "many values": {DEPTH: {"choice": list(range(40))}, LATENT: {"choice": [2**k for k in range(1, 12)]}},
    "crowded from 0": {"objective.free_bits": {"choice": [0.0, 1e-3, 1e-2, 1.0]}},
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("trials", [1, 2, 15])
@pytest.mark.filterwarnings("error")
def test_every_kind_of_space_is_plotted(written, space, trials):
    sweep = written(space, tune={"metric": "bits_per_dim"}, model=DISCRETIZED)
    for number in range(trials):
        bits = [1e9] if number == 3 else [5 - number / 20 - epoch / 10 for epoch in range(1 + number % 3)]
        state = ("finished", "stopped", "failed")[number % 3]
        sweep.trial(sweep.sweep.drawn(number).values(), [-700 * b for b in bits], state, bits_per_dim=bits)
    text = write_report(sweep.folder).read_text()
    plots = re.findall(r"\]\(plots/(.+?)\.png\)", text)
    pair = len(space) > 1
    assert sorted(plots) == sorted([*space, "curves", *(["heat-map"] if pair else [])])


@pytest.mark.parametrize("best", [-5.0, 0.0])
@pytest.mark.filterwarnings("error")
def test_equal_scores_with_a_diverged_one_are_plotted(written, best):
    sweep = written()
    for depth in (0, 1, 2):
        sweep.trial((depth, 16), (best, best))
    sweep.trial((0, 32), (-1e30, -1e30), "failed")
    assert write_report(sweep.folder).is_file()


def test_the_report_of_a_sweep_that_has_not_started(written):
    sweep = written(tune={"samples": 5})
    text = write_report(sweep.folder).read_text()
    assert "0 of 5 trials: 0 finished, 0 stopped early, 0 failed, 0 still open." in text
    assert "No trial has been scored yet." in text
    assert read_csv(sweep.folder) == []
    assert read_json(sweep.folder)["best_trial"] is None
    assert not (sweep.folder.path / "plots").exists()
    for ask in (lambda: best_trial(sweep.folder), lambda: best_job(sweep.folder, "best.toml")):
        with pytest.raises(RunError, match=r"^sweep .*tune has no best trial: none has been scored yet$"):
            ask()


def test_the_best_trial_as_a_job(mixed):
    text = best_job(mixed.folder, "best.toml")
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert text.startswith("\n".join(header))
    assert [line[2:].split()[0] for line in header] == ["Purpose:", "Command:", "Hardware:", "Expected:"]
    assert header[1].endswith("vaedist train best.toml")
    assert header[3].endswith("test ELBO -101.00 nats per image after 3 epochs.")
    job = Experiment.from_toml(text)
    assert job == mixed.sweep.experiment({DEPTH: 2, LATENT: 32}, name="", folder="runs")
    assert (job.model.flow.depth, job.model.latent, job.training.epochs) == (2, 32, 4)
    assert (job.run.name, job.run.folder) == ("", "runs")


def test_a_job_keeps_floats_and_names_its_hardware(written):
    rate = 0.1 + 0.2
    scaling = {"workers": 2, "gpus_per_worker": 2}
    sweep = written({RATE: {"choice": [rate, 1.0]}}, scaling=scaling)
    sweep.trial((rate,), (-3.0,))
    text = best_job(sweep.folder, "my best.toml")
    assert "vaedist train 'my best.toml'\n" in text
    assert "2 workers with 2 GPU each" in text
    assert Experiment.from_toml(text).training.learning_rate == rate


def test_writing_again_replaces_the_files(mixed):
    write_report(mixed.folder)
    before = {path.relative_to(mixed.folder.path) for path in mixed.folder.path.rglob("*")}
    mixed.log.set(5, "finished")
    assert "3 finished" in write_report(mixed.folder).read_text()
    assert {path.relative_to(mixed.folder.path) for path in mixed.folder.path.rglob("*")} == before


@pytest.mark.parametrize("name", ["report.md", "results.csv", "results.json", "plots/curves.png"])
def test_failed_writes_are_reported_in_one_line(mixed, name):
    blocked = mixed.folder.path / name
    blocked.mkdir(parents=True)
    with pytest.raises(StorageError, match=rf"^cannot write .*{re.escape(name)}: Is a directory$"):
        write_report(mixed.folder)
    assert not list(mixed.folder.path.rglob(".*"))


def test_there_must_be_a_sweep(tmp_path):
    for ask in (write_report, best_trial, lambda folder: best_job(folder, "best.toml")):
        with pytest.raises(RunError, match="no sweep at"):
            ask(SweepFolder.at(tmp_path))
