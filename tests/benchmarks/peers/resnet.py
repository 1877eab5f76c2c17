"""Common parts of the ResNet loops: sizes, masks and initial weights of the model of `--model resnet` in compare.py.

It is the hierarchical VAE of vaedist's `model.type = "resnet"` for images of 32x32 pixels: 1 level of 2 blocks, and in
each block an IAF step with two masked hidden layers. The upper row of a masked 3x3 kernel would be 0 and is left out.
"""

import math

import numpy as np

SIDE, COLORS, BLOCKS, WIDTH, LATENT, LAYERS = 32, 3, 2, 32, 16, 2
RATE, BETA_1, BETA_2, EPSILON, EMA_DECAY = 2e-3, 0.9, 0.999, 1e-7, 0.999
FREE_BITS = 0.25  # nats for each channel of each stochastic layer
RESIDUAL = PARAMETER_SCALE = 0.1  # factors on a block's update of its path, and on the outputs of masked networks
LEVEL = 1 / 256  # width of a pixel value's bin

UP, TOP_UP = (LATENT, LATENT, WIDTH, WIDTH), (LATENT, LATENT, WIDTH)  # mu, log_sigma, context, features
DOWN = (LATENT, LATENT, LATENT, LATENT, WIDTH, WIDTH)  # mean and log_sigma of the prior; as UP


def shapes():
    """Returns the shape of each kernel, [height, width, inputs, outputs]; block 0 is next to the image."""
    found = {"stem": (5, 5, COLORS, WIDTH), "head": (5, 5, WIDTH, 2 * COLORS)}
    for block in range(BLOCKS):
        top = block == BLOCKS - 1
        found[f"up_in_{block}"] = (3, 3, WIDTH, sum(TOP_UP if top else UP))
        if not top:
            found[f"up_out_{block}"] = (3, 3, WIDTH, WIDTH)
        found[f"down_in_{block}"] = (3, 3, WIDTH, sum(DOWN))
        found[f"down_out_{block}"] = (3, 3, LATENT + WIDTH, WIDTH)
        for layer in range(LAYERS):
            found[f"hidden_{block}_{layer}"] = (2, 3, WIDTH if layer else LATENT, WIDTH)
        found[f"flow_{block}"] = (2, 3, WIDTH, 2 * LATENT)
    return found


def mask(name, shape):
    """Returns the mask of a masked kernel, or None."""
    if not name.startswith(("hidden", "flow")):
        return None
    inputs, outputs = shape[2], LATENT if name.startswith("flow") else shape[3]
    groups = min(inputs, outputs)
    of_input, of_output = np.arange(inputs) * groups // inputs, np.arange(outputs) * groups // outputs
    strict = name.startswith("flow")
    found = np.ones((2, 3, inputs, outputs), np.float32)
    found[0, 0] = 0
    found[0, 1] = of_input[:, None] < of_output if strict else of_input[:, None] <= of_output
    return np.tile(found, shape[3] // outputs)


def initial_weights():
    """Returns the direction of each kernel, the logarithms of its scales, and its bias.

    Instead of an initialisation from data, the scales are about those that it finds.
    """
    rng, found = np.random.default_rng(0), {}
    for name, shape in shapes().items():
        scale = math.log(1.0 if mask(name, shape) is not None else 0.1)
        direction = rng.normal(0, 0.05, shape).astype(np.float32)
        found[name] = direction, np.full(shape[3], scale, np.float32), np.zeros(shape[3], np.float32)
    return found
