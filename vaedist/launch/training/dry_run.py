"""Dry run of a training: all checks that need no cluster, and a description of what would be started."""

import os

from vaedist.config import Experiment, check_classes
from vaedist.launch.session import resources_per_worker
from vaedist.launch.training.trainer import check_data, check_unchanged, with_absolute_paths
from vaedist.launch.user_code import code_of
from vaedist.runs.checkpoint_store import checkpoints_of
from vaedist.runs.folder import RunFolder
from vaedist.runs.resuming import check_run, is_complete


def describe_training(
    experiment: Experiment,
    *,
    resume: bool = False,
    changed_code: bool = False,
    changed_precision: bool = False,
    address: str | None = None,
) -> dict[str, str]:
    """Returns what `train` with the same arguments would start, by title; starts and writes nothing.

    Raises:
        VaedistError: the experiment cannot be trained; on a cluster, its resources are not checked.
    """
    experiment, packages = with_absolute_paths(experiment), code_of(experiment)
    run = RunFolder.of(experiment)
    exists = check_run(run, experiment, resume=resume, changed_precision=changed_precision)
    if exists and is_complete(run, experiment):
        return {"run": f"{run.location}: complete, nothing would be started"}
    check_classes(experiment)
    manifest = check_data(experiment)
    step = 0
    if exists:
        reached = checkpoints_of(run).reached()
        check_unchanged(f"run {run.location}", reached, experiment, manifest, None if changed_code else packages)
        step = reached.step if reached else 0
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # a GPU's memory is for trainings
    from vaedist.training.dry_run import describe_job, described_workers

    joined = address or os.environ.get("RAY_ADDRESS")
    resources = None
    if not joined:
        cpus, gpus = os.cpu_count() or 1, experiment.scaling.gpus_per_worker * experiment.scaling.bounds[1]
        resources = resources_per_worker(experiment.scaling, [{"CPU": cpus, "GPU": gpus}])
    where = f"Ray at {joined}, not contacted" if joined else f"a local Ray on this machine, of {os.cpu_count()} CPUs"
    return {
        "run": f"{run.location}: {f'resumed at step {step}' if exists else 'new'}",
        "where": where,
        "workers": described_workers(experiment, resources),
        **describe_job(experiment, manifest, from_step=step),
    }
