"""Values of options reach the experiment unchanged, whatever characters they contain."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from command import refused
from hypothesis import assume, example, given
from hypothesis import strategies as st

from vaedist.cli import main
from vaedist.config import Experiment, Sweep
from vaedist.errors import ConfigError
from vaedist.launch.jobs import client as sending
from vaedist.launch.jobs import submission as submitting
from vaedist.launch.training import trainer as training
from vaedist.launch.tuning import sweep as tuning
from vaedist.runs.folder import RunFolder
from vaedist.storage.filesystem import open_filesystem
from vaedist.storage.uri import fault_of, is_uri

NASTY = [
    "/tmp/w/o'brien/runs", '/tmp/say "hi"/runs', "/tmp/back\\slash", "/tmp/two\nlines", " /tmp/spaces ", "/tmp/100%",
    "/tmp/#1", "/tmp/ü/猫", "/tmp/'''", '/tmp/"""', "'quoted'", "true", "2024-01-15", "1e5", "0x10", "[1]",
    "/tmp/$HOME",
    "/tmp/a=b", "/tmp/`id`", "-x", "\ttab", "/tmp/\x1b[31m",
]  # fmt: skip
JOB = "[model]\nlatent = 4\n"
SWEEP = JOB + '[tune.space]\n"model.latent" = { grid = [2, 4] }\n'
# Valid arguments of a process; those with :// are URIs, and ~ is the home folder.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


class TakenError(Exception):
    """Raised instead of starting Ray, with the experiment to train."""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "job.toml").write_text(JOB)
    (folder / "sweep.toml").write_text(SWEEP)
    return folder


@pytest.fixture
def taken(monkeypatch):
    """Returns a function that runs a command in this process, without Ray, and returns the experiment to train."""

    def take(read, *_, **__):
        raise TakenError(read)

    monkeypatch.setattr(training, "train", take)
    monkeypatch.setattr(tuning, "tune", take)
    monkeypatch.setattr(submitting, "Submission", take)

    def run(*arguments):
        ended = CliRunner().invoke(main, list(map(str, arguments)), standalone_mode=False)
        assert isinstance(ended.exception, TakenError), (ended.exception, ended.output)
        return ended.exception.args[0]

    return run


@pytest.mark.parametrize("folder", NASTY)
def test_every_command_accepts_any_name_of_a_folder(taken, jobs, folder):
    for command in (
        ("train", jobs / "job.toml"),
        ("tune", "run", jobs / "sweep.toml"),
        ("submit", jobs / "job.toml"),
        ("submit", "--tune", jobs / "sweep.toml"),
    ):
        assert taken(*command, "--runs", folder, "--name", "a").run.folder == folder, command
        for key in ("run.folder", "data.path"):
            given = taken(*command, "--set", f"{key}={folder}")
            # Quotes are TOML's, as in a file; all other text is literal.
            expected = folder.strip("'") if folder == "'quoted'" else folder
            assert {"run.folder": given.run.folder, "data.path": given.data.path}[key] == expected, command


@given(folder=texts)
@example("o'brien\n\\\"'''")
@example(" ")
def test_any_folder_goes_through_train_unchanged(folder):
    assume(not is_uri(folder) and not folder.startswith("~") and fault_of(folder) is None)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", lambda experiment, **_: found.append(experiment) or sys.exit(3))
        with CliRunner().isolated_filesystem():
            Path("job.toml").write_text(JOB)
            ended = CliRunner().invoke(main, ["train", "job.toml", f"--runs={folder}"], standalone_mode=False)
    assert found, ended.output
    assert found[0].run.folder == folder
    assert Experiment.from_toml(found[0].to_toml()) == found[0], "a worker would read another one"


@pytest.mark.parametrize("name", ["2024-01-15", "1e5", "true", "0x10", "12", "nan", "inf"])
def test_text_that_looks_like_another_type_is_text(name):
    assert Experiment().with_overrides(f"run.name={name}").run.name == name
    assert Experiment().with_overrides(f"run.name='{name}'").run.name == name
    assert Experiment().with_overrides(f'run.name = "{name}"').run.name == name


def test_quoted_values_are_toml_and_nothing_of_a_value_is_lost():
    def path(text):
        return Experiment().with_overrides(text).data.path

    assert path(r'data.path="a\u00fc\tb"') == "aü\tb"
    assert path("data.path='a # b'") == "a # b"
    assert path("data.path='a' # b") == "'a' # b"
    assert path("data.path=/a #b") == "/a #b"
    assert path("data.path=' a '") == path("data.path= a ") == " a "
    assert path("data.path = a ") == "a"


def test_a_value_of_another_type_is_still_read_as_one():
    experiment = Experiment().with_overrides(
        "seed=0x10", "data.verify=false", "training.learning_rate=1e-3", "scaling.workers=[1, 2]"
    )
    assert (experiment.seed, experiment.data.verify, experiment.training.learning_rate) == (16, False, 1e-3)
    assert experiment.scaling.workers == (1, 2)


def test_an_invalid_value_is_attributed_to_the_command_line(jobs):
    with pytest.raises(ConfigError, match=r"^command line: run\.name = \"o'brien\": must be letters"):
        Experiment.from_file(jobs / "job.toml", (), {"run.name": "o'brien"})


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_jobs_of_other_editors(tmp_path, mark, end):
    (tmp_path / "job.toml").write_bytes(mark + JOB.encode().replace(b"\n", end))
    assert Experiment.from_file(tmp_path / "job.toml").model.latent == 4
    (tmp_path / "sweep.toml").write_bytes(mark + SWEEP.encode().replace(b"\n", end))
    assert Sweep.from_file(tmp_path / "sweep.toml").trials == 20


def test_a_tilde_is_the_home_folder_in_every_path(taken, jobs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    experiment = taken("train", jobs / "job.toml", "--runs", "~/runs", "--set", "data.path=~/data")
    absolute = training.with_absolute_paths(experiment)
    assert (absolute.run.folder, absolute.data.path) == (f"{tmp_path}/runs", f"{tmp_path}/data")
    assert RunFolder.of(experiment).path == tmp_path / "runs" / "job"
    assert open_filesystem("~/data")[1] == f"{tmp_path}/data"
    assert open_filesystem("./~/data")[1] == f"{Path.cwd()}/~/data"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train", "~/no.toml"), "no job file at {home}/no.toml"),
        (("runs", "list", "~/none"), "no runs at {home}/none"),
        (("runs", "show", "~/none"), "no run at {home}/none"),
        (("tune", "--resume=~/none"), "no sweep at {home}/none"),
        (("tensorboard", "~/none"), "no runs at {home}/none"),
        (("data", "prepare", "cifar10", "--archive=~/none.tar.gz"), "{home}/none.tar.gz"),
        (("data", "inspect", "~/none"), "no data set at "),
        (("bench", "job.toml", "--against=~/none.json"), "{home}/none.json"),
        (("train", "job.toml", "--runs=~nobody-of-that-name/runs"), "home folder of nobody-of-that-name"),
        (("tensorboard", "~nobody-of-that-name/runs"), "home folder of nobody-of-that-name"),
        (("train", "job.toml", "--runs=\0"), "must not contain a zero byte"),
        (("train", "job.toml", f"--runs=/tmp/{'ü' * 128}"), "must not contain a name of more than 255 bytes"),
        (("train", f"/tmp/{'a' * 256}"), "must not contain a name of more than 255 bytes"),
        (("runs", "list", f"/tmp/{'a' * 256}"), "must not contain a name of more than 255 bytes"),
        (("tensorboard", f"/tmp/{'a' * 256}"), "must not contain a name of more than 255 bytes"),
        (("check", f"/tmp/{'a' * 256}"), "must not contain a name of more than 255 bytes"),
        (("runs", "list", "/tmp" + "/a" * 3000), "cannot access /tmp"),
        (("train", "job.toml", "--runs=/tmp" + "/a" * 3000), "cannot access /tmp"),
    ],
)
def test_paths_of_commands_below_the_home_folder(arguments, says, jobs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(jobs)
    ended = CliRunner().invoke(main, arguments)
    assert ended.exit_code == 2
    assert says.format(home=tmp_path) in ended.output
    assert ended.output.count("\n") == 1, ended.output


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("encode run -o out --folder {uri}", "'--folder'"),
        ("encode run -o out --contact-sheet {uri}", "'--contact-sheet'"),
        ("neighbours run -o {uri}", "'-o' / '--output'"),
        ("sample run -o {uri}", "'-o' / '--output'"),
        ("reconstruct run -o {uri}", "'-o' / '--output'"),
        ("bench job.toml --out {uri}", "'--out'"),
        ("bench job.toml --against {uri}", "'--against'"),
        ("data prepare folder --folder {uri}", "'--folder'"),
        ("data prepare cifar10 --archive {uri}", "'--archive'"),
        ("data prepare digits --idx {uri}", "'--idx'"),
        ("data prepare digits --npz {uri}", "'--npz'"),
        ("data prepare mnist --data-dir {uri}", "'--data-dir'"),
        ("data inspect blobs -o {uri}", "'-o' / '--output'"),
        ("submit job.toml --package {uri}", "'--package'"),
        ("tune best sweep -o {uri}", "'-o' / '--out'"),
        ("train {uri}", "'JOB'"),
        ("tune run {uri}", "'[JOB]'"),
        ("init {uri}", "'[FILE]'"),
    ],
)
@pytest.mark.parametrize("scheme", ["s3://bucket", "https://host"])
def test_a_uri_of_another_machine_is_not_a_local_path(words, option, scheme, tmp_path):
    uri = f"{scheme}{tmp_path}/place"  # as a local path, it would be a folder in which files can be made
    assert f"error: Invalid value for {option}: {uri} must be a path on this machine, not a URI" in refused(
        tmp_path, *words.format(uri=uri).split()
    )


def test_a_file_uri_is_a_local_path(tmp_path):
    ended = CliRunner().invoke(main, ["init", f"file://{tmp_path}/a%20job.toml", "--model", "mlp"])
    assert ended.exit_code == 0, ended.output
    assert (tmp_path / "a job.toml").exists()


def test_a_shell_passes_the_arguments_of_a_job_unchanged(tmp_path):
    """On the cluster, Ray passes the command to a shell."""
    show = tmp_path / "python"
    show.write_text(f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], sys.stdout)\n")
    show.chmod(0o755)
    arguments = ["tune", "run", "--resume", "/a 'b'/\"c\"\nd", *(f"--set=data.path={folder}" for folder in NASTY)]
    ran = subprocess.run(
        sending.entrypoint(arguments), shell=True, check=True, capture_output=True, text=True,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert json.loads(ran.stdout) == ["-m", "vaedist", *arguments]


@pytest.mark.parametrize("folder", [folder for folder in NASTY if folder.startswith("/")])
def test_an_experiment_that_is_sent_to_a_cluster_reads_back(jobs, folder):
    values = {"run.name": "a", "run.folder": folder, "data.path": folder}
    for kind, file in ((Experiment, "job.toml"), (Sweep, "sweep.toml")):
        read = kind.from_file(jobs / file, (), values)
        sent = submitting.Submission(read, [], jobs / os.fsdecode(b"o'br\xffen.toml"))
        assert kind.from_toml(sent.job.to_toml()) == read
        json.dumps(sent.metadata()).encode("ascii")
        sent.metadata()["job"].encode()
    options = submitting.sweep_arguments(read, (f"data.path={folder}",), resume=True, retry_failed=False)
    assert options == ["tune", "run", "--resume", f"{folder}/a", "--set", f"data.path={folder}"]


def test_a_home_folder_is_not_sent_to_a_cluster(jobs):
    read = Experiment.from_file(jobs / "job.toml", (), {"run.folder": "~/runs", "data.path": "/data"})
    with pytest.raises(ConfigError, match=r"run\.folder = '~/runs': for a job it must be an absolute path"):
        submitting.Submission(read, [], jobs / "job.toml")
