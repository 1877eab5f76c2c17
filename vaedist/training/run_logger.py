"""Logs of a running training, written by rank 0: metrics, TensorBoard, pictures, and events for the terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Self

from vaedist.config import Experiment
from vaedist.data.manifest import SplitName
from vaedist.data.worker_data import Probe
from vaedist.evaluation import inspection
from vaedist.models.model import Model
from vaedist.monitor.events import Event, Progress, Tested
from vaedist.monitor.metrics import MetricsLog
from vaedist.monitor.pictures import by_rows, encode_png, grid, save_encoded, side_by_side, to_uint8
from vaedist.monitor.tensorboard import TensorBoardWriter
from vaedist.runs.folder import RunFolder

PICTURE_SCALE = 2  # screen pixels per image pixel
PICTURE_COLUMNS = 8
CAPTIONS = {
    "reconstructions": "Preprocessed test images, each beside its reconstruction E[x|z], with z drawn from q(z|x).",
    "samples": "Means E[x|z] with z drawn from the prior; pixels are not sampled from p(x|z).",
    "interpolations": "Means E[x|z] along great circles in latent space, between samples of q(z|x) of two test images.",
    "layers": "Preprocessed test images, then means E[x|z] in which the latents of the top {kept} of {layers} layers "
    "come from q(z|x), and those of the others from the prior, given the layers above.",
}
CHARTS = {  # tags of the charts that compare layers, by title
    "KL by layer, training": "^kl/.*_train$",
    "KL by layer, validation or test": "^kl/.*_(validation|test)$",
    "active channels by layer": "^active_channels/.*$",
}
STATISTICS_IMAGES = 128
PROJECTOR_DIMS = 512  # at most, as its files are text
RATES = ("learning_rate", "gradient_norm", "images_per_second", "step_seconds", "input_wait")


class RunLogger:
    """Writes a run's metrics, TensorBoard events and pictures, and reports its events.

    Args:
        run: the run's folder.
        experiment: the experiment, which TensorBoard shows as text.
        split: the split that is evaluated after each epoch, "validation" or "test".
        resume_step: step of the checkpoint that the run resumes from; None for a new run.
        workers: number of workers, for the throughput per worker.
        layers: names of the model's stochastic layers.
        notify: called with each event.

    Raises:
        StorageError: by any method, if the folder cannot be written.
    """

    def __init__(
        self,
        run: RunFolder,
        experiment: Experiment,
        *,
        split: SplitName,
        resume_step: int | None,
        workers: int,
        layers: Sequence[str],
        notify: Callable[[Event], None],
    ) -> None:
        self.run, self.workers, self.notify, self.may_write = run, workers, notify, run.store.check_writer
        self.split, self.settings, self.layers = split, experiment.monitor, layers
        self.seed = experiment.seed
        self.metrics = MetricsLog(run.metrics, resume_step=resume_step)
        purge = None if resume_step is None else resume_step + 1
        events = [path.name for path in run.files_in(run.tensorboard)]
        self.board = TensorBoardWriter(run.tensorboard, purge_step=purge, after=events)
        if resume_step is None:
            self.board.text("experiment", f"```toml\n{experiment.to_toml()}\n```")
            if len(layers) > 1:
                self.board.charts({"layers": CHARTS})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.metrics.close()
        self.board.close()

    def train(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Logs a row of training means: the ELBO and its parts, learning rate, gradient norm and throughput."""
        self.may_write()
        self.metrics.append("train", epoch, step, values)
        scalars = {
            "elbo/train": values["elbo"],
            "parts/reconstruction_train": values["reconstruction"],
            "parts/kl_train": values["kl"],
            "optim/learning_rate": values["learning_rate"],
            "optim/gradient_norm": values["gradient_norm"],
            "perf/images_per_second": values["images_per_second"],
            "perf/images_per_second_per_worker": values["images_per_second"] / self.workers,
            "perf/step_ms": 1000 * values["step_seconds"],
            "perf/input_wait": values["input_wait"],
        }
        if "objective" in values:
            scalars |= {"elbo/objective_train": values["objective"], "optim/kl_weight": values["kl_weight"]}
        if "bits_per_dim" in values:
            scalars["elbo/bits_per_dim_train"] = values["bits_per_dim"]
        scalars |= self._kl_by_layer("train", values)
        by_layer = {f"kl_{name}" for name in self.layers}
        known = {"elbo", "reconstruction", "kl", "objective", "kl_weight", "bits_per_dim", *by_layer, *RATES}
        own = {f"parts/{name}": value for name, value in values.items() if name not in known}  # the model's metrics
        self.board.scalars(step, scalars | own)
        numbers = (values[k] for k in ("elbo", "reconstruction", "kl", "images_per_second", "input_wait"))
        self.notify(Progress(epoch, step, *numbers))

    def epoch(self, epoch: int, step: int, values: Mapping[str, float], train_elbo: float, *, best: bool) -> None:
        """Logs the means over the evaluated split, and the training ELBO of the epoch."""
        self.may_write()
        self.metrics.append(self.split, epoch, step, {**values, "train_elbo": train_elbo, "best": best})
        scalars = {
            f"elbo/{self.split}": values["elbo"],
            "elbo/train_epoch": train_elbo,
            f"parts/reconstruction_{self.split}": values["reconstruction"],
            f"parts/kl_{self.split}": values["kl"],
        }
        bits = values.get("bits_per_dim")
        if bits is not None:
            scalars[f"elbo/bits_per_dim_{self.split}"] = bits
        bound = values.get("importance_bound")
        if bound is not None:
            of = "" if self.split == "test" else f"_{self.split}"  # curves of the test split keep their old names
            scalars |= {f"elbo/importance_weighted{of}": bound, f"elbo/gap{of}": bound - values["elbo"]}
        self.board.scalars(step, scalars | self._kl_by_layer(self.split, values))
        elbo, reconstruction, kl = (values[k] for k in ("elbo", "reconstruction", "kl"))
        self.notify(Tested(epoch, step, elbo, reconstruction, kl, best, bits, bound, self.split))

    def latents(self, step: int, model: Model, probe: Probe) -> None:
        """Logs active units and channels, and the KL of each unit or channel, over some of the probe's images."""
        statistics = inspection.latent_statistics(model, probe.images[:STATISTICS_IMAGES], seed=self.seed)
        if statistics.active_units is not None:
            self.board.scalars(step, {"latent/active_units": statistics.active_units})
        channels = statistics.active_channels
        if channels:
            self.board.scalars(step, {"latent/active_channels": sum(channels.values())})
            self.board.scalars(step, {f"active_channels/{layer}": count for layer, count in channels.items()})
        for layer, kl in statistics.kl.items():
            of = f"/{layer}" if len(statistics.kl) > 1 else ""
            self.board.histogram(f"latent/kl_per_unit{of}", step, kl)

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
        captions = dict(CAPTIONS)
        if len(self.layers) > 1:
            found = inspection.progressive(model, chosen[:PICTURE_COLUMNS], seed=seed)
            sheets["layers"] = by_rows(originals[:PICTURE_COLUMNS], to_uint8(found.images))
            kept = ", ".join(map(str, found.kept))
            captions["layers"] = CAPTIONS["layers"].format(kept=kept, layers=found.layers)
        for name, sheet in sheets.items():
            content = encode_png(sheet, scale=PICTURE_SCALE)
            self.board.picture(f"pictures/{name}", step, content, captions[name])
            for place in (f"{name}-epoch-{epoch:04d}.png", f"{name}.png"):
                save_encoded(self.run.pictures / place, content)

    def _kl_by_layer(self, split: str, values: Mapping[str, float]) -> dict[str, float]:
        """Returns the scalars of the KL by layer; none if there is only one layer."""
        if len(self.layers) == 1:
            return {}
        return {f"kl/{name}_{split}": values[f"kl_{name}"] for name in self.layers}

    def finish(self, step: int, model: Model, probe: Probe) -> None:
        """Writes the probe's images, and their latents or a projection of them, for TensorBoard's projector."""
        z = inspection.projected(model, probe.images, dims=PROJECTOR_DIMS, seed=self.seed)
        labels = [probe.classes[label] for label in probe.labels]
        self.board.projector("latents", step, z, labels, to_uint8(inspection.observed(model, probe.images)))

    def flush(self) -> None:
        """Flushes TensorBoard's events to disk."""
        self.board.flush()
