"""Dry run of a submission: a description of the job that would be sent to a cluster."""

import os
import shlex

from vaedist.config import Sweep
from vaedist.data.manifest import load_manifest
from vaedist.data.worker_data import check_images
from vaedist.errors import VaedistError
from vaedist.launch.jobs.submission import JOB_FILE, LOOK_SECONDS, Submission
from vaedist.storage.uri import join_uri


def describe_submission(submission: Submission, address: str | None) -> dict[str, str]:
    """Returns what would be submitted, by title; contacts no cluster and writes nothing.

    Args:
        submission: the submission, which is checked already.
        address: address of the cluster's dashboard, None for the default.

    Raises:
        VaedistError: the data can be read here, and the job cannot be trained on them.
    """
    from vaedist.training.dry_run import described_workers

    job = submission.job
    cluster = address or os.environ.get("RAY_API_SERVER_ADDRESS") or "the one local cluster"
    variables = [*submission.variables, *(f"{name} of the nodes" for name in submission.from_node)]
    sent = [package.name for package in submission.packages]
    described = {
        "run": f"{join_uri(job.run.folder, job.run.name)}, not checked",
        "where": f"a job on {cluster}, not contacted",
        "command": f"vaedist {shlex.join(submission.arguments)}",
        "environment": ", ".join([submission.environment, *variables]),
        "sent": ", ".join(["vaedist", submission.file.name if submission.file else JOB_FILE, *sent]),
        "workers": described_workers(job, None),
    }
    if isinstance(job, Sweep):
        described["trials"] = f"{job.trials}; what follows is for each trial with the job's own values"
    try:
        manifest = load_manifest(job.data.path, seconds=LOOK_SECONDS)
    except VaedistError as error:
        return {**described, "data": f"{job.data.path}, not readable from here: {error}"}
    check_images(job, manifest.shape)
    from vaedist.training.dry_run import describe_job

    return {**described, **describe_job(job, manifest)}
