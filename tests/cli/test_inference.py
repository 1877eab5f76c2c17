"""`vaedist encode` and `generate` refuse bad input in one line, before Ray starts and without writing anything."""

import json

import pytest
from command import refused, start_python
from random_runs import save_run
from synthetic import source

import vaedist
from vaedist.config import Experiment
from vaedist.data.prepare import prepare
from vaedist.inference.encode import encode_job
from vaedist.inference.generate import generate_job
from vaedist.inference.output import ParquetFormat, record_text
from vaedist.launch.inference import ADVICE

GREY = (4, 6, 1)

pytestmark = pytest.mark.usefixtures("without_ray")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Returns a folder with data sets, runs, and interrupted outputs."""
    folder = tmp_path_factory.mktemp("place")
    prepare(source(train=30, test=19, shape=GREY), str(folder / "grey"), shards=4)
    prepare(source(train=30, test=20, shape=GREY), str(folder / "others"), shards=4)
    prepare(source(train=30, test=19, shape=(4, 6, 3)), str(folder / "colour"), shards=4)
    base = Experiment().with_overrides(f"data.path={folder / 'grey'}")
    mlp = base.with_overrides("model.hidden=8", "model.latent=4", "model.flow.depth=0")
    save_run(folder / "run", mlp, steps=(4, 8))
    save_run(folder / "copy", mlp)
    moved = save_run(folder / "moved", mlp).experiment
    moved.write_text(moved.read_text().replace(str(folder / "grey"), str(folder / "others")))  # prepared again
    hierarchy = base.with_overrides("model.type=resnet", "model.width=4", "model.latent=2", "model.flow.depth=0")
    save_run(folder / "hierarchy", hierarchy)
    prepare(source(train=30, test=19, shape=(4, 6, 2)), str(folder / "pairs"), shards=4)
    save_run(folder / "two", mlp.with_overrides(f"data.path={folder / 'pairs'}"))
    run = vaedist.load_run(folder / "run")
    for name, job in (("encoded", encode_job(run, seed=1)), ("images", generate_job(run, 10))):
        (folder / name).mkdir()
        (folder / name / "_vaedist.json").write_text(record_text(job, ParquetFormat()))
    (folder / "full").mkdir()
    (folder / "full/notes.txt").write_text("mine")
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("full")
    return folder


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("encode run", "Missing option '-o' / '--output'"),
        ("encode nowhere -o out", "no run at nowhere"),
        ("encode run -o out --data colour", "/colour have the shape [4, 6, 3], but the run's model needs [4, 6, 1]"),
        ("encode moved -o out", "the data at {place}/others is not what the run was trained on: fingerprint "),
        ("encode run -o out --data nowhere", "no data set at {place}/nowhere"),
        ("encode run -o out --split validation", "has no validation split; it has train, test"),
        ("encode run -o out --split dev", "'dev' is not one of 'train', 'validation', 'test', 'all'"),
        ("encode run -o out --latents mean,sigma", "'sigma' must be one of sample, mean, log_sigma"),
        ("encode hierarchy -o out --latents mean", "ResNetVAE has no mean: it does not define posterior_base"),
        ("encode run -o out --folder empty", "no images in empty"),
        ("encode run -o out --folder full --split test", "--folder excludes --data and --split"),
        ("encode run -o out --folder full --contact-sheet full/a/sheet.png", "must be outside of --folder"),
        ("encode run -o out --folder ./link --contact-sheet full/sheet.png", "must be outside of --folder"),
        ("encode run -o out --checkpoint 5", "no checkpoint of step 5 in run/checkpoints; it has steps 4, 8"),
        ("encode run -o out --checkpoint last", "'last' must be best, newest, or the step of a checkpoint"),
        ("encode run -o out --workers 0", "0 is not in the range 1<=x<=4096"),
        ("encode run -o out --gpus-per-worker nan", "nan is not a number"),
        ("encode run -o out --gpus-per-worker 1.5", "gpus_per_worker = 1.5: must be an integer"),
        ("encode run -o out --ema", "kept no moving averages"),
        ("encode run -o full", "{place}/full is not empty, and not an output of vaedist: use another name"),
        ("encode run -o full --resume", "{place}/full is not empty, and not an output of vaedist"),
        ("encode run -o encoded --seed 1", "{place}/encoded already exists: use another name, or --resume"),
        ("encode run -o encoded --resume", "cannot resume {place}/encoded: its seed is 1, not 0"),
        ("encode run -o encoded --resume --seed 1 --checkpoint 4", "its step is 8, not 4"),
        ("encode copy -o encoded --resume --seed 1", 'its run is "{place}/run", not "{place}/copy"'),
        ("encode run -o encoded --resume --seed 1 --data others", 'its data is "{place}/grey", not "{place}/others"'),
        ("encode run -o encoded --resume --seed 1 --latents mean", "its latents is ["),
        ("encode run -o encoded --resume --seed 1 --rows-per-part 7", "its rows_per_part is "),
        ("generate run -n 10 -o encoded --resume", 'its kind is "encode", not "generate"'),
        ("generate run -n 10 -o images --resume --format png", 'its format is "parquet", not "png-files"'),
        ("generate run -n 11 -o images --resume", 'its rows is {{"images": 10}}, not {{"images": 11}}'),
        ("generate run -n 0 -o out", "0 is not in the range"),
        ("generate run -o out", "Missing option '-n' / '--count'"),
        ("generate run -n 10 -o out --temperature nan", "nan is not a number"),
        ("generate two -n 10 -o out", "cannot be PNG, which has 1 or 3: use --format parquet-array"),
        ("generate two -n 10 -o out --format png", "images of 2 channels cannot be PNG"),
        ("encode two -o out --folder full", "images in full are grey or RGB, but the run's model needs 2 channels"),
        ("generate run -n 10 -o out --format jpeg", "'jpeg' is not one of"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(place, arguments, says):
    assert says.format(place=place) in refused(place, *arguments.split())


def test_data_that_was_prepared_again_is_not_the_same(place):
    path = place / "encoded/_vaedist.json"
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | {"fingerprint": "0" * 64}))
    line = refused(place, "encode", "run", "-o", "encoded", "--resume", "--seed", 1)
    path.write_text(text)
    assert 'its fingerprint is "0000' in line


ENDING = """
import contextlib, os
from vaedist.cli import main
from vaedist.launch import inference

@contextlib.contextmanager
def ending(*_):
    os._exit(1)
    yield

inference.ray_session = ending
main(prog_name="vaedist")
"""


def test_a_command_that_ray_ends_says_how_to_complete_the_output(place):
    process = start_python(ENDING, "encode", "run", "-o", "ended", cwd=place)
    _, error = process.communicate(timeout=300)
    *_, line = error.splitlines()
    assert process.returncode == 1
    log = place / "ended/_logs/ray.log"
    assert line == f"error: the command was ended by Ray, which failed, or by the system; see {log}; {ADVICE}"
