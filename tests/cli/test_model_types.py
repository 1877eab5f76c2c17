"""Commands with a user's model: its keys behave like all others, and its errors show the user's lines."""

import json
import sys
import tomllib

import pytest
import tomli_w
from command import refused, run, start
from synthetic import source
from toys import NAME, TOY

from vaedist.data.prepare import prepare
from vaedist.monitor.metrics import MetricsLog

JOB = """
[data]
path = "{data}"

[model]
type = "{kind}"

[training]
epochs = 1
global_batch = 8
"""


@pytest.fixture
def place(tmp_path, toy_package, small_dataset, monkeypatch):
    """Returns a folder with a job of a user's model, whose package this process and its subprocesses can import."""
    monkeypatch.setenv("PYTHONPATH", str(toy_package))
    (tmp_path / "job.toml").write_text(JOB.format(data=small_dataset, kind=TOY))
    return tmp_path


def test_config_shows_the_keys_of_the_model(place):
    out, _ = run("config", "show", "job.toml", "--set", "model.channels=4", cwd=place)
    assert f'[model]\ntype = "{TOY}"\nchannels = 4\nnorm = "batch"\n' in out
    schema = json.loads(run("config", "schema", "--model", TOY)[0])
    assert set(schema["$defs"]["ToyOptions"]["properties"]) == {"type", "channels", "norm", "stage"}
    assert "MLPOptions" in json.loads(run("config", "schema")[0])["$defs"]


@pytest.mark.parametrize("arguments", [("train", "job.toml"), ("bench", "job.toml"), ("submit", "job.toml")])
def test_a_missing_model_is_refused_before_anything_starts(place, toy_package, monkeypatch, arguments):
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(toy_package)])
    monkeypatch.setenv("PYTHONPATH", "/some/where")
    line = refused(place, *arguments)
    assert line.startswith(
        f"error: job.toml: model.type = '{TOY}': there is no module {NAME} in PYTHONPATH (/some/where) or among"
    )
    assert line.endswith("; set PYTHONPATH to the folder that contains it (vaedist submit sends it with --package)")


def test_an_unknown_model_is_reported_with_the_most_similar_one(place):
    line = refused(place, "config", "schema", "--model", "mpl")
    assert line.startswith("error: model.type = 'mpl': must be 'mlp', 'conv', 'resnet' or a class of your own")
    assert line.endswith("; did you mean 'mlp'?")


def test_a_model_that_does_not_fit_the_interface_is_refused_before_ray_starts(place):
    line = refused(place, "train", "job.toml")
    assert line == f"error: model.type = '{TOY}': class Toy must be a subclass of vaedist.models.Model"


@pytest.mark.parametrize("command", ["train", "bench"])
def test_a_flow_that_does_not_fit_the_interface_is_refused_before_ray_starts(place, command):
    (place / "job.toml").write_text((place / "job.toml").read_text().replace(f'type = "{TOY}"', ""))
    line = refused(place, command, "job.toml", "--set", f"model.flow.type={NAME}.flows:Partial")
    assert (
        line
        == f"error: model.flow.type = '{NAME}.flows:Partial': class Partial lacks call, which vaedist.Flow requires"
    )


def test_the_schema_has_the_keys_of_a_flow(place):
    kind = f"{NAME}.flows:Scaling"
    schema = json.loads(run("config", "schema", "--flow", kind)[0])
    assert schema["$defs"]["FlowOptions"]["properties"]["type"]["default"] == kind
    assert "IAFOptions" not in schema["$defs"]


def test_an_exception_of_a_users_module_is_shown_with_its_lines(place):
    process = start("train", "job.toml", "--set", f"model.type={NAME}.broken:Model", cwd=place)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    first, *lines = err.splitlines()
    assert first.startswith("error: model.type = ")
    assert [line.partition(f"{NAME}/")[2] for line in lines if line.startswith("  File")] == [
        'broken.py", line 8, in <module>',
        'broken.py", line 5, in read',
    ]
    assert lines[-1].startswith("json.decoder.JSONDecodeError: Expecting property name")


def test_runs_are_listed_with_the_options_that_differ_from_their_defaults(place):
    jobs = {
        "toy": {"model": {"type": TOY, "stage": {"blocks": 5}}},
        "mlp": {"model": {"latent": 32, "flow": {"context": False}}},
        "same": {"seed": 3},
    }
    for name, tables in jobs.items():
        folder = place / "runs" / name
        folder.mkdir(parents=True)
        (folder / "experiment.toml").write_text(tomli_w.dumps(tables))
        log = MetricsLog(folder / "metrics.jsonl", resume_step=None)
        log.append("train", 1, 10, {"elbo": -3.0})
        log.close()
    out, _ = run("runs", "list", cwd=place)
    lines = [line.strip("\u2502").split("\u2502") for line in out.splitlines() if "0/100" in line]
    rows = [[cell.strip() for cell in line] for line in lines]
    assert {row[0]: row[-2:] for row in rows} == {
        "toy": [TOY, "stage.blocks 5"],
        "mlp": ["mlp", "latent 32, flow.context false"],
        "same": ["mlp", "-"],
    }
    listed = {one["name"]: one for one in json.loads(run("runs", "list", "--json", cwd=place)[0])}
    assert listed["toy"]["model"] == TOY
    assert listed["toy"]["options"] == {"channels": 16, "norm": "batch", "stage.blocks": 5, "stage.name": "first"}
    assert listed["toy"]["changed"] == {"stage.blocks": 5}


def test_runs_of_classes_that_cannot_be_imported_are_listed_and_shown(tmp_path):
    models = {
        "model": {"type": "gone.model:Own", "width": 8, "stage": {"blocks": 5}, "flow": {"type": "gone.flow:Own"}},
        "flow": {"type": "mlp", "latent": 3, "flow": {"type": "gone.flow:Own", "depth": 2, "angle": 0.5}},
        "likelihood": {"type": "mlp", "latent": 3, "likelihood": "gone.pixels:Own"},
    }
    for name, model in models.items():
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "experiment.toml").write_text(tomli_w.dumps({"run": {"name": name}, "model": model}))
    listed = run("runs", "list", "--json", cwd=tmp_path)
    assert listed[1] == ""
    assert {one["name"]: one["changed"] for one in json.loads(listed[0])} == {
        "model": {"width": 8, "stage.blocks": 5, "flow.type": "gone.flow:Own"},
        "flow": {"latent": 3, "flow.type": "gone.flow:Own", "flow.depth": 2, "flow.angle": 0.5},
        "likelihood": {"latent": 3, "likelihood": "gone.pixels:Own"},
    }
    for name, model in models.items():
        shown, _ = run("runs", "show", f"runs/{name}", cwd=tmp_path)
        tables = tomllib.loads(shown[shown.index("seed = ") :])
        assert tables["run"]["name"] == name
        assert tables["model"].items() >= {key: value for key, value in model.items() if key != "flow"}.items()
        assert tables["model"]["flow"].items() >= model.get("flow", {}).items()
        assert "there is no module gone" in refused(tmp_path, "sample", f"runs/{name}")


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ('type = "mpl"', "model.type = 'mpl': must be 'mlp', "),
        ("type = 3", "model.type = 3: must be 'mlp', "),
        ('likelihood = "gausian"', "model.likelihood = 'gausian': must be 'bernoulli', "),
        ('type = "gone.model:Own"\n[data]\nbinarize = 1', "data.binarize = 1: must be "),
    ],
)
def test_all_else_of_a_listed_run_is_validated(tmp_path, table, reason):
    (tmp_path / "experiment.toml").write_text(f"[model]\n{table}\n")
    assert refused(tmp_path, "runs", "show", ".").startswith(f"error: experiment.toml: {reason}")


@pytest.mark.parametrize("command", ["train", "bench"])
@pytest.mark.parametrize(("kind", "setting"), [("resnet", "model.levels = 3"), ("conv", "model.type = 'conv'")])
def test_a_model_that_cannot_divide_the_images_is_refused_before_ray_starts(place, command, kind, setting):
    (place / "job.toml").write_text(JOB.format(data=place / "data", kind=kind))
    prepare(source(train=20, test=5, shape=(6, 12, 3)), str(place / "data"), shards=2)
    options = ("--set", "model.levels=3") if kind == "resnet" else ()
    factor = 8 if kind == "resnet" else 4
    assert refused(place, command, "job.toml", *options) == (
        f"error: {setting}: the height and width of the images must be divisible by {factor}, and they are 6x12 at "
        f"{place / 'data'}"
    )
