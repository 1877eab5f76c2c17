import math
from functools import cache

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from vaedist.models import rng as noise
from vaedist.models.rng import POSTERIOR, numbered_bits, pixel_uniform, row_bits, row_noise, row_normal, row_uniform

STREAMS = [
    noise.POSTERIOR, noise.OBSERVATION, noise.EVALUATION, noise.EVALUATION_OBSERVATION, noise.PRIOR, noise.IMPORTANCE,
    noise.INSPECTION,
]  # fmt: skip
WIDTHS = [1, 3, 4, 5, 8, 10]
FUNCTIONS = {"bits": row_bits, "uniform": row_uniform, "normal": row_normal}


def draw(function=row_normal, *, seed=0, stream=POSTERIOR, step=0, first_row=0, rows=8, width=5):
    return function(seed, stream, step, first_row, rows, width).numpy()


@cache
def compiled(name, rows, width):
    """Draws as the training step does: in one XLA program, with step and first row as inputs."""
    function = FUNCTIONS[name]
    return tf.function(lambda step, first: function(7, POSTERIOR, step, first, rows, width), jit_compile=True)


def draw_compiled(name, step, first_row, rows, width):
    return compiled(name, rows, width)(tf.constant(step, tf.int64), tf.constant(first_row, tf.int64)).numpy()


@settings(max_examples=60)
@given(st.integers(0, 40), st.integers(1, 24), st.integers(1, 13), st.integers(0, 2**40))
def test_rows_drawn_alone_are_those_of_the_whole_batch(start, count, width, step):
    for function, rtol in ((row_bits, 0), (row_uniform, 0), (row_normal, 2e-6)):
        whole = draw(function, step=step, rows=64, width=width)[start : start + count]
        part = draw(function, step=step, first_row=start, rows=count, width=width)
        np.testing.assert_allclose(part, whole, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("width", [4, 5, 19])
def test_rows_drawn_alone_in_xla_are_the_same_bits_as_in_the_whole_batch(name, width):
    whole = draw_compiled(name, 3, 0, 31, width)
    for start in (0, 1, 5, 8, 24):
        np.testing.assert_array_equal(draw_compiled(name, 3, start, 7, width), whole[start : start + 7])


@pytest.mark.parametrize("width", WIDTHS)
def test_xla_draws_the_same_numbers(width):
    eager = draw(row_bits, seed=7, step=11, first_row=5, rows=6, width=width)
    np.testing.assert_array_equal(draw_compiled("bits", 11, 5, 6, width), eager)
    eager = draw(row_normal, seed=7, step=11, first_row=5, rows=6, width=width)
    np.testing.assert_allclose(draw_compiled("normal", 11, 5, 6, width), eager, atol=1e-5, rtol=1e-5)


@settings(max_examples=30)
@given(
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**40),
    st.integers(0, 10**10),
    st.integers(1, 9),
    st.permutations(range(6)),
)
def test_rows_of_any_numbers_have_the_bits_of_neighbouring_ones(seed, step, first, width, order):
    whole = row_bits(seed, POSTERIOR, step, first, 6, width).numpy()
    found = numbered_bits(seed, POSTERIOR, step, first + np.array(order), width).numpy()
    np.testing.assert_array_equal(found, whole[list(order)])


def test_pixels_are_drawn_alike_in_xla_for_rows_of_any_numbers():
    numbers = np.random.default_rng(0).integers(0, 2**40, 50)
    drawn = tf.function(pixel_uniform, jit_compile=True)(tf.constant(numbers), 21).numpy()
    np.testing.assert_array_equal(drawn, pixel_uniform(numbers, 21))
    np.testing.assert_array_equal(drawn[7], pixel_uniform(numbers[7:8], 21)[0])
    assert abs(drawn.mean() - 0.5) < 4 / math.sqrt(12 * drawn.size)


SHAPES = {"top": (3,), "whole": (2, 2, 5), "scalar": ()}
SUM = 3 + 20 + 1


def test_noise_of_one_name_is_that_of_its_rows():
    found = row_noise(7, POSTERIOR, 11, 5, 6, {"z": (4, 3)})
    assert list(found) == ["z"]
    expected = draw(seed=7, step=11, first_row=5, rows=6, width=12)
    np.testing.assert_array_equal(found["z"], expected.reshape(6, 4, 3))


@pytest.mark.parametrize("samples", [None, 1, 4])
def test_noise_of_several_names_is_cut_from_one_run_of_each_row(samples):
    found = row_noise(7, POSTERIOR, 11, 5, 6, SHAPES, samples)
    leading = (6,) if samples is None else (6, samples)
    assert {name: part.shape for name, part in found.items()} == {name: (*leading, *s) for name, s in SHAPES.items()}
    joined = np.concatenate([part.numpy().reshape(*leading, -1) for part in found.values()], axis=-1)
    run = draw(seed=7, step=11, first_row=5, rows=6, width=(samples or 1) * SUM)
    np.testing.assert_array_equal(joined, run.reshape(*leading, SUM))
    assert len(np.unique(joined)) == joined.size


@pytest.mark.parametrize("samples", [None, 3])
def test_rows_split_over_replicas_have_the_noise_of_the_whole_batch(samples):
    def noise_of(first, rows):
        return row_noise(7, POSTERIOR, tf.constant(3, tf.int64), first, rows, SHAPES, samples)

    drawn = tf.function(noise_of, jit_compile=True)
    whole = drawn(tf.constant(0, tf.int64), 13)
    for first, rows in ((0, 6), (6, 6), (12, 1)):
        for name, part in drawn(tf.constant(first, tf.int64), rows).items():
            np.testing.assert_array_equal(part, whole[name][first : first + rows])


def test_noise_of_float64_is_that_of_float32():
    narrow, wide = (row_noise(7, POSTERIOR, 0, 0, 4, SHAPES, dtype=dtype) for dtype in ("float32", "float64"))
    for name, part in wide.items():
        assert part.dtype == tf.float64
        np.testing.assert_array_equal(part, narrow[name].numpy().astype(np.float64))


def test_another_seed_stream_step_or_row_gives_other_numbers():
    draws = [
        draw(row_bits, seed=seed, stream=stream, step=step, rows=16, width=8)
        for seed in (0, 1, 2, 2**31 - 1)
        for stream in STREAMS
        for step in (0, 1, 2, 2**33)
    ]
    numbers = np.concatenate([d.ravel() for d in draws])
    assert len(np.unique(numbers)) > 0.9999 * len(numbers)  # of 32 bits, a few of 12288 may agree by chance


def test_streams_are_distinguished():
    assert len(set(STREAMS)) == len(STREAMS)


def test_the_same_key_gives_the_same_numbers():
    np.testing.assert_array_equal(draw(seed=5, step=9), draw(seed=5, step=9))


def test_rows_far_into_a_large_data_set_have_numbers_of_their_own():
    far = draw(row_bits, first_row=10**9, rows=4)
    assert np.intersect1d(far, draw(row_bits, rows=64)).size == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_is_the_requested_one(width):
    assert draw(row_bits, width=width).shape == (8, width)
    assert draw(row_uniform, width=width).dtype == np.float32
    assert draw(row_normal, width=width).dtype == np.float32


@pytest.fixture(scope="module")
def sample():
    """[1000, 999]: a width that is no multiple of 4."""
    return draw(row_normal, seed=3, rows=1000, width=999).astype(np.float64)


def test_the_moments_are_those_of_the_normal_distribution(sample):
    n = sample.size
    assert np.isfinite(sample).all()
    assert abs(sample.mean()) < 4 / math.sqrt(n)
    assert abs((sample**2).mean() - 1) < 4 * math.sqrt(2 / n)
    assert abs((sample**3).mean()) < 4 * math.sqrt(15 / n)
    assert abs((sample**4).mean() - 3) < 4 * math.sqrt(96 / n)
    assert 4.2 < np.abs(sample).max() < 5.3


def test_the_distribution_is_normal_by_the_kolmogorov_smirnov_distance(sample):
    x = np.sort(sample.ravel())
    cdf = 0.5 * (1 + tf.math.erf(x / math.sqrt(2)).numpy())
    steps = np.arange(x.size + 1) / x.size
    distance = max(np.abs(cdf - steps[1:]).max(), np.abs(cdf - steps[:-1]).max())
    assert distance * math.sqrt(x.size) < 1.63  # 1 % point; the sample is fixed


def test_neighbouring_rows_columns_and_steps_are_uncorrelated(sample):
    limit = 4 / math.sqrt(sample.size)
    other = draw(row_normal, seed=3, step=1, rows=1000, width=999)
    assert abs((sample[1:] * sample[:-1]).mean()) < limit
    assert abs((sample[:, 1:] * sample[:, :-1]).mean()) < limit
    assert abs((sample * other).mean()) < limit


def test_uniform_numbers_are_uniform_and_never_0_or_1():
    u = draw(row_uniform, rows=1000, width=401).astype(np.float64)
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    assert (u * 2**24 % 2 == 1).all()  # the middles of 2^23 cells: u and 1 - u are equally likely
    counts = np.histogram(u, 64, (0, 1))[0]
    chi2 = ((counts - u.size / 64) ** 2 / (u.size / 64)).sum()
    assert chi2 < 103.4  # 0.1 % point of chi-square with 63 degrees of freedom
