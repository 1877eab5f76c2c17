import subprocess
import sys

import numpy as np
import pytest
from board import Board
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from vaedist.errors import StorageError
from vaedist.monitor.pictures import encode_png
from vaedist.monitor.tensorboard import TensorBoardWriter


def curve(folder, tag):
    return Board(folder).curve(tag)


def test_scalars_read_back_by_tag_and_step(tmp_path):
    writer = TensorBoardWriter(tmp_path / "new" / "tensorboard", purge_step=None)
    writer.scalars(1, {"elbo/train": -1909.5, "parts/kl": np.float32(72.5)})
    writer.scalars(np.int64(2), {"elbo/train": -1886.0})
    writer.close()
    folder = tmp_path / "new" / "tensorboard"
    assert curve(folder, "elbo/train") == [(1, -1909.5), (2, -1886.0)]
    assert curve(folder, "parts/kl") == [(1, 72.5)]


def test_flushed_events_survive_a_crash(tmp_path):
    writer = TensorBoardWriter(tmp_path, purge_step=None)
    writer.scalars(1, {"elbo/train": -1.0})
    writer.flush()
    assert curve(tmp_path, "elbo/train") == [(1, -1.0)]
    writer.close()


@pytest.mark.parametrize("closed", [True, False], ids=["stopped", "crashed"])
def test_a_resumed_run_has_each_step_once_with_the_new_values(tmp_path, closed):
    writer = TensorBoardWriter(tmp_path, purge_step=None)
    for step in range(1, 11):
        writer.scalars(step, {"elbo/train": float(step)})
    writer.scalars(8, {"parts/only_before": 1.0})
    writer.flush()
    if closed:
        writer.close()
    resumed = TensorBoardWriter(tmp_path, purge_step=6)
    for step in range(6, 11):
        resumed.scalars(step, {"elbo/train": float(100 + step)})
    resumed.close()
    assert curve(tmp_path, "elbo/train") == [(s, float(s if s < 6 else 100 + s)) for s in range(1, 11)]
    assert curve(tmp_path, "parts/only_before") == []


def test_a_writer_made_in_the_same_second_keeps_the_file_before_it(tmp_path):
    for step in range(5):
        writer = TensorBoardWriter(tmp_path, purge_step=step)
        writer.scalars(step, {"elbo/train": float(step)})
        writer.close()
    assert curve(tmp_path, "elbo/train") == [(step, float(step)) for step in range(5)]


def set_clock(monkeypatch, seconds, host="host"):
    monkeypatch.setattr("time.time", lambda: float(seconds))
    monkeypatch.setattr("time.time_ns", lambda: seconds * 1_000_000_000)
    monkeypatch.setattr("socket.gethostname", lambda: host)


@pytest.mark.parametrize(
    "clocks",
    [
        [(1_700_003_600, "host"), (1_700_000_000, "host"), (1_699_990_000, "host")],
        [(1_700_000_000, "zebra"), (1_700_000_000, "ant"), (1_700_000_000, "ant")],
    ],
    ids=["set back", "another machine in the same second"],
)
def test_a_resumed_run_is_shown_even_if_its_clock_is_wrong(tmp_path, monkeypatch, clocks):
    """The cases are a TensorBoard that runs all the time, and one that is started afterwards."""
    watching = Board(tmp_path)
    for number, clock in enumerate(clocks):
        set_clock(monkeypatch, *clock)
        first = 6 * number + 1
        writer = TensorBoardWriter(tmp_path, purge_step=first if number else None)
        for step in range(first, first + 8):  # two more than the next one starts from
            writer.scalars(step, {"elbo/train": float(100 * number + step)})
        writer.close()
        watching.reader.Reload()
    expected = [(step, float(100 * min((step - 1) // 6, 2) + step)) for step in range(1, 21)]
    assert watching.curve("elbo/train") == expected
    assert curve(tmp_path, "elbo/train") == expected


def test_a_writer_comes_after_files_that_are_on_a_store(tmp_path, monkeypatch):
    set_clock(monkeypatch, 1_700_000_000)
    elsewhere = ["events.out.tfevents.1700003600.other.1", "projector_config.pbtxt", "events.out.tfevents.x"]
    TensorBoardWriter(tmp_path, purge_step=7, after=elsewhere).close()
    (made,) = (path.name for path in tmp_path.iterdir())
    assert made > elsewhere[0]
    assert made.startswith("events.out.tfevents.1700003601.host.")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_reads_back_pixel_by_pixel(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    writer = TensorBoardWriter(tmp_path, purge_step=None)
    writer.picture("pictures/samples", 3, encode_png(image), "Means, not drawn pixels.")
    writer.close()
    board = Board(tmp_path)
    assert board.description("pictures/samples") == "Means, not drawn pixels."
    step, pixels, size = board.picture("pictures/samples")
    assert (step, size) == (3, (7, 5))
    assert (pixels.reshape(image.shape) == image).all()


def test_a_histogram_counts_the_finite_values(tmp_path):
    writer = TensorBoardWriter(tmp_path, purge_step=None)
    writer.histogram("latent/kl", 4, np.array([[0.0, 1.0, 1.0], [4.0, np.nan, np.inf]]))
    writer.histogram("latent/kl", 5, np.array([np.nan]))
    writer.close()
    ((step, buckets),) = Board(tmp_path).points("latent/kl")
    left, right, counts = buckets.T
    assert (step, left[0], right[-1], counts.sum()) == (4, 0.0, 4.0, 4)
    assert counts[(left < 1.1) & (right > 1.0)].sum() == 2


def test_a_text_is_one_of_the_text_plugins(tmp_path):
    writer = TensorBoardWriter(tmp_path, purge_step=None)
    writer.text("experiment", "# depth = 3, π")
    writer.close()
    accumulator = Board(tmp_path).reader
    (event,) = accumulator.Tensors("experiment/text_summary")
    assert event.tensor_proto.string_val[0].decode() == "# depth = 3, π"
    assert accumulator.SummaryMetadata("experiment/text_summary").plugin_data.plugin_name == "text"


def test_hyperparameters_are_in_the_runs_folder(tmp_path):
    writer = TensorBoardWriter(tmp_path, purge_step=None)
    params = {"depth": 3, "rate": 1e-4, "flow": True, "likelihood": "bernoulli"}
    writer.hparams(params, [("test", "elbo"), ("", "hparam/best_elbo")])
    writer.end_hparams()
    writer.close()
    assert [path.is_dir() for path in tmp_path.iterdir()] == [False]
    accumulator = Board(tmp_path).reader
    contents = accumulator.PluginTagToContent("hparams")
    start = hparams_metadata.parse_session_start_info_plugin_data(contents["_hparams_/session_start_info"])
    assert start.hparams["depth"].number_value == 3
    assert start.hparams["rate"].number_value == 1e-4
    assert start.hparams["flow"].bool_value is True
    assert start.hparams["likelihood"].string_value == "bernoulli"
    experiment = hparams_metadata.parse_experiment_plugin_data(contents["_hparams_/experiment"])
    assert [(info.name.group, info.name.tag, info.display_name) for info in experiment.metric_infos] == [
        ("test", "elbo", "test elbo"), ("", "hparam/best_elbo", "hparam/best_elbo"),
    ]  # fmt: skip
    assert {info.name for info in experiment.hparam_infos} == {"depth", "rate", "flow", "likelihood"}
    end = hparams_metadata.parse_session_end_info_plugin_data(contents["_hparams_/session_end_info"])
    assert end.status == 1  # success


def test_the_meaning_of_a_curve_is_with_its_first_point_in_each_file(tmp_path):
    for step in (1, 2):
        writer = TensorBoardWriter(tmp_path, purge_step=step)
        writer.scalars(step, {"elbo": 1.0, "kl_by_layer/z_1": 2.0, "own": 3.0})
        writer.scalars(step + 10, {"elbo": 1.5})
        writer.histogram("latent/kl_per_unit", step, np.ones(3))
        writer.close()
    board = Board(tmp_path)
    assert board.description("elbo").startswith("Evidence lower bound, nats per image")
    assert "of a stochastic layer, nats per image" in board.description("kl_by_layer/z_1")
    assert "nats" in board.description("latent/kl_per_unit")
    assert board.description("own") == ""
    events = [path.read_bytes() for path in tmp_path.iterdir()]
    assert [content.count(b"Evidence lower bound") for content in events] == [1, 1]


def points(n, size=4, width=5):
    vectors = np.random.default_rng(n).normal(size=(n, 3))
    thumbnails = np.random.default_rng(n).integers(0, 255, (n, size, width, 3), dtype=np.uint8)
    return vectors, [f"cat {i}\n\tstriped" for i in range(n)], thumbnails


def projected(folder):
    return text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())


def test_the_projector_finds_vectors_labels_and_thumbnails_in_one_order(tmp_path):
    vectors, labels, thumbnails = points(5)
    writer = TensorBoardWriter(tmp_path, purge_step=None)
    writer.projector("latent/z", 7, vectors, labels, thumbnails)
    writer.close()
    (embedding,) = projected(tmp_path).embeddings
    assert embedding.tensor_name == "latent/z (step 7)"
    np.testing.assert_allclose(np.loadtxt(tmp_path / embedding.tensor_path, delimiter="\t"), vectors, rtol=1e-6)
    lines = (tmp_path / embedding.metadata_path).read_text().splitlines()
    assert lines == [f"cat {i} striped" for i in range(5)]
    assert list(embedding.sprite.single_image_dim) == [5, 4]
    with Image.open(tmp_path / embedding.sprite.image_path) as picture:
        sprite = np.asarray(picture)
    per_row = sprite.shape[1] // 5  # as the Projector counts them
    for i in range(5):
        y, x = i // per_row * 4, i % per_row * 5
        assert (sprite[y : y + 4, x : x + 5] == thumbnails[i]).all()


def test_the_projector_keeps_the_newest_of_each_tag(tmp_path):
    for step in (1, 2):
        writer = TensorBoardWriter(tmp_path, purge_step=step)
        writer.projector("z", step, *points(4 + step))
        writer.projector("mu", step, *points(2))
        writer.close()
    embeddings = projected(tmp_path).embeddings
    assert [e.tensor_name for e in embeddings] == ["z (step 2)", "mu (step 2)"]
    assert np.loadtxt(tmp_path / embeddings[0].tensor_path, delimiter="\t").shape == (6, 3)
    assert not [path.name for path in tmp_path.rglob(".*")]


def test_the_projectors_sprite_stays_within_what_browsers_draw(tmp_path):
    vectors, labels, thumbnails = points(4, size=4100, width=4)
    writer = TensorBoardWriter(tmp_path, purge_step=None)
    writer.projector("z", 1, vectors, labels, thumbnails)
    writer.close()
    (embedding,) = projected(tmp_path).embeddings
    assert list(embedding.sprite.single_image_dim) == [2, 2050]
    with Image.open(tmp_path / embedding.sprite.image_path) as picture:
        assert picture.size == (4, 4100)


def test_the_projector_refuses_points_that_do_not_match(tmp_path):
    vectors, labels, thumbnails = points(3)
    writer = TensorBoardWriter(tmp_path, purge_step=None)
    with pytest.raises(ValueError, match="3 vectors, 2 labels, 3 thumbnails"):
        writer.projector("z", 1, vectors, labels[:2], thumbnails)
    writer.close()


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write TensorBoard's"):
        TensorBoardWriter(tmp_path / "file" / "tensorboard", purge_step=None)


def test_a_full_disk_is_reported_by_the_call_that_fails(tmp_path, file_size_limit):
    writer = TensorBoardWriter(tmp_path, purge_step=None)
    many = {f"group/{i}": 0.0 for i in range(2000)}  # exceeds any queue or buffer
    with file_size_limit(2000), pytest.raises(StorageError, match="cannot write TensorBoard's"):
        writer.scalars(1, many)
    writer.close()  # the disk has space again


def test_tensorflow_is_not_needed(tmp_path):
    program = f"""
import sys
sys.modules["tensorflow"] = None  # importing it fails
import numpy as np
from vaedist.monitor.pictures import encode_png
from vaedist.monitor.tensorboard import TensorBoardWriter
writer = TensorBoardWriter({str(tmp_path)!r}, purge_step=1)
image = np.zeros((2, 2, 3), np.uint8)
writer.scalars(1, {{"a": 1.0}})
writer.picture("b", 1, encode_png(image))
writer.histogram("c", 1, np.arange(3))
writer.text("d", "e")
writer.hparams({{"f": 1}}, [("g", "h")])
writer.projector("h", 1, np.eye(2), ["i", "j"], image[None].repeat(2, 0))
writer.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    assert curve(tmp_path, "a") == [(1, 1.0)]
