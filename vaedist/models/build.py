"""From an experiment to the model that it describes."""

from vaedist.config import Experiment
from vaedist.models.mlp.model import VAE
from vaedist.models.model import Model


def build_model(experiment: Experiment, image_shape: tuple[int, int, int], dtype: str = "float32") -> Model:
    """The model that an experiment describes, with its first weights."""
    section, flow = experiment.model, experiment.model.flow
    return VAE(
        image_shape,
        hidden=section.hidden,
        latent=section.latent,
        likelihood=section.likelihood,
        binarize=experiment.data.binarize,
        flow_depth=flow.depth,
        flow_width=flow.width,
        flow_layers=flow.layers,
        flow_transform=flow.transform,
        flow_context=flow.context,
        gate_bias=flow.gate_bias,
        seed=experiment.seed,
        dtype=dtype,
    )
