"""The text of a sweep's report, in Markdown."""

from collections.abc import Iterator, Sequence

from vaedist.config import Sweep, told
from vaedist.sweeps.analysis import (
    TOLD,
    Importance,
    Outcome,
    compared_epoch,
    counts,
    ranked,
    score_of,
    split_of,
    title_of,
)
from vaedist.sweeps.trial import Trial

BEST_SHOWN = 10
SELECTED_BY = {
    "validation": "Trials and their epochs are selected on the validation images; the test images were not used.",
    "test": "The data has no validation split: trials and their epochs are selected on the test images, so the best "
    "score is biased: it is better than it would be on new images.",
}
PICTURES = ("reconstructions", "samples")


def sections(
    sweep: Sweep, found: Sequence[Outcome], weights: dict[str, Importance], plots: Sequence[str]
) -> Iterator[str]:
    """Yields the sections of the report, in Markdown."""
    order = ranked(sweep, found)
    yield f"# Sweep {sweep.run.name}"
    yield _summary(sweep, found)
    if not order:
        yield "No trial has been scored yet."
    else:
        yield from _best_section(sweep, order[0])
        yield from _table_of_best(sweep, order[:BEST_SHOWN])
        yield from _importance_section(found, weights)
    if plots:
        yield "## Plots"
        yield from (f"![{name}](plots/{name}.png)" for name in plots)
    failed = [one for one in found if one.trial.state == "failed"]
    if failed:
        yield "## Failed trials"
        rows = [(one.trial.number, one.trial.name, one.trial.starts, one.epochs, one.trial.reason) for one in failed]
        yield _table(("trial", "run", "starts", "epochs", "reason"), rows)
    broken = [one.trial for one in found if one.trial.fault]
    if broken:
        yield "## Trials that cannot be read"
        yield _table(("trial", "run", "error"), [(trial.number, trial.name, trial.fault) for trial in broken])


def _summary(sweep: Sweep, found: Sequence[Outcome]) -> str:
    states, shown, split = counts(found), TOLD[sweep.tune.metric], split_of(found)
    of = f" of {sweep.trials:,}" if len(found) < sweep.trials else ""
    better = "more" if sweep.tune.mode == "max" else "less"
    lines = [
        f"{len(found):,}{of} trials: {states['finished']:,} finished, {states['stopped']:,} stopped early, "
        f"{states['failed']:,} failed, {states['open']:,} still open. "
        f"Metric: {title_of(sweep.tune.metric, split)} ({shown.unit}, {better} is better), at the best epoch of each "
        f"trial."
    ]
    if split in SELECTED_BY:
        lines.append(SELECTED_BY[split])
    images, planned = (sum(getattr(one, name) for one in found) for name in ("images", "planned_images"))
    if planned:
        steps, planned_steps = (sum(getattr(one, name) for one in found) for name in ("steps", "planned_steps"))
        whole = f", {images / planned:.0%} of the {planned:,} images in {planned_steps:,} steps of all their epochs"
        lines.append(
            f"Trials with at least one completed epoch saw {images:,} images in {steps:,} training steps"
            f"{whole if images < planned else ', all that were planned'}."
        )
    return "\n\n".join(lines)


def _best_section(sweep: Sweep, best: Outcome) -> Iterator[str]:
    trial, epoch, shown = best.trial, best.best, TOLD[sweep.tune.metric]
    title = title_of(sweep.tune.metric, trial.split)
    assert epoch is not None
    yield "## Best trial"
    also = "" if sweep.tune.metric == "elbo" else f" (ELBO {score_of('elbo', epoch.elbo)} nats per image)"
    yield (
        f"Trial {trial.number}, `{trial.name}`: {title} **{score_of(sweep.tune.metric, best.score)}** {shown.unit}"
        f"{also} after epoch {epoch.epoch} of {best.epochs} completed epochs; the trial {_ended(trial)}."
    )
    yield _table(("parameter", "value"), [(f"`{key}`", told(best.params[key])) for key in sweep.tune.space])
    for name in PICTURES:
        if (trial.run.pictures / f"{name}.png").is_file():
            place = (trial.run.pictures / f"{name}.png").relative_to(trial.run.path.parent)
            yield f"{name.capitalize()}:\n\n![{name}]({place.as_posix()})"


def _ended(trial: Trial) -> str:
    return {"finished": "has finished", "stopped": "was stopped early", "failed": "then failed"}.get(
        trial.state, "is still open"
    )


def _table_of_best(sweep: Sweep, order: Sequence[Outcome]) -> Iterator[str]:
    yield f"## Best {len(order)} trials" if len(order) > 1 else "## Trials"
    keys, metrics = list(sweep.tune.space), list(dict.fromkeys([sweep.tune.metric, "elbo"]))
    names = [title_of(metric, split_of(order)) for metric in metrics]
    rows = [
        (
            place,
            one.trial.number,
            *(told(one.params[key]) for key in keys),
            *(score_of(metric, getattr(one.best, metric)) for metric in metrics),
            one.best and one.best.epoch,
            one.epochs,
            one.trial.state,
        )
        for place, one in enumerate(order, start=1)
    ]
    yield _table(("", "trial", *(f"`{key}`" for key in keys), *names, "best epoch", "epochs", "state"), rows)


def _importance_section(found: Sequence[Outcome], weights: dict[str, Importance]) -> Iterator[str]:
    epoch = compared_epoch(found)
    compared = sum(one.at(epoch) is not None for one in found) if epoch else 0
    yield "## Importance of the parameters"
    yield (
        f"The share of the metric's variance that each parameter alone explains (correlation ratio η², 0 to 1), over "
        f"the {compared} trials with a score after epoch {epoch}, the last epoch that all finished and stopped trials "
        f"completed. A parameter without effect has about the value under *by chance*. Ranges are divided into up to "
        f"five groups with equal numbers of trials; a score far worse than most is replaced by the worst of the others."
    )
    rows = [
        (f"`{key}`", _share(weight.eta_squared), _share(weight.by_chance), weight.groups, weight.best or "-")
        for key, weight in weights.items()
    ]
    yield _table(("parameter", "importance", "by chance", "groups", "best mean at"), rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(str(value)) for value in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Returns text for a table cell, on one line, with characters escaped that would end the cell or start HTML."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
