"""Common parts of all loops: sizes of the model, images, and timing.

Each loop is run as `python LOOP.py IMAGES.npy BATCH PASSES`, and prints a line of JSON per pass over the images.
"""

import json
import math
import sys
import time

import numpy as np

PIXELS, HIDDEN, LATENTS, STEPS = 3072, 500, 500, 3
RATE, BETA_1, BETA_2, EPSILON = 1e-4, 0.9, 0.999, 1e-7
GATE_BIAS = 2.0
LOG_2PI = math.log(2 * math.pi)

images, batch, passes = np.load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
images = images[: len(images) // batch * batch]


def glorot(rng, inputs, outputs):
    """Returns an initial kernel, [inputs, outputs]."""
    limit = math.sqrt(6 / (inputs + outputs))
    return rng.uniform(-limit, limit, (inputs, outputs)).astype(np.float32)


def masks():
    """Returns the masks of a flow step's two kernels, [latents, hidden] and [hidden, 2 latents]."""
    seen = np.arange(HIDDEN) * LATENTS // HIDDEN  # number of latents that each hidden unit depends on, the first ones
    into = np.arange(LATENTS)[:, None] < seen[None, :]
    out = seen[:, None] <= np.arange(LATENTS)[None, :]
    return into.astype(np.float32), np.tile(out, (1, 2)).astype(np.float32)


def run(take_pass):
    """Times `take_pass`, which trains over all images once and returns the last loss."""
    for _ in range(passes):
        start = time.perf_counter()
        loss = float(take_pass())
        print(json.dumps({"images_per_second": len(images) / (time.perf_counter() - start), "loss": loss}), flush=True)
