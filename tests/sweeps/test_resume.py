"""Changes with which a sweep cannot be resumed, detected before Ray is started."""

import pytest
from synthetic import source

from vaedist.data.prepare import prepare
from vaedist.errors import RunError
from vaedist.launch.tuning.sweep import tune


def test_trials_scored_by_validation_images_are_not_compared_with_trials_scored_by_test_images(
    written, small_dataset, tmp_path
):
    validated = tmp_path / "validated"
    prepare(source(validation=11), str(validated), shards=8)
    sweep = written(data={"path": str(small_dataset)})
    sweep.trial((0, 16), (-120.0, -108.0))
    changed = sweep.sweep.with_overrides(f"data.path={validated}")
    with pytest.raises(RunError, match=r"was scored on test images, and with the data at .*validated it would be"):
        tune(changed, resume=True)
