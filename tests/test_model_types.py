"""`model.type`: built-in models and users' models, and their options."""

import json
import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_config import message_of, only_config_errors, tables_of, toml_values
from toys import NAME, TOY

import vaedist
from vaedist.config import Experiment, ModelOptions, Section, Sweep, check_classes, differences, keys, with_options
from vaedist.config.model_options import MODELS
from vaedist.config.reading import placed
from vaedist.errors import ConfigError, UserCodeError
from vaedist.models.preprocessing import Binned, Threshold

TABLES = {"model": {"type": TOY}}
KEYS = ["model.type", "model.channels", "model.norm", "model.stage.blocks", "model.stage.name"]


@pytest.fixture(autouse=True)
def path(toy_package):
    """Returns the folder of the package, which is on `sys.path`."""
    return toy_package


@pytest.fixture
def toy():
    """Returns an experiment with a user's model."""
    return Experiment.from_dict({"model": {"type": TOY, "channels": 8}})


def elsewhere(code, folder, *arguments):
    """Runs Python code in a separate process that can import the package, and returns its output."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_the_public_name_of_the_base_class():
    assert vaedist.ModelOptions is ModelOptions


@pytest.mark.parametrize("kind", [*MODELS.built_in, TOY])
def test_every_key_of_a_model_has_a_description_and_a_valid_default(kind):
    options = MODELS.options_class(kind)
    assert next(iter(options.model_fields)) == "type"
    sections = [options]
    for section in sections:
        for name, field in section.model_fields.items():
            assert (field.description or section.__doc__).endswith("."), name
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                sections.append(field.annotation)
    experiment = Experiment.from_dict({"model": {"type": kind}})
    assert type(experiment.model) is options
    assert Experiment.from_toml(experiment.to_toml()) == experiment


def test_an_experiment_has_the_options_of_its_model(toy):
    assert type(toy.model).__name__ == "ToyOptions"
    assert (toy.model.type, toy.model.channels, toy.model.stage.blocks) == (TOY, 8, 3)
    assert toy.model.values() == {"channels": 8, "norm": "batch", "stage.blocks": 3, "stage.name": "first"}
    assert toy.model.changed() == {"channels": 8}
    assert [key for key in keys(with_options(Experiment, TABLES)) if key.startswith("model.")] == KEYS
    assert len({toy, Experiment.from_toml(toy.to_toml())}) == 1


def test_a_job_without_a_type_is_of_the_mlp():
    text = "[model]\nhidden = 8\nflow.depth = 2"
    assert Experiment.from_toml(text) == Experiment.from_toml(f"{text}\ntype = 'mlp'")
    assert Experiment().model.type == "mlp"


def test_options_can_be_given_as_an_instance():
    options = MODELS.options_class(TOY)
    assert Experiment(model=options(type=TOY, channels=4)).model.channels == 4
    for wrong in (options(channels=4), options(type="mlp")):
        with pytest.raises(ValueError, match=r"model\.type\n.*must be"):
            Experiment(model=wrong)


def test_overrides_set_the_type_and_that_models_keys_in_any_order(toy, tmp_path):
    changes = [f"model.type={TOY}", "model.channels=4", "model.stage.name=3"]
    for overrides in (changes, changes[::-1]):
        made = Experiment().with_overrides(*overrides)
        assert (made.model.type, made.model.channels, made.model.stage.name) == (TOY, 4, "3")
        (tmp_path / "job.toml").write_text("seed = 3")
        assert Experiment.from_file(tmp_path / "job.toml", overrides).model == made.model
    assert toy.with_overrides("model.norm=group").model.changed() == {"channels": 8, "norm": "group"}
    assert toy.with_values({"model.type": "mlp"}) == Experiment()
    assert toy.with_values({"model.type": TOY, "seed": 3}).model == toy.model


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.chanels=3", "unknown key 'model.chanels' of model.type = '{}'; did you mean 'model.channels'?"),
        ("model.stage.block=3", "did you mean 'model.stage.blocks'?"),
        ("qqqq=3", "unknown key 'qqqq'; `vaedist config schema --model {}` lists the valid ones"),
        ("model.stage.blocks=9", "model.stage.blocks = 9: must be less than or equal to 8"),
        ("model.norm=layer", "model.norm = 'layer': must be 'batch' or 'group'"),
        ("model.channels=13", "model: channels = 13: must be another number"),
        ("model.hidden=13", "unknown key 'model.hidden' of model.type = '{}'"),
    ],
)
def test_faults_of_a_users_options_are_reported_like_all_others(toy, override, message):
    assert message.format(TOY) in message_of(toy.with_overrides, override)


def test_keys_of_another_model_are_unknown(tmp_path):
    (tmp_path / "job.toml").write_text("[model]\nhidden = 3")
    message = message_of(Experiment.from_file, tmp_path / "job.toml", [f"model.type={TOY}"])
    assert message.startswith(f"--set: unknown key 'model.hidden' of model.type = '{TOY}'")


def test_differences_of_two_models_are_their_types(toy):
    assert list(differences(toy, toy.with_overrides("model.stage.blocks=4"))) == [("model.stage.blocks", 3, 4)]
    assert list(differences(toy, Experiment().with_overrides("seed=1"))) == [
        ("seed", 0, 1),
        ("model.type", TOY, "mlp"),
    ]


def test_the_schema_shows_the_keys_of_the_model():
    shown = with_options(Sweep, TABLES).model_json_schema()
    options = shown["$defs"]["ToyOptions"]["properties"]
    assert options["type"]["default"] == TOY
    assert options["channels"]["minimum"] == 1
    assert "MLPOptions" not in shown["$defs"]


def test_an_experiment_can_be_pickled_for_a_process_that_has_not_imported_the_class(toy, path):
    code = (
        "import pickle, sys; experiment = pickle.loads(bytes.fromhex(sys.argv[1])); print(experiment.to_toml())\n"
        "assert 'keras' not in sys.modules"
    )
    assert Experiment.from_toml(elsewhere(code, path, pickle.dumps(toy).hex())) == toy


def test_reading_options_loads_neither_keras_nor_tensorflow(path):
    code = (
        "import json, sys; from vaedist.config import Experiment\n"
        "Experiment(); Experiment.from_dict({'model': {'type': sys.argv[1]}}); print(json.dumps([*sys.modules]))"
    )
    assert {"keras", "tensorflow", "ray"}.isdisjoint(json.loads(elsewhere(code, path, TOY)))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("mpl", "must be 'mlp', 'conv', 'resnet' or a class of your own, 'package.module:Class'; did you mean 'mlp'?"),
        ("", "must be 'mlp', 'conv', 'resnet' or a class of your own, 'package.module:Class'"),
        ("a.b:", "must be 'mlp', 'conv', 'resnet' or a class of your own, 'package.module:Class'"),
        ("../up:Class", "must be 'mlp', 'conv', 'resnet' or a class of your own, 'package.module:Class'"),
        (f"{NAME}.lihgt:Toy", f"there is no module {NAME}.lihgt in PYTHONPATH (/some/where) or among"),
        ("nowhere_at_all.light:Toy", "there is no module nowhere_at_all in PYTHONPATH (/some/where) or among"),
        (f"{NAME}.light:Tyo", f"module {NAME}.light has no class Tyo; did you mean 'Toy'?"),
        (f"{NAME}.light:helper", f"helper in module {NAME}.light is not a class"),
        (f"{NAME}.light:NoOptions", "class NoOptions lacks Options, a subclass of vaedist.ModelOptions"),
        (f"{NAME}.light:WrongOptions", "WrongOptions.Options must be a subclass of vaedist.ModelOptions"),
    ],
)
def test_a_type_that_names_no_model_is_refused_in_one_line(monkeypatch, kind, reason):
    monkeypatch.setenv("PYTHONPATH", "/some/where")
    message = message_of(Experiment.from_dict, {"model": {"type": kind}}, "job.toml")
    assert message.startswith(f"job.toml: model.type = {kind!r}: {reason}")
    assert message_of(Experiment().with_overrides, f"model.type='{kind}'", "model.channels=3").startswith("--set")
    with pytest.raises(ConfigError) as error:
        MODELS.load(kind)
    assert str(error.value).startswith(f"model.type = {kind!r}: {reason}")
    assert pickle.loads(pickle.dumps(error.value)).reason == error.value.reason


def test_an_option_without_a_default_must_be_given():
    demanding = {"type": f"{NAME}.light:Demanding"}
    assert message_of(Experiment.from_dict, {"model": demanding}) == "experiment: model.rate is missing"
    made = Experiment.from_dict({"model": demanding | {"rate": 2.0}})
    assert made.model.changed() == {"rate": 2.0}
    assert Experiment.from_toml(made.to_toml()) == made
    assert "rate" in with_options(Sweep, {"model": demanding}).model_json_schema()["$defs"]["Options"]["required"]


def test_optional_text_is_used_unchanged():
    changes = (f"model.type={NAME}.light:Demanding", "model.rate=1", "model.note=3")
    made = Experiment().with_overrides(*changes)
    assert (made.model.note, made.model.rate) == ("3", 1.0)
    assert Experiment.from_toml(made.to_toml()) == made


def test_an_array_is_converted_to_a_tuple():
    made = Experiment().with_overrides(f"model.type={NAME}.light:Demanding", "model.rate=1", "model.sizes=[5, 7]")
    assert made.model.sizes == (5, 7)
    assert len({made, Experiment.from_toml(made.to_toml())}) == 1
    assert "model.sizes.1 = 'a': must be a valid integer" in message_of(made.with_overrides, "model.sizes=[5, 'a']")
    assert message_of(made.with_overrides, "model.sizes=5") == "--set: model.sizes = 5: must be an array"


@given(st.sampled_from(["model.norm", "model.stage", "model.stage.blocks", "model.stage.name"]), toml_values)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_of_a_users_option_makes_an_experiment_or_a_config_error(key, value):
    only_config_errors(Experiment.from_dict, placed(tables_of(key, value), {"model.type": TOY}))


def test_a_type_that_is_not_text_is_refused():
    assert message_of(Experiment.from_toml, "model.type = 3").startswith(
        "experiment: model.type = 3: must be 'mlp', 'conv', 'resnet' or"
    )


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        ("broken", ['broken.py", line 8, in <module>', 'broken.py", line 5, in read', "JSONDecodeError: Expecting"]),
        ("untyped", ['untyped.py", line 1', "def f(:", "SyntaxError: invalid syntax"]),
        ("missing", ['missing.py", line 1', "ModuleNotFoundError: No module named 'nowhere_to_be_found'"]),
        ("leaving", ['leaving.py", line 3', "SystemExit: no license"]),
    ],
)
def test_an_exception_on_import_is_shown_with_the_users_lines_only(module, shown):
    with pytest.raises(UserCodeError) as error:
        Experiment.from_dict({"model": {"type": f"{NAME}.{module}:Model"}})
    first, *lines = str(error.value).splitlines()
    assert first == f"model.type = '{NAME}.{module}:Model': module {NAME}.{module} cannot be imported:"
    for text in shown:
        assert any(text in line for line in lines), lines
    files = [line for line in lines if line.startswith("  File ")]
    assert len(files) == sum(".py" in text for text in shown)
    assert all(f"{NAME}/{module}.py" in line for line in files)


def test_an_exception_in_options_is_shown_with_the_users_lines_only(toy):
    with pytest.raises(UserCodeError, match=r"its options raise an exception:\n.*\n.*options\.py.*\n.*\nRuntimeError"):
        toy.with_overrides("model.channels=14")


def test_the_model_determines_the_preprocessing_of_pixels(toy):
    assert isinstance(toy.model.preprocessing("none"), Binned)
    assert isinstance(toy.model.preprocessing("threshold"), Threshold)
    picky = {"type": f"{NAME}.light:Picky"}
    message = message_of(Experiment.from_dict, {"model": picky, "data": {"binarize": "fixed"}})
    assert message == "experiment: data.binarize = 'fixed': this model draws pixels itself"
    with pytest.raises(UserCodeError, match=r"preprocessing raises an exception:\n(.*\n)+KeyError: 'dynamic'"):
        Experiment.from_dict({"model": picky, "data": {"binarize": "dynamic"}})


def sweep(space, kind=TOY, **settings):
    return Sweep.from_dict({"model": {"type": kind}, "tune": {**settings, "space": space}})


def test_the_space_of_a_sweep_is_that_of_its_own_model():
    made = sweep({"model.stage.blocks": {"grid": [1, 2]}, "model.norm": {"grid": ["group"]}}, metric="bits_per_dim")
    assert made.experiment({"model.stage.blocks": 2}).model.stage.blocks == 2
    assert Sweep.from_toml(made.to_toml()) == made
    with pytest.raises(
        ConfigError, match=r"'model\.chanels', which cannot be varied; did you mean 'model\.channels'\?"
    ):
        sweep({"model.chanels": {"grid": [1, 2]}})
    with pytest.raises(ConfigError, match=r"tune\.space: model\.stage\.blocks = 9: must be less than or equal to 8"):
        sweep({"model.stage.blocks": {"randint": [1, 9]}})


def test_the_model_itself_is_varied_where_all_of_them_have_the_keys():
    types = {"grid": [TOY, f"{NAME}.light:Picky"]}
    made = sweep({"model.type": types, "model.channels": {"grid": [1, 2]}})
    trial = made.experiment({"model.type": f"{NAME}.light:Picky", "model.channels": 2})
    assert (trial.model.type, type(trial.model).__qualname__, trial.model.channels) == (
        f"{NAME}.light:Picky", "Picky.Options", 2,
    )  # fmt: skip
    mixed = {"grid": [TOY, "mlp"]}
    with pytest.raises(
        ConfigError, match=r"'model\.channels', which cannot be varied in a trial of model\.type = 'mlp'"
    ):
        sweep({"model.type": mixed, "model.channels": {"grid": [1, 2]}})
    with pytest.raises(ConfigError, match=r"tune\.space: unknown key 'model\.channels'"):
        Sweep.from_dict({"model": {"type": TOY, "channels": 3}, "tune": {"space": {"model.type": mixed}}})
    assert sweep({"model.type": mixed}).experiment({"model.type": "mlp"}).model == Experiment().model
    with pytest.raises(ConfigError, match=r"model\.type = 'mpl': must be 'mlp'"):
        sweep({"model.type": {"grid": ["mpl"]}})


def test_built_in_models_are_not_imported_to_be_checked(path):
    code = "import sys; from vaedist.config import Experiment, check_classes; check_classes(Experiment())"
    elsewhere(f"{code}; assert 'keras' not in sys.modules", path)


def test_a_class_that_does_not_fit_the_interface_is_refused():
    interface = pytest.importorskip("vaedist.models.model").Model
    with pytest.raises(ConfigError, match=r"light:Toy': class Toy must be a subclass of vaedist\.models\.Model$"):
        MODELS.check(TOY)
    missing = ", ".join(sorted(interface.__abstractmethods__ - {"encode", "decode"}))
    assert "score" in missing
    with pytest.raises(ConfigError, match=rf"class Partial lacks {missing}, which vaedist\.models\.Model requires$"):
        check_classes(Experiment.from_dict({"model": {"type": f"{NAME}.models:Partial"}}))
