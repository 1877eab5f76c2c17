"""The MLP with a few of its options, for tests."""

from vaedist.models import VAE
from vaedist.models.flows.options import IAFOptions
from vaedist.models.mlp.options import MLPOptions


def vae(image_shape, *, binarize="none", seed=0, dtype="float32", **sizes):
    """Makes the model; `gate_bias` and options that start with `flow_` are options of the flow."""
    flow = {name.removeprefix("flow_"): sizes.pop(name) for name in [*sizes] if name.startswith("flow_")}
    if "gate_bias" in sizes:
        flow["gate_bias"] = sizes.pop("gate_bias")
    options = MLPOptions(**sizes, flow=IAFOptions(**flow))
    return VAE(image_shape, options, preprocessing=options.preprocessing(binarize), seed=seed, dtype=dtype)
