"""A Ray cluster that reports a GPU which does not exist: training fails instead of using the CPU."""

from pathlib import Path

import pytest
import tensorflow as tf

from vaedist.errors import ClusterError
from vaedist.launch.doctor.examination import examine_cluster
from vaedist.launch.training.trainer import train
from vaedist.monitor.events import Notice, Started
from vaedist.runs.folder import RunFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="this machine has GPUs"),
]


def test_a_job_for_a_missing_gpu_ends_without_retry_and_with_the_reason(experiment):
    events = []
    with pytest.raises(ClusterError) as error:
        train(experiment.with_overrides("scaling.gpus_per_worker=1"), observe=events.append)
    said = str(error.value)
    assert said.isprintable()
    assert "was assigned 1 GPU(s), and TensorFlow sees 0: " in said
    assert not any(isinstance(event, Started | Notice) for event in events)  # and is not restarted
    assert not list(Path(RunFolder.of(experiment).path).glob("checkpoints/*"))


def test_doctor_asks_tensorflow_for_the_gpus_that_ray_counts():
    findings = {finding.what: finding for finding in examine_cluster(None, [])}
    assert findings["TensorFlow"].state == "fault"
    assert findings["TensorFlow"].found.startswith("Ray counts 1 GPU, and TensorFlow sees 0: ")
