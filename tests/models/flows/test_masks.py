import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaedist.models.flows import masks

sizes = {"latent": st.integers(1, 12), "width": st.integers(1, 30), "layers": st.integers(1, 4)}


def paths(latent, width, layers, *, reverse=False):
    """Returns the matrix of paths from inputs to outputs, [in, out]."""
    inputs, hidden = masks.input_degrees(latent, reverse=reverse), masks.hidden_degrees(width, latent)
    reached = masks.hidden_mask(inputs, hidden)
    for _ in range(layers - 1):
        reached = reached @ masks.hidden_mask(hidden, hidden)
    return reached @ masks.output_mask(hidden, inputs)


@given(**sizes)
def test_in_reverse_the_last_input_is_the_first(latent, width, layers):
    forward, reverse = paths(latent, width, layers), paths(latent, width, layers, reverse=True)
    np.testing.assert_array_equal(reverse, forward[::-1, ::-1])


@given(**sizes)
def test_no_path_leads_from_an_input_to_its_own_or_an_earlier_output(latent, width, layers):
    assert not np.tril(paths(latent, width, layers)).any()


@given(**sizes)
def test_a_path_leads_to_a_later_output_wherever_a_hidden_unit_has_a_degree_between(latent, width, layers):
    degrees = masks.hidden_degrees(width, latent)
    between = [
        [bool(((degrees >= i) & (degrees < o)).any()) for o in range(1, latent + 1)] for i in range(1, latent + 1)
    ]
    np.testing.assert_array_equal(paths(latent, width, layers), between)


@given(latent=sizes["latent"], spare=st.integers(0, 20), layers=sizes["layers"])
def test_every_input_reaches_every_later_output_when_no_layer_is_narrower_than_the_latents(latent, spare, layers):
    allowed = np.triu(np.ones((latent, latent), bool), 1)
    np.testing.assert_array_equal(paths(latent, latent + spare, layers), allowed)


@given(latent=sizes["latent"], width=sizes["width"])
def test_degrees_rise_from_0_and_are_evenly_spread(latent, width):
    degrees = masks.hidden_degrees(width, latent)
    assert degrees[0] == 0  # a unit that depends only on the context
    assert degrees.max() < latent
    assert (np.diff(degrees) >= 0).all()
    counts = np.bincount(degrees, minlength=latent)
    assert counts.max() - counts.min() <= 1


def test_the_masks_of_four_latents_and_four_units():
    hidden = masks.hidden_degrees(4, 4)
    assert hidden.tolist() == [0, 1, 2, 3]
    assert masks.hidden_mask(masks.input_degrees(4), hidden).tolist() == [
        [0, 1, 1, 1],
        [0, 0, 1, 1],
        [0, 0, 0, 1],
        [0, 0, 0, 0],
    ]
    assert masks.output_mask(hidden, masks.input_degrees(4)).tolist() == [
        [1, 1, 1, 1],
        [0, 1, 1, 1],
        [0, 0, 1, 1],
        [0, 0, 0, 1],
    ]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 9])
@pytest.mark.parametrize(("latent", "width"), [(1, 5), (2, 7), (5, 3), (6, 6), (16, 40), (50, 33)])
def test_column_blocks_are_the_mask_again(latent, width, blocks, reverse):
    inputs, degrees = masks.input_degrees(latent, reverse=reverse), masks.hidden_degrees(width, latent)
    for mask in (masks.hidden_mask(inputs, degrees), masks.output_mask(degrees, inputs)):
        parts = masks.column_blocks(mask, blocks)
        padded = [np.pad(part, ((first, len(mask) - first - len(part)), (0, 0))) for first, part in parts]
        np.testing.assert_array_equal(np.concatenate(padded, axis=1), mask)
        assert len(parts) <= blocks
        assert all(part.any() for _, part in parts) or not mask.any()


@pytest.mark.parametrize("reverse", [False, True])
def test_blocks_leave_out_most_of_the_zeros(reverse):
    inputs, degrees = masks.input_degrees(500, reverse=reverse), masks.hidden_degrees(500, 500)
    for mask in (masks.hidden_mask(inputs, degrees), masks.output_mask(degrees, inputs)):
        kept = sum(part.mask.size for part in masks.column_blocks(mask, 4))
        assert kept / mask.size == pytest.approx(5 / 8, abs=0.05)
