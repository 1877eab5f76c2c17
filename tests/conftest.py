"""Fixtures of all tests, settings of TensorFlow, the order of tests, and their distribution among processes."""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

# TensorFlow reads these when it is imported.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
os.environ.setdefault("OMP_NUM_THREADS", "2")
# The S3 server of the tests accepts any credentials; Ray's workers inherit these from the process that starts Ray.
os.environ.update(
    AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_REGION="us-east-1", AWS_EC2_METADATA_DISABLED="true"
)
# Most of a test's time is compilation. This reduces LLVM's optimizations, but not XLA's own.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Compiled programs and copies of files on the S3 server are in one folder for all processes of xdist.
os.environ["VAEDIST_CACHE"] = os.environ.get("VAEDIST_TESTS_CACHE") or tempfile.mkdtemp(prefix="vaedist-tests-cache-")
os.environ["VAEDIST_TESTS_CACHE"] = os.environ["VAEDIST_CACHE"]

sys.path.append(str(Path(__file__).parent))  # for `command`, `s3` and other modules that several folders use
sys.path.append(str(Path(__file__).parent / "data"))  # for `synthetic`
sys.path.append(str(Path(__file__).parent / "models"))  # for `tiny` and `own_parts`

import numpy as np
import pytest
import toys
from hypothesis import settings
from synthetic import source
from xdist.scheduler import LoadScopeScheduling

from vaedist.data.prepare import prepare

ARCHIVE = "VAEDIST_CIFAR10_ARCHIVE"
# Files whose tests share a Ray cluster, with the fixture `cluster`; those of a group run in one process.
SHARING = {
    "train": ("train", "resnet", "gpus", "joining", "actors", "drain", "doctor_ports", "image_health", "normalised"),
    "tune": ("tune", "evaluate", "bench", "inference", "contact_sheet"),
}
GROUPS = {f"tests/launch/test_{name}.py": group for group, names in SHARING.items() for name in names}

# If a shell starts the tests in the background, they and their children ignore SIGINT by default.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("vaedist", deadline=None)  # how long an example takes depends on the machine's load
settings.load_profile("vaedist")


def pytest_unconfigure():
    """Removes the cache when all processes have ended."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["VAEDIST_TESTS_CACHE"], ignore_errors=True)


class OneProcessForRay(LoadScopeScheduling):
    """Keeps the tests of a file in one process, those that share a Ray, and those that start a cluster."""

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        return "cluster" if file.startswith("tests/cluster/") else GROUPS.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Distributes tests among processes."""
    return OneProcessForRay(config, log)


def priority(item):
    """Returns the place of a test in the order, by the time that its group or file takes: the longest first."""
    file = item.nodeid.partition("::")[0]
    first = (file.startswith("tests/cluster/"), file in GROUPS, item.get_closest_marker("ray") is not None, True)
    return first.index(True)


def pytest_collection_modifyitems(config, items):
    """Sorts tests, the longest first, and deselects those that need the CIFAR-10 archive if there is none."""
    items.sort(key=priority)
    if os.environ.get(ARCHIVE):
        return
    wanting = [item for item in items if item.get_closest_marker("cifar10")]
    if wanting:
        config.hook.pytest_deselected(items=wanting)
        items[:] = [item for item in items if item not in wanting]


@pytest.fixture(scope="session")
def cifar10_archive():
    """The official binary archive, for tests marked `cifar10`."""
    return Path(os.environ[ARCHIVE])


@pytest.fixture(scope="session")
def s3_server():
    """Yields an S3 server behind a proxy that can simulate faults."""
    from s3 import S3

    server = S3()
    yield server
    server.close()


def ray_runs():
    """Returns True if this process is connected to Ray."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


@pytest.fixture
def without_ray():
    """Hides the Ray cluster that other tests of this process share, and asserts that commands do not start one."""
    before = ray_runs()
    with pytest.MonkeyPatch.context() as patch:
        if before:
            patch.setattr("ray.is_initialized", lambda: False)
        yield
    assert ray_runs() == before, "Ray was started"


@pytest.fixture
def s3(s3_server, tmp_path_factory, monkeypatch):
    """Returns the server, without faults at the start of each test, and sets an empty cache."""
    monkeypatch.setenv("VAEDIST_CACHE", str(tmp_path_factory.mktemp("cache")))
    s3_server.proxy.delay, s3_server.proxy.refuse = 0.0, lambda method, path: False
    s3_server.proxy.requests.clear()
    return s3_server


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory):
    """Returns a prepared data set of 53 training and 19 test images [4, 6, 3] in 8 shards; tests must not change it."""
    out = tmp_path_factory.mktemp("data") / "numbers"
    prepare(source(train=53, test=19), str(out), shards=8)
    return out


ROWS, LANES, SHAPE = 53, 8, (4, 6, 3)  # training images of small models


@pytest.fixture(scope="session")
def lanes():
    """Returns 53 images in 8 lanes."""
    images = np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE), dtype=np.uint8)
    return [images[lane::LANES] for lane in range(LANES)]


@pytest.fixture
def strategy():
    """Returns a strategy with one replica, on the CPU."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0"])


@pytest.fixture
def make_model(strategy):
    """Returns a function that makes a small model in the strategy's scope."""
    from mlp_vae import vae

    def make(**sizes):
        with strategy.scope():
            return vae(SHAPE, **({"hidden": 16, "latent": 5, "flow_depth": 2, "flow_width": 7, "seed": 3} | sizes))

    return make


@pytest.fixture
def reader(lanes):
    """Returns a function that makes a reader of the images with a batch size."""
    from vaedist.data.lane_reader import LaneReader
    from vaedist.data.lanes import LanePlan

    def make(batch, seed=0):
        return LaneReader(LanePlan(ROWS, LANES, batch), lanes, seed=seed)

    return make


@pytest.fixture
def toy_package(tmp_path_factory, monkeypatch):
    """Yields the folder of a package of users' models, which is on `sys.path`."""
    folder = toys.write(tmp_path_factory.mktemp("path"))
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == toys.NAME]:
        del sys.modules[name]


@pytest.fixture
def example_packages(monkeypatch):
    """Makes the packages of the examples importable."""
    folders = list((Path(__file__).parents[1] / "examples").iterdir())
    for folder in folders:
        monkeypatch.syspath_prepend(folder)
    yield
    for folder in folders:
        sys.modules.pop(folder.name, None)
