"""Logs of a running training, written by rank 0: metrics, TensorBoard, pictures, and events for the terminal."""

from collections.abc import Callable, Mapping
from typing import Self

from vaedist.config import Experiment
from vaedist.data.worker_data import Probe
from vaedist.errors import Interrupted
from vaedist.evaluation import inspection
from vaedist.models.model import Model
from vaedist.monitor.events import Event, Notice, Progress, Tested
from vaedist.monitor.metrics import MetricsLog
from vaedist.monitor.mlflow_tracker import MlflowTracker
from vaedist.monitor.pictures import by_rows, encode_png, enlarged, grid, save_encoded, side_by_side, titled, to_uint8
from vaedist.runs.folder import RunFolder
from vaedist.training.run_board import LoggedRun, RunBoard, hyperparameters

PICTURE_SCALE = 2  # screen pixels per image pixel
PICTURE_COLUMNS = 8
CAPTIONS = {
    "reconstructions": "Preprocessed {split} images, each beside its reconstruction E[x|z], with z drawn from q(z|x).",
    "samples": "Means E[x|z] with z drawn from the prior; pixels are not sampled from p(x|z).",
    "interpolations": "Means E[x|z] along great circles in latent space, between samples of q(z|x) of two {split} "
    "images.",
    "layers": "Preprocessed {split} images, then means E[x|z] in which the latents of the top {kept} of {layers} "
    "layers come from q(z|x), and those of the others from the prior, given the layers above.",
}
STATISTICS_IMAGES = 128
PROJECTOR_DIMS = 512  # at most, as its files are text


class RunLogger:
    """Writes a run's metrics, TensorBoard events and pictures, and reports its events.

    Args:
        run: the run's folder.
        experiment: the experiment, which TensorBoard shows as text.
        facts: further facts about the run.
        notify: called with each event.

    Raises:
        StorageError: by any method, if the folder cannot be written.
    """

    def __init__(
        self, run: RunFolder, experiment: Experiment, facts: LoggedRun, *, notify: Callable[[Event], None]
    ) -> None:
        self.run, self.notify, self.may_write = run, notify, run.store.check_writer
        self.split, self.settings, self.layers = facts.split, experiment.monitor, facts.layers
        self.seed = experiment.seed
        self.metrics = MetricsLog(run.metrics, resume_step=facts.resume_step)
        self.tracker = _tracker(run, experiment, resume=facts.resume_step is not None, notify=notify)
        self.board = RunBoard(run, experiment, facts)  # reads the metrics that are kept

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.metrics.close()
        self.board.close()
        if self.tracker is not None:
            stopped = kind is not None and issubclass(kind, Interrupted)
            self.tracker.close("FINISHED" if kind is None else "KILLED" if stopped else "FAILED")

    def train(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Logs a row of training means: the ELBO and its parts, learning rate, gradient norm and throughput."""
        self.may_write()
        self.metrics.append("train", epoch, step, values)
        self.board.train(step, values)
        if self.tracker is not None:
            self.tracker.metrics("train", step, values)
        numbers = (values[k] for k in ("elbo", "reconstruction", "kl", "images_per_second", "input_wait"))
        self.notify(Progress(epoch, step, *numbers))

    def epoch(self, epoch: int, step: int, values: Mapping[str, float], train_elbo: float, *, best: bool) -> None:
        """Logs the means over the evaluated split, and the training ELBO of the epoch."""
        self.may_write()
        self.metrics.append(self.split, epoch, step, {**values, "train_elbo": train_elbo, "best": best})
        self.board.epoch(step, values, train_elbo)
        if self.tracker is not None:
            scores = {**values, "best_elbo": values["elbo"]} if best else values
            self.tracker.metrics(self.split, step, scores)
        bits, bound = values.get("bits_per_dim"), values.get("importance_bound")
        elbo, reconstruction, kl = (values[k] for k in ("elbo", "reconstruction", "kl"))
        self.notify(Tested(epoch, step, elbo, reconstruction, kl, best, bits, bound, self.split))

    def latents(self, step: int, model: Model, probe: Probe) -> None:
        """Logs active units and channels, and the KL of each unit or channel, over some of the probe's images."""
        statistics = inspection.latent_statistics(model, probe.images[:STATISTICS_IMAGES], seed=self.seed)
        counts: dict[str, float] = {}
        if statistics.active_units is not None:
            counts["latent/active_units"] = statistics.active_units
        if channels := statistics.active_channels:
            counts["latent/active_channels"] = sum(channels.values())
            counts |= {f"latent/active_channels_by_layer/{layer}": count for layer, count in channels.items()}
        self.board.scored.scalars(step, counts)
        for layer, kl in statistics.kl.items():
            of = f"/{layer}" if len(statistics.kl) > 1 else ""
            self.board.scored.histogram(f"latent/kl_per_unit{of}", step, kl)

    def pictures(self, epoch: int, step: int, model: Model, probe: Probe) -> None:
        """Writes originals beside reconstructions, samples and interpolations, to TensorBoard and as PNG files.

        For a model of several stochastic layers, it also writes reconstructions from its top layers.
        """
        self.may_write()
        count, seed = self.settings.pictures, self.seed
        chosen = probe.images[:count]
        originals = to_uint8(inspection.observed(model, chosen))
        reconstructions = to_uint8(inspection.reconstruct(model, chosen, seed=seed))
        ends = probe.images[: 2 * (min(PICTURE_COLUMNS, len(probe.images)) // 2)]
        sheets = {
            "reconstructions": side_by_side(originals, reconstructions, PICTURE_COLUMNS // 2),
            "samples": grid(to_uint8(inspection.sample(model, 2 * count, seed=seed)), PICTURE_COLUMNS),
        }
        if len(ends):
            paths = inspection.interpolate(model, ends, steps=PICTURE_COLUMNS, seed=seed)
            sheets["interpolations"] = grid(to_uint8(paths), PICTURE_COLUMNS)
        known: dict[str, object] = {"split": self.split}
        if len(self.layers) > 1:
            found = inspection.progressive(model, chosen[:PICTURE_COLUMNS], seed=seed)
            sheets["layers"] = by_rows(originals[:PICTURE_COLUMNS], to_uint8(found.images))
            known |= {"kept": ", ".join(map(str, found.kept)), "layers": found.layers}
        for name, sheet in sheets.items():
            sheet, caption = enlarged(sheet, PICTURE_SCALE), CAPTIONS[name].format(**known)
            shown = titled(sheet, f"{name.capitalize()} after epoch {epoch}. {caption}")
            self.board.common.picture(f"pictures/{name}", step, encode_png(shown), caption)
            content = encode_png(sheet)
            for place in (f"{name}-epoch-{epoch:04d}.png", f"{name}.png"):
                save_encoded(self.run.pictures / place, content)
            if self.tracker is not None:
                self.tracker.picture(self.run.pictures / f"{name}-epoch-{epoch:04d}.png")

    def finish(self, step: int, model: Model, probe: Probe) -> None:
        """Writes the probe's images, and their latents or a projection of them, for TensorBoard's projector.

        It also marks the run as finished in TensorBoard's HParams table.
        """
        z = inspection.projected(model, probe.images, dims=PROJECTOR_DIMS, seed=self.seed)
        labels = [probe.classes[label] for label in probe.labels]
        self.board.common.projector("latents", step, z, labels, to_uint8(inspection.observed(model, probe.images)))
        self.board.end()

    def flush(self) -> None:
        """Flushes TensorBoard's events to disk."""
        self.board.flush()


def _tracker(
    run: RunFolder, experiment: Experiment, *, resume: bool, notify: Callable[[Event], None]
) -> MlflowTracker | None:
    """Returns the tracker that the experiment names, None if there is none."""
    if "mlflow" not in experiment.monitor.trackers:
        return None
    return MlflowTracker(
        location=run.location, folder=run.store.parent, name=run.name, params=hyperparameters(experiment),
        resume=resume, warn=lambda text: notify(Notice(text)),
    )  # fmt: skip
