"""Images whose shape the options of a model refuse, or cannot check."""

import pytest

from vaedist.config import Experiment
from vaedist.data.worker_data import check_images
from vaedist.errors import DataError, UserCodeError
from vaedist.models.mlp.options import MLPOptions


@pytest.fixture
def raising(monkeypatch):
    """Makes the options raise an exception for all images."""

    def make(error):
        def check_shape(self, image_shape):
            raise error

        monkeypatch.setattr(MLPOptions, "check_shape", check_shape)
        return Experiment().with_overrides("data.path=some/where")

    return make


def test_a_shape_that_the_options_refuse_is_a_fault_of_the_data(raising):
    with pytest.raises(DataError, match=r"^only squares at some/where$"):
        check_images(raising(ValueError("only squares")), (2, 3, 1))


def test_another_exception_of_the_options_is_shown_as_the_users(raising):
    with pytest.raises(UserCodeError, match=r"its options cannot check a shape") as error:
        check_images(raising(ZeroDivisionError("a fault")), (2, 3, 1))
    assert "test_check_images.py" in str(error.value)
