"""Room for workers on the nodes of a cluster, without Ray."""

import pytest

from vaedist.config import ScalingSection
from vaedist.errors import ClusterError, ConfigError
from vaedist.launch.inference import Workers
from vaedist.launch.session import check_room, places, resources_per_worker


@pytest.mark.parametrize(
    ("gpus_of_node", "each", "fit"),
    [
        (2, 0.5, 4),
        (2, 0.6, 2),
        (1, 0.6, 1),
        (0.5, 0.5, 1),
        (0, 0.5, 0),
        (3, 0.3, 9),
        (4, 2, 2),
        (3, 2, 1),
        (1, 0.1, 10),
    ],
)
def test_a_part_of_a_gpu_is_of_a_single_one(gpus_of_node, each, fit):
    assert places(1, each, [{"CPU": 64, "GPU": gpus_of_node}]) == fit


def test_the_scarcest_resource_of_each_node_counts():
    nodes = [{"CPU": 3, "GPU": 2}, {"CPU": 16, "GPU": 1}, {"CPU": 8}]
    assert places(1, 0.5, nodes) == 3 + 2
    assert places(1, 0, nodes) == 27
    assert places(0.5, 0, nodes) == 54


def test_a_job_and_a_command_are_told_what_they_can_change():
    nodes = [{"CPU": 4, "GPU": 2}]
    with pytest.raises(ClusterError) as error:
        resources_per_worker(ScalingSection(workers=3, cpus_per_worker=2), nodes)
    assert str(error.value) == (
        "the cluster has no room for the job: scaling.workers = 3, each of 2 CPU, and 1 node with 4 CPU, 2 GPU in all "
        "fit 2; ask for less, or set scaling.autoscaling = true if the cluster adds nodes on demand"
    )
    check_room(2, 1, 0.6, nodes)
    with pytest.raises(ClusterError) as error:
        check_room(3, 1, 0.6, nodes)
    assert str(error.value) == (
        "the cluster has no room for the job: 3 workers, each of 1 CPU and 0.6 GPU, and 1 node with 4 CPU, 2 GPU in "
        "all fit 2; ask for fewer workers"
    )


@pytest.mark.parametrize(
    ("count", "gpus", "says"),
    [
        (0, 0, "workers = 0: must be at least 1"),
        (-1, 0, "workers = -1: must be at least 1"),
        (None, 1.5, "gpus_per_worker = 1.5: must be an integer up to 64, or less than 1"),
        (None, -0.5, "gpus_per_worker = -0.5: must be"),
        (None, float("nan"), "gpus_per_worker = nan: must be"),
        (None, 65, "gpus_per_worker = 65: must be"),
    ],
)
def test_workers_that_cannot_exist_are_refused(count, gpus, says):
    with pytest.raises(ConfigError, match=says):
        Workers(count, gpus)
