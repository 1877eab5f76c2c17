"""Runs with random weights of all kinds of models, and their exports."""

import sys

import pytest
from model_runs import EXAMPLES, MODELS, SHAPE, make_run
from synthetic import source

import vaedist
from vaedist.data.prepare import prepare


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Yields a folder with a data set, and with a run of each model that has two checkpoints."""
    folder = tmp_path_factory.mktemp("exports")
    prepare(source(train=30, test=19, validation=11, shape=SHAPE), str(folder / "numbers"), shards=4)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("conv_vae", "planar_flow"):
            patch.syspath_prepend(EXAMPLES / name)
        for name in MODELS:
            make_run(folder, name, folder / "numbers")
        yield folder
        for name in ("conv_vae", "planar_flow"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def exports(place):
    """Returns a folder with an export of each run, by its name."""
    for name in MODELS:
        vaedist.load_run(place / name).export(place / "exported" / name)
    return place / "exported"
