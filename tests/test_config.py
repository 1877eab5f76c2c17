from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vaedist.config import Experiment, Section, differences, keys, with_options
from vaedist.errors import ConfigError

# A valid value of each key other than its default, and one that is refused.
VALUES: dict[str, tuple[Any, Any]] = {
    "seed": (7, -1),
    "run.name": ("iaf-3", "../up"),
    "run.folder": ("elsewhere", ""),
    "data.path": ("s3://bucket/cifar10", ""),
    "data.verify": (False, 1),
    "data.binarize": ("dynamic", "median"),
    "model.type": ("mlp", "mpl"),
    "model.hidden": (64, 0),
    "model.layers": (2, 17),
    "model.latent": (32, 2.5),
    "model.likelihood": ("gaussian", "poisson"),
    "model.initial_log_sigma": (-1.5, 2.5),
    "model.flow.type": ("iaf", "planar"),
    "model.flow.depth": (5, 65),
    "model.flow.width": (128, "wide"),
    "model.flow.layers": (2, 0),
    "model.flow.transform": ("affine", "planar"),
    "model.flow.context": (False, 1),
    "model.flow.gate_bias": (1.5, 21.0),
    "objective.kl_warmup_epochs": (2.5, -1.0),
    "objective.free_bits": (0.25, "much"),
    "objective.free_bits_group": (10, -1),
    "objective.samples": (5, 0),
    "objective.gradient": ("dreg", "score"),
    "training.epochs": (3, True),
    "training.global_batch": (256, 0),
    "training.learning_rate": (1e-3, 0.0),
    "training.optimizer": ("adamax", "sgd"),
    "training.schedule": ("cosine", "triangular"),
    "training.decay_to": (0.1, 1.5),
    "training.decay_epochs": ((2.0, 3.5), 2),
    "training.decay_factors": ((0.5, 0.25), 0.5),
    "training.warmup_steps": (100, -1),
    "training.epsilon": (1e-4, 0),
    "training.weight_decay": (0.01, -0.1),
    "training.clip_norm": (10.0, -0.5),
    "training.accumulation_steps": (8, 0),
    "training.reduce_dtype": ("bfloat16", "float16"),
    "training.precision": ("mixed_bfloat16", "bfloat16"),
    "training.deterministic": (True, 1),
    "training.ema_decay": (0.999, 1.0),
    "training.steps_per_call": (8, 1025),
    "training.eval_batch": (100, -3),
    "scaling.workers": (4, 0),
    "scaling.resize_seconds": (10.0, 0.5),
    "scaling.gpus_per_worker": (0.5, -1),
    "scaling.cpus_per_worker": (2.0, 1025),
    "scaling.logical_devices": (2, 0),
    "scaling.max_failures": (0, -1),
    "scaling.failure_window_hours": (24.0, -1.0),
    "scaling.autoscaling": (True, "yes"),
    "scaling.ports": ((20_000, 20_099), [20_099, 20_000]),
    "scaling.peer_networks": (("10.0.0.0/16", "fd00::1"), ["10.0.0.1/16"]),
    "checkpoint.every_steps": (0, -1),
    "checkpoint.keep": (5, 0),
    "monitor.log_every": (10, 0),
    "monitor.pictures_every": (0, -1),
    "monitor.trackers": (("mlflow",), "mlflow"),
    "monitor.importance_samples": (16, -1),
    "monitor.pictures": (16, 257),
}
STEPS = {"training.schedule": "steps", "training.decay_epochs": [1, 2], "training.decay_factors": [0.4, 0.2]}
NEEDED = {  # set to the first value
    "training.weight_decay": {"training.optimizer": "adamw"},
    "objective.gradient": {"objective.samples": 5},
    "training.decay_to": {"training.schedule": "linear"},
    **dict.fromkeys(("training.decay_epochs", "training.decay_factors"), STEPS),
}
KEYS = list(keys(Experiment))
OTHER_KEYS = [key for key in KEYS if not key.endswith(".type")]  # tests/test_model_types.py tests other models


def lookup(experiment, key):
    value = experiment
    for part in key.split("."):
        value = getattr(value, part)
    return value


def tables_of(key, value):
    """{"a": {"b": value}} from "a.b"."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def as_toml(value):
    return tomli_w.dumps({"v": value}).removeprefix("v = ").strip()


def message_of(function, *args):
    with pytest.raises(ConfigError) as error:
        function(*args)
    message = str(error.value)
    assert message.isprintable(), message  # one line
    return message


def job(tmp_path, text, name="my-job.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_the_tests_know_every_key():
    assert set(VALUES) == set(KEYS)


def test_every_default_is_valid_and_survives_a_round_trip():
    experiment = Experiment()
    assert Experiment.from_toml("") == experiment
    assert Experiment.from_dict(experiment.model_dump()) == experiment  # defaults are validated here
    assert Experiment.from_toml(experiment.to_toml()) == experiment


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_a_description(key):
    section: Any = with_options(Experiment)
    *path, leaf = key.split(".")
    for part in path:
        section = section.model_fields[part].annotation
    assert section.model_fields[leaf].description.endswith(".")


@pytest.mark.parametrize("key", OTHER_KEYS)
def test_every_key_can_be_set_by_an_override_and_survives_a_round_trip(key):
    value = VALUES[key][0]
    assert value != lookup(Experiment(), key)
    base = Experiment().with_overrides(*(f"{other}={as_toml(v)}" for other, v in NEEDED.get(key, {}).items()))
    experiment = base.with_overrides(f"{key}={as_toml(value)}")
    assert lookup(experiment, key) == value
    assert list(differences(base, experiment)) == [(key, lookup(base, key), value)]
    assert Experiment.from_toml(experiment.to_toml()) == experiment


@pytest.mark.parametrize("key", KEYS)
def test_every_key_can_be_set_in_a_job_file(tmp_path, key):
    value = VALUES[key][0]
    tables = tables_of(key, value)
    for other, needed in NEEDED.get(key, {}).items():
        if other == key:
            continue
        tables[other.split(".")[0]] |= tables_of(other, needed)[other.split(".")[0]]
    assert lookup(Experiment.from_file(job(tmp_path, tomli_w.dumps(tables))), key) == value


@pytest.mark.parametrize("key", KEYS)
def test_a_wrong_value_is_reported_with_its_key_and_origin(tmp_path, key):
    value = VALUES[key][1]
    path = job(tmp_path, tomli_w.dumps(tables_of(key, value)))
    message = message_of(Experiment.from_file, path)
    assert message.startswith(f"{path}: {key} = {value!r}: must ")
    message = message_of(Experiment().with_overrides, f"{key}={as_toml(value)}")
    assert message.startswith(f"--set: {key} = {value!r}: must ")


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        (
            "model.likelihood=poisson",
            "must be 'bernoulli', 'continuous_bernoulli', 'gaussian', 'discretized_logistic' or a class of your own, "
            "'package.module:Class'",
        ),
        ("training.epochs=0", "greater than or equal to 1"),
        ("model.flow.depth=65", "less than or equal to 64"),
        ("training.learning_rate=0", "greater than 0"),
        ("training.epochs=2.5", "valid integer"),
        ("training.epochs='3'", "valid integer"),
        ("training.epochs=true", "valid integer"),
        ("data.verify=1", "valid boolean"),
        ("run.name=-x", "letters, digits, '.', '_' or '-'"),
        ("run.name=a/b", "letters, digits, '.', '_' or '-'"),
        ("run.folder=''", "at least 1 character"),
        ("training.learning_rate=nan", "finite number"),
        ("training.learning_rate=inf", "finite number"),
        ("model.flow.gate_bias=-inf", "finite number"),
        ("seed=2147483648", "less than 2147483648"),
        ("model.hidden=[1, 2]", "valid integer"),
    ],
)
def test_a_wrong_value_is_reported_with_the_allowed_ones(override, allowed):
    key, _, _ = override.partition("=")
    message = message_of(Experiment().with_overrides, override)
    assert message.startswith(f"--set: {key} = ")
    assert allowed in message


@pytest.mark.parametrize(
    "workers", [[0, 4], [4, 1], [1], [1, 2, 3], [1.0, 4], [True, 2], "four", 4097, [1, 4097], [], 2.5]
)
def test_workers_are_a_number_or_the_fewest_and_the_most(workers):
    message = message_of(Experiment().with_overrides, f"scaling.workers={as_toml(workers)}")
    assert message.startswith("--set: scaling.workers = ")
    assert message.endswith("must be a number from 1 to 4096, or the minimum and the maximum, as in [1, 4]")


@pytest.mark.parametrize(
    ("workers", "bounds", "elastic"), [(3, (3, 3), False), ([2, 2], (2, 2), False), ([1, 4], (1, 4), True)]
)
def test_a_run_is_elastic_when_its_workers_are_a_range(workers, bounds, elastic):
    experiment = Experiment().with_overrides(f"scaling.workers={as_toml(workers)}")
    assert (experiment.scaling.bounds, experiment.scaling.elastic) == (bounds, elastic)
    assert Experiment.from_toml(experiment.to_toml()) == experiment


def test_an_integer_is_a_number():
    assert Experiment().with_overrides("training.learning_rate=1").training.learning_rate == 1.0


def test_gpus_are_not_split():
    message = message_of(Experiment().with_overrides, "scaling.gpus_per_worker=1", "scaling.logical_devices=2")
    assert "logical_devices" in message
    assert "gpus_per_worker" in message


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("model.flow.detph", "model.flow.depth"),
        ("training.epoch", "training.epochs"),
        ("trainig.epochs", "training.epochs"),
        ("learning_rate", "training.learning_rate"),
        ("seeed", "seed"),
        ("model.likelyhood", "model.likelihood"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path, wrong, right):
    for message in (
        message_of(Experiment().with_overrides, f"{wrong}=1"),
        message_of(Experiment.from_file, job(tmp_path, f"{wrong} = 1")),
    ):
        assert f"unknown key {wrong!r}" in message or f"unknown key {wrong.split('.')[0]!r}" in message
        assert f"did you mean {right!r}?" in message or f"did you mean {right.split('.')[0]!r}?" in message


def test_an_unknown_key_unlike_any_other_refers_to_the_list_of_valid_ones():
    assert "`vaedist config schema`" in message_of(Experiment().with_overrides, "qqqq.zzzz=1")


@pytest.mark.parametrize("override", ["model.flow.depth", "", "depth 4", "model.flow=3", "model={}", "=3"])
def test_an_override_that_sets_no_key_is_refused(override):
    assert message_of(Experiment().with_overrides, override).startswith(f"--set {override}: ")


def test_a_section_must_be_a_table(tmp_path):
    assert message_of(Experiment.from_toml, "model = 3") == "experiment: model must be a table, [model]"
    message = message_of(Experiment.from_toml, "[model]\nflow = [1]", "job.toml")
    assert message == "job.toml: model.flow must be a table, [model.flow]"


def test_bare_words_in_overrides_are_strings_and_the_last_override_counts():
    experiment = Experiment().with_overrides("data.path=data/my set", "run.name=a", " run.name = b ")
    assert (experiment.data.path, experiment.run.name) == ("data/my set", "b")


def test_an_override_of_two_lines_sets_no_second_key():
    message_of(Experiment().with_overrides, "training.epochs=1\nseed = 9")
    message_of(Experiment().with_overrides, "training\n.epochs=1")
    message_of(Experiment().with_overrides, "no\nkey")


def test_overrides_leave_the_first_experiment_as_it_was():
    experiment = Experiment()
    experiment.with_overrides("model.flow.depth=9", "seed=3")
    assert experiment == Experiment()


def test_an_experiment_is_frozen():
    experiment = Experiment()
    with pytest.raises(ValidationError, match="frozen"):
        experiment.seed = 3
    with pytest.raises(ValidationError, match="frozen"):
        experiment.model.flow.depth = 3
    assert len({experiment, Experiment()}) == 1  # frozen, hence hashable


def test_a_run_without_a_name_has_that_of_the_file(tmp_path):
    path = job(tmp_path, "seed = 3")
    assert Experiment.from_file(path).run.name == "my-job"
    assert Experiment.from_file(str(path)).run.name == "my-job"
    assert Experiment.from_file(path, ["run.name="]).run.name == "my-job"
    assert Experiment.from_file(path, ["run.name=mine"]).run.name == "mine"
    assert Experiment.from_file(job(tmp_path, "[run]\nname = 'told'")).run.name == "told"


def test_a_file_name_that_is_no_run_name_is_attributed_to_the_file(tmp_path):
    path = job(tmp_path, "seed = 3", "my job.toml")
    for overrides in ([], ["seed=4"]):
        message = message_of(Experiment.from_file, path, overrides)
        assert message.startswith(f"{path}: ")
        assert "run.name = 'my job'" in message
    assert Experiment.from_file(path, ["run.name=mine"]).run.name == "mine"


def test_a_fault_is_attributed_to_the_file_or_to_the_overrides(tmp_path):
    good, bad = job(tmp_path, "seed = 3"), job(tmp_path, "seed = -3", "bad.toml")
    assert message_of(Experiment.from_file, bad, ["seed=4"]).startswith(f"{bad}: seed")
    for overrides in (["seed=-4"], iter(["seed=-4"])):
        assert message_of(Experiment.from_file, good, overrides).startswith("--set: seed = -4")


def test_a_missing_file_is_reported_with_the_most_similar_one(tmp_path):
    job(tmp_path, "", "cifar10-iaf.toml")
    message = message_of(Experiment.from_file, tmp_path / "cifar10-aif.toml")
    assert str(tmp_path / "cifar10-aif.toml") in message
    assert f"did you mean {tmp_path / 'cifar10-iaf.toml'}?" in message
    assert "cifar10-iaf.toml" in message_of(Experiment.from_file, tmp_path / "qqq.toml")
    assert "no job file" in message_of(Experiment.from_file, tmp_path / "no" / "folder.toml")


def test_a_file_that_is_not_a_job_is_named(tmp_path):
    assert "directory" in message_of(Experiment.from_file, tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(bytes(range(256)))
    assert message_of(Experiment.from_file, binary) == f"cannot read job file {binary}: not UTF-8 text"
    zeros = tmp_path / "zeros.toml"
    zeros.write_bytes(bytes(64))
    assert "not valid TOML" in message_of(Experiment.from_file, zeros)
    message = message_of(Experiment.from_file, job(tmp_path, "seed = 1\nepochs 3"))
    assert "not valid TOML" in message
    assert "line 2" in message


@pytest.mark.parametrize(
    "text",
    [
        "seed = " + "9" * 5000,
        "seed = 0x" + "f" * 5000,
        "seed = " + "[" * 5000,
        "run.name = '" + "x" * 5000 + "'",
        "seed = 1\nseed = 2",
        "[model]\n[model]",
        "seed = 2024-01-01",
        "training.learning_rate = 1" + "0" * 400,
        "training.learning_rate = 1e999",
    ],
)
def test_a_monstrous_value_is_a_fault_like_any_other(text):
    assert len(message_of(Experiment.from_toml, text)) < 400
    key, _, value = text.partition(" = ")
    if key in KEYS:
        assert message_of(Experiment().with_overrides, f"{key}={value}")


def only_config_errors(function, *args):
    try:
        experiment = function(*args)
    except ConfigError as error:
        message = str(error)
    else:
        assert Experiment.from_toml(experiment.to_toml()) == experiment
        return
    assert message.isprintable(), message


@given(st.text())
def test_any_text_is_an_experiment_or_a_config_error(text):
    only_config_errors(Experiment.from_toml, text)


@given(st.text(alphabet="seedmodl.flwpth=[]{}\"'# \n\t0123456789-e,\\u\0", max_size=60))
def test_any_text_that_looks_like_toml_is_an_experiment_or_a_config_error(text):
    only_config_errors(Experiment.from_toml, text)


toml_values = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.dates()
    | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
sections = [key.rpartition(".")[0] for key in KEYS if "." in key]


@given(st.sampled_from([*KEYS, *sections]), toml_values)
def test_any_value_of_any_key_makes_an_experiment_or_a_config_error(key, value):
    only_config_errors(Experiment.from_dict, tables_of(key, value))


@given(st.sampled_from([*KEYS, *sections]) | st.text(), st.text())
def test_any_override_makes_an_experiment_or_a_config_error(key, value):
    only_config_errors(Experiment().with_overrides, f"{key}={value}")
    only_config_errors(Experiment().with_overrides, f"{key}{value}")


def test_an_argument_that_is_not_unicode_raises_a_config_error():
    """Python decodes arguments that are not UTF-8 in this way."""
    for override in ("run.folder=\udcff", "\udcff=1", "\udcff"):
        message_of(Experiment().with_overrides, override)


def test_defaults_are_only_in_the_fields():
    """The defaults of a section are those of the same section of an experiment."""
    for name, field in with_options(Experiment).model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            assert getattr(Experiment(), name).model_dump() == kind().model_dump()


def test_the_jobs_that_ship_with_the_project_are_valid():
    folder = Path(__file__).parents[1] / "jobs"
    jobs = [path for path in sorted(folder.glob("*.toml")) if not path.name.startswith("tune")]
    assert jobs
    for path in jobs:
        assert Experiment.from_file(path).run.name == path.stem


def test_a_batch_has_no_more_parts_than_images():
    Experiment.from_dict({"training": {"global_batch": 4, "accumulation_steps": 4}})
    with pytest.raises(ConfigError) as raised:
        Experiment.from_dict({"training": {"global_batch": 4, "accumulation_steps": 8}})
    assert str(raised.value) == "experiment: training: accumulation_steps = 8: must be at most global_batch = 4"


def test_gradients_are_summed_in_bfloat16_on_cpus_only():
    narrow = {"training": {"reduce_dtype": "bfloat16"}}
    Experiment.from_dict(narrow)
    with pytest.raises(ConfigError) as raised:
        Experiment.from_dict(narrow | {"scaling": {"gpus_per_worker": 1}})
    assert str(raised.value) == (
        "experiment: training.reduce_dtype = 'bfloat16' requires CPUs: TensorFlow cannot all-reduce bfloat16 on GPUs "
        "(scaling.gpus_per_worker = 1)"
    )


def test_binary_pixels_are_for_the_bernoulli_only():
    Experiment.from_toml('[data]\nbinarize = "threshold"')
    message = message_of(Experiment.from_toml, '[data]\nbinarize = "dynamic"\n[model]\nlikelihood = "gaussian"')
    assert message == (
        "experiment: data.binarize = 'dynamic' makes pixels binary, which requires model.likelihood = 'bernoulli', "
        "not 'gaussian'"
    )


ONE = ["schedule=steps", "decay_epochs=[1]", "decay_factors=[0.5]"]
TWO = ["schedule=steps", "decay_factors=[0.5, 0.1]"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["schedule=steps"], "decay_epochs and decay_factors of the same length, at least 1; they have 0 and 0"),
        ([*ONE, "decay_epochs=[1, 2]"], "decay_factors of the same length, at least 1; they have 2 and 1"),
        ([*TWO, "decay_epochs=[2, 1]"], "decay_epochs = [2.0, 1.0]: must be in ascending order"),
        ([*TWO, "decay_epochs=[2, 2]"], "decay_epochs = [2.0, 2.0]: must be in ascending order"),
        ([*ONE, "decay_epochs=[0]"], "training.decay_epochs.0 = 0: must be greater than 0"),
        ([*ONE, "decay_factors=[0]"], "training.decay_factors.0 = 0: must be greater than 0"),
        ([*ONE, "decay_factors=[2]"], "training.decay_factors.0 = 2: must be less than or equal to 1"),
        ([*ONE, "decay_epochs=[inf]"], "training.decay_epochs.0 = inf: must be a finite number"),
        ([*ONE, "decay_epochs=['a']"], "training.decay_epochs.0 = 'a': must be a valid number"),
        (["decay_epochs=[1]"], "decay_epochs requires schedule = 'steps'; it must be [] for 'constant'"),
        (["decay_factors=[1]", "schedule=cosine"], "decay_factors requires schedule = 'steps'; it must be [] for 'c"),
        (["decay_to=0.1"], "decay_to requires schedule = 'cosine', 'linear' or 'exponential'; it must be 0 for 'const"),
        (["schedule=exponential"], "schedule = 'exponential' requires decay_to above 0"),
    ],
)
def test_keys_of_a_schedule_that_do_not_fit_are_refused(overrides, message):
    assert message in message_of(Experiment().with_overrides, *(f"training.{each}" for each in overrides))
