import numpy as np
import pytest
from synthetic import CLASSES, image_rows, row_of
from urllib3.util.retry import Retry

from vaedist.data.sources import tfds, tfds_source
from vaedist.errors import DataError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    import tiny_tfds  # noqa: F401 - importing registers its data sets

    return tmp_path_factory.mktemp("tfds")


def test_a_data_set_is_built_and_read_by_its_name(data_dir):
    source = tfds_source("tiny_numbers", data_dir)
    assert source.name == "tiny_numbers"
    assert source.classes == CLASSES
    assert source.shape == (4, 6, 3)
    assert source.provenance.name == "tiny_numbers/1.0.0"
    for split, rows in (("train", 20), ("test", 6)):
        assert source.rows(split) == rows
        images, labels = (np.concatenate(parts) for parts in zip(*source.read(split), strict=True))
        assert sorted(row_of(images)) == list(range(rows))
        np.testing.assert_array_equal(images, image_rows(0, rows)[row_of(images)])
        np.testing.assert_array_equal(labels, row_of(images) % 3)
        again, _ = next(iter(source.read(split)))
        np.testing.assert_array_equal(again, images[: len(again)])


def test_images_without_labels_are_one_class(data_dir):
    source = tfds_source("tiny_unlabelled", data_dir)
    assert source.classes == ("unlabelled",)
    images, labels = next(iter(source.read("test")))
    assert labels.tolist() == [0] * len(images) == [0] * 6


def test_a_validation_split_is_used_if_there_is_one(data_dir):
    source = tfds_source("tiny_validated", data_dir)
    assert source.counts == {"train": 20, "test": 6, "validation": 5}
    assert sorted(row_of(np.concatenate([images for images, _ in source.read("validation")]))) == list(range(5))


def test_16_bit_images_are_scaled(data_dir):
    images, _ = next(iter(tfds_source("tiny_deep", data_dir).read("train")))
    rows = row_of(images)
    assert sorted(rows) == list(range(20))
    deep = image_rows(0, 20)[rows] * 256.0 + rows[:, None, None, None]
    np.testing.assert_array_equal(images, (deep * 255 / 65535).round())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny_nubmers", "no data set 'tiny_nubmers' in tensorflow-datasets; did you mean 'tiny_numbers'?"),
        ("tiny_numbers:7.0.0", "cannot open data set tiny_numbers:7.0.0: .*7.0.0"),
        ("tiny_train_only", r"has no test split; it has train, and both train and test are needed"),
        ("tiny_ragged", r"tiny_ragged has images \?x\?x3 of uint8; one fixed shape of uint8 or uint16 is needed"),
        ("tiny_floats", "tiny_floats has images 4x6x1 of float32; one fixed shape of uint8 or uint16 is needed"),
        ("imdb_reviews", "imdb_reviews has no image feature; it has label, text"),
        ("owner:numbers", "'owner:numbers' is not the name of a data set"),
        ("../numbers", "is not the name of a data set"),
        ("tiny_unreachable", "cannot download and prepare tiny_unreachable: .*refused"),
    ],
)
def test_unavailable_data_sets_are_refused_in_one_line(data_dir, name, message):
    with pytest.raises(DataError, match=message) as caught:
        tfds_source(name, data_dir)
    assert "\n" not in str(caught.value)


def test_a_download_without_a_network_fails_soon_and_names_the_command_that_needs_none(data_dir, monkeypatch, caplog):
    pauses = []
    monkeypatch.setattr(Retry, "sleep", lambda retry, response=None: pauses.append(retry.get_backoff_time()))
    monkeypatch.setitem(tfds._PUBLISHED, "tiny_refused", "--archive tiny.tar.gz")
    with pytest.raises(DataError, match=r"cannot download and prepare tiny_refused:1.0.0: .*refused") as caught:
        tfds_source("tiny_refused:1.0.0", data_dir)
    assert str(caught.value).endswith("; without a network: vaedist data prepare tiny_refused --archive tiny.tar.gz")
    assert len(pauses) == tfds.RETRIES
    assert sum(pauses) < 10
    assert not caplog.records
