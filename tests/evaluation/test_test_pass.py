"""The test pass against the same mean computed row by row."""

import numpy as np
import pytest

from vaedist.evaluation.test_pass import Evaluator
from vaedist.models.rng import EVALUATION, row_normal
from vaedist.objectives.elbo import bound


@pytest.mark.parametrize("batch", [5, 16, 64])
def test_every_row_counts_once(make_model, strategy, reader, batch):
    model = make_model()
    lanes = reader(batch, seed=None)
    means = Evaluator(model, strategy, lanes, seed=4).run(epoch=2)
    elbos, kls = [], []
    for step in range(lanes.plan.steps):
        chunk = lanes.read(0, step, 1, 1)
        count = int(chunk.counts[0, 0])
        eps = row_normal(4, EVALUATION, 2 * lanes.plan.steps + step, 0, count, model.latent)
        terms = bound(model(chunk.images[0, 0, :count], {"z": eps}))
        elbos.extend(terms.elbo.numpy())
        kls.extend(terms.kl.numpy())
    assert means["rows"] == len(elbos) == 53
    assert means["elbo"] == pytest.approx(np.mean(elbos), rel=1e-5)
    assert means["kl"] == pytest.approx(np.mean(kls), rel=1e-5)
    assert means["elbo"] == pytest.approx(means["reconstruction"] - means["kl"], rel=1e-6)


def test_epochs_draw_other_noise_and_a_repeat_the_same(make_model, strategy, reader):
    evaluator = Evaluator(make_model(), strategy, reader(16, seed=None), seed=4)
    assert evaluator.run(1) == evaluator.run(1)
    assert evaluator.run(1)["elbo"] != evaluator.run(2)["elbo"]
