"""A planar flow (Rezende and Mohamed 2015), whose log-determinant is a single number for all latents."""

from keras import ops
from pydantic import Field

from vaedist import Flow, FlowOptions, FlowOutput

SOFTPLUS_1 = 0.5413248546129181  # softplus(SOFTPLUS_1) = 1


class Options(FlowOptions):
    """Keys of [model.flow] in a job file."""

    depth: int = Field(default=8, ge=0, le=64, description="Number of planar steps; 0 is a VAE without a flow.")
    scale: float = Field(default=1.0, gt=0, le=10, description="Factor on u, the direction of a step.")

    def context_width(self, latent):
        """Returns the number of parameters u, w and b of all steps, which the encoder computes for each image."""
        return self.depth * (2 * latent + 1)


class PlanarFlow(Flow):
    """Steps z' = z + u tanh(w.z + b), each of which is invertible if w.u > -1."""

    Options = Options

    def call(self, z, h):
        """Returns z after all steps, and the sum of their log-determinants."""
        log_det, size = 0.0, 2 * self.latent + 1
        for step in range(self.options.depth):
            u, w, b = ops.split(h[..., step * size : (step + 1) * size], [self.latent, 2 * self.latent], axis=-1)
            u, stretch = invertible(self.options.scale * u, w)
            t = ops.tanh(dot(w, z) + b)
            z = z + u * t
            # The determinant 1 + (1 - t^2) w.u, as a sum of positive terms.
            log_det = log_det + ops.log(ops.square(t) + (1 - ops.square(t)) * stretch)
        return FlowOutput(z, log_det)


def invertible(u, w):
    """Moves u along w such that w.u > -1; returns the new u and 1 + w.u.

    w.u = a becomes softplus(a + c) - 1 with softplus(c) = 1. It is 0 for a = 0, so that u stays finite as w goes to 0.
    """
    a = dot(w, u)
    stretch = ops.softplus(a + SOFTPLUS_1)
    return u + (stretch - 1 - a) * w / ops.maximum(dot(w, w), 1e-12), stretch


def dot(a, b):
    """Returns the inner product of vectors, [..., 1]."""
    return ops.sum(a * b, axis=-1, keepdims=True)
