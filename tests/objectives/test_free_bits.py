"""Free bits of several stochastic layers, by their definition."""

import numpy as np
import pytest
import tensorflow as tf
from linear_gaussian import normal
from tiny import TinyHierarchy

from vaedist.evaluation.scoring import score_layout
from vaedist.models import Score
from vaedist.objectives.objective import Objective

LAYERS = {"top": 3, "bottom": 4}
# Number of a layer's groups that form one group of free bits.
GROUPS = {
    0: {"top": [(0, 1, 2)], "bottom": [(0, 1, 2, 3)]},
    1: {"top": [(0,), (1,), (2,)], "bottom": [(0,), (1,), (2,), (3,)]},
    2: {"top": [(0, 1), (2,)], "bottom": [(0, 1), (2, 3)]},
    3: {"top": [(0, 1, 2)], "bottom": [(0, 1, 2), (3,)]},
}


def make_score(*leading):
    kl = {name: tf.constant(normal(*leading, count, seed=count)) for name, count in LAYERS.items()}
    return Score(tf.constant(normal(*leading)), kl, {})


@pytest.mark.parametrize("size", GROUPS)
@pytest.mark.parametrize("leading", [(6,), (6, 5)])
def test_groups_stay_within_a_layer(size, leading):
    objective, score = Objective(group=size), make_score(*leading)
    members = [(name, group) for name, groups in GROUPS[size].items() for group in groups]
    expected = [sum(score.kl[name][..., i] for i in group) for name, group in members]
    np.testing.assert_allclose(objective.group_kl(score), np.stack(expected, axis=-1), atol=1e-12)
    assert objective.groups(LAYERS) == len(members)


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("size", GROUPS)
def test_groups_with_a_mean_below_lambda_count_as_lambda(size, samples):
    objective = Objective(warmup=4, free_bits=0.1, group=size, samples=samples)
    score = make_score(6) if samples == 1 else make_score(6, samples)
    groups = objective.group_kl(score).numpy()
    means = groups.reshape(-1, groups.shape[-1]).mean(axis=0)
    if size:
        assert (means > 0.1).any()
    assert (means < 0.1).any()
    kl = np.where(means > 0.1, groups, 0.1).sum(axis=-1)
    log_w = score.log_px.numpy() - 0.5 * kl  # the second of four updates of warm-up
    expected = log_w if samples == 1 else np.log(np.exp(log_w).mean(axis=1))
    np.testing.assert_allclose(objective.value(score, 1, tf.constant(means)), expected, atol=1e-6)


def test_a_model_of_two_layers_has_two_groups_by_layer():
    layout = score_layout(TinyHierarchy((4, 6, 3)))
    assert [Objective(group=size).groups(layout.layers) for size in (0, 1, 2, 3)] == [2, 5, 3, 2]
