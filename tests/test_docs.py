"""Commands, options, keys, files and tests that the pages and the jobs' comments name exist."""

import ast
import importlib
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import pytest
from pages import PAGES, ROOT, fences, inline

import vaedist
from vaedist.cli import main
from vaedist.config import Experiment, Sweep, keys, read_job, with_options
from vaedist.config.model_options import MODELS
from vaedist.evaluation.results import Evaluation
from vaedist.monitor.curves import DESCRIPTIONS, description
from vaedist.runs.folder import RunFolder
from vaedist.sweeps import SweepFolder

JOBS = sorted((ROOT / "jobs").glob("*.toml"))
MADE = ("data", "runs", "build")  # folders of the root that commands create

pytestmark = pytest.mark.usefixtures("example_packages")


def header(job: Path) -> str:
    """Returns the comments at the beginning of a job."""
    return re.match(r"(#.*\n)*", job.read_text()).group()


def shell_lines(page: Path) -> list[str]:
    if page.suffix == ".toml":
        return [line.partition("Command:")[2] or line.lstrip("# ") for line in header(page).splitlines()]
    return [line for block in fences(page, "sh") for line in block.splitlines()]


def calls(program: str, *pages: Path) -> list[str]:
    """Returns the lines that call a program, without variables that are set for the call."""
    lines = (re.sub(r"^(\w+=\S+ )+", "", line.strip()) for page in pages for line in shell_lines(page))
    return sorted({line for line in lines if line.split()[:1] == [program]})


def in_inline(pattern: str) -> list[str]:
    """Returns the code in backticks, on any page, that matches a pattern as a whole."""
    return sorted({code for page in PAGES for code in inline(page) if re.fullmatch(pattern, code)})


def read_call(line: str) -> click.Context:
    """Returns a call of vaedist as click parses it, without running it.

    Raises:
        KeyError: there is no such command.
        click.UsageError: an option is unknown, or an argument missing.
    """
    words, command = shlex.split(line, comments=True)[1:], main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if command.name == "tune" and words[0] not in command.commands:  # a job, or DIR of --resume
            words.insert(0, "run")
        command = command.commands[words.pop(0)]
    if command.name == "tune" and words and words[0].startswith("--"):
        command = command.commands["run"]
    return command.make_context(command.name, words)


def commands(command: click.Command = main) -> Iterator[click.Command]:
    yield command
    for below in getattr(command, "commands", {}).values():
        yield from commands(below)


def file_names() -> list[str]:
    """Returns code and link targets that look like a file or a folder of the project."""
    linked = [
        os.path.relpath(page.parent / link, ROOT)
        for page in PAGES
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
        if "://" not in link
    ]
    named = [code.partition("::")[0] for code in in_inline(r"[\w.][\w./-]*(::\w+)?") if not description(code)]
    run = RunFolder.at(Path())
    of_a_run = {run.experiment.name, run.metrics.name, run.logs.name, run.tensorboard.name, run.pictures.name,
                run.checkpoints.name, run.evaluations.name, "ray"}  # fmt: skip
    sweep = SweepFolder.at(Path())
    of_a_run |= {sweep.sweep.name, sweep.trials.name, "report.md", "results.csv", "results.json", "plots"}
    paths = [name for name in named if "/" in name or Path(name).suffix in (".md", ".toml", ".txt", ".py", ".jsonl")]
    return sorted({path for path in paths + linked if Path(path).parts[0] not in {*MADE, *of_a_run}})


@pytest.mark.parametrize("line", calls("vaedist", *PAGES, *JOBS))
def test_a_call_in_a_block_is_complete_and_its_job_and_overrides_are_valid(line):
    given = read_call(line).params
    if name := given.get("job"):
        job = next(path for path in (ROOT / name, *ROOT.glob(f"examples/*/{name}")) if path.exists())
        read_job(job, given["overrides"])


@pytest.mark.parametrize("code", in_inline(r"vaedist( .*)?"))
def test_a_command_in_backticks_exists(code):
    # only the command's name, or --help
    with suppress(click.MissingParameter, click.exceptions.NoArgsIsHelpError, click.exceptions.Exit):
        read_call(code)


def test_options_in_backticks_exist():
    options = {"--help"}
    for command in commands():
        options |= {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    assert {code.split()[0] for code in in_inline(r"--.*")} <= options


def test_configuration_keys_in_backticks_exist():
    named = in_inline(rf"({'|'.join(Sweep.model_fields)})(\.[a-z_]+)+")
    assert named
    known = {key for name in MODELS.built_in for key in keys(with_options(Sweep, {"model": {"type": name}}))}
    assert set(named) <= known


@pytest.mark.parametrize(("page", "snippet"), [(page.name, text) for page in PAGES for text in fences(page, "toml")])
def test_a_snippet_of_a_job_is_valid(page, snippet):
    tables = tomllib.loads(snippet)
    (Sweep if "tune" in tables else Experiment).from_dict(tables, page)


@pytest.mark.parametrize("name", file_names())
def test_files_and_folders_exist(name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize("name", in_inline(r"tests/.*::.*"))
def test_tests_exist(name):
    file, _, test = name.partition("::")
    assert f"def {test}(" in (ROOT / file).read_text()


def test_the_page_on_tensorboard_lists_all_tags_with_their_meaning():
    rows = re.findall(
        r"^\| `([a-z_/]+)(?:\.\.\.)?` \| (.*) \|$", (ROOT / "docs/tensorboard.md").read_text(), re.MULTILINE
    )
    assert {tag: meaning.replace(r"\|", "|") for tag, meaning in rows} == DESCRIPTIONS


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for line in calls("make", *PAGES)} | {code.split()[1] for code in in_inline(r"make \w+.*")}
    assert {"train", "test"} <= named <= targets


RETURNED = {"load_run": vaedist.Run, "evaluate": Evaluation, "train": RunFolder}  # classes of what calls return


@pytest.mark.parametrize(("page", "snippet"), [(page, text) for page in PAGES for text in fences(page, "python")])
def test_a_python_snippet_compiles_and_uses_existing_names(page, snippet):
    nodes = list(ast.walk(ast.parse(snippet, page.name)))
    known = {"vaedist": vaedist}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made = RETURNED.get(getattr(node.value.func, "attr", ""))
            known |= {name.id: made for name in node.targets if made}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("vaedist"):
            assert all(hasattr(importlib.import_module(node.module), each.name) for each in node.names)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in known:
            owner = known[node.value.id]
            assert node.attr in {*dir(owner), *getattr(owner, "__dataclass_fields__", ()), *vaedist.__all__}
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_file":
            job, *overrides = map(ast.literal_eval, node.args)
            vaedist.Experiment.from_file(ROOT / job, *overrides)


@pytest.mark.parametrize("snippet", fences(ROOT / "docs/extending.md", "python"))
def test_the_code_on_extending_is_that_of_the_examples(snippet):
    examples = "".join(file.read_text() for file in (ROOT / "examples").rglob("*.py"))
    lines = {line.strip() for line in snippet.splitlines()} - {"", "..."}
    assert [line for line in lines if line not in examples] == []


def test_python_names_in_backticks_exist():
    assert {code.split(".")[1] for code in in_inline(r"vaedist\.\w+")} <= set(vaedist.__all__)


def test_the_pages_name_all_files_of_a_run():
    run, named = RunFolder.at(Path()), {Path(code).parts[0] for code in in_inline(r"[\w./]+")}
    left = (run.experiment, run.metrics, run.tensorboard, run.pictures, run.evaluations, run.checkpoints, run.logs)
    assert {path.name for path in left} <= named


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_every_command_and_option_has_help(command):
    assert command.help
    for option in command.params:
        assert isinstance(option, click.Argument) or option.help


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_every_job_is_valid_and_headed_by_purpose_command_hardware_and_expected_result(job):
    made = read_job(job)
    labels = re.findall(r"^# (\w+):\s+\S", header(job), re.MULTILINE)
    assert labels == ["Purpose", "Command", "Hardware", "Expected"]
    command = "tune" if isinstance(made, Sweep) else "train"
    assert f"vaedist {command} jobs/{job.name}" in calls("vaedist", job)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_overrides_in_a_jobs_comments_are_valid(job):
    read_job(job, tuple(re.findall(r"--set (\S+)", header(job))))
