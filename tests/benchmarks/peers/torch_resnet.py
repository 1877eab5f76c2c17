"""PyTorch: the model by torch.compile, with images and kernels in channels_last, and its foreach Adamax.

Strided convolutions have two zeros before the image and one after it; in the other loops it is the other way round.
"""

import common
import numpy as np
import resnet
import torch
from common import LOG_2PI, batch, images
from resnet import BLOCKS, DOWN, LEVEL, RESIDUAL, SIDE, TOP_UP, UP
from torch import nn
from torch.nn import functional


class Convolution(nn.Module):
    """A weight-normalised convolution; "half" and "double" change the size."""

    def __init__(self, direction, log_scale, bias, mask, resize=None):
        super().__init__()
        self.resize, self.masked = resize, mask is not None
        axes = (2, 3, 0, 1) if resize == "double" else (3, 2, 0, 1)
        self.output = axes.index(3)
        self.direction = nn.Parameter(self.arranged(direction, axes))
        self.log_scale = nn.Parameter(torch.from_numpy(log_scale))
        self.bias = nn.Parameter(torch.from_numpy(bias))
        if self.masked:
            self.register_buffer("mask", self.arranged(mask, axes))

    @staticmethod
    def arranged(values, axes):
        """Returns a kernel in PyTorch's order of axes and in channels_last."""
        kernel = torch.from_numpy(np.ascontiguousarray(values.transpose(axes)))
        return kernel.contiguous(memory_format=torch.channels_last)

    def forward(self, x):
        """Returns the convolution of x, [B, C, H, W]."""
        direction = self.direction * self.mask if self.masked else self.direction
        others = [axis for axis in range(4) if axis != self.output]
        norm = torch.rsqrt((direction * direction).sum(others, keepdim=True))
        kernel = torch.exp(self.log_scale).view([-1 if axis == self.output else 1 for axis in range(4)]) * norm
        kernel = kernel * direction
        if self.resize == "double":
            return functional.conv_transpose2d(x, kernel, self.bias, 2, 2, 1)
        if self.resize == "half":
            return functional.conv2d(x, kernel, self.bias, 2, 2)
        if self.masked:
            return functional.conv2d(functional.pad(x, (1, 1, 0, 1)), kernel, self.bias)
        return functional.conv2d(x, kernel, self.bias, 1, kernel.shape[2] // 2)


def log_normal(x, mu, log_sigma):
    """Returns the log-density of a normal distribution by component."""
    return -0.5 * (((x - mu) * torch.exp(-log_sigma)) ** 2 + LOG_2PI) - log_sigma


def log_likelihood(raw, x):
    """Returns the log-probability of the levels of an image's pixels."""
    mu, log_s = raw.chunk(2, dim=1)
    mu, log_s = mu + 0.5, torch.clamp(log_s - 2.0, -20.0, 20.0)
    inverse = torch.exp(-log_s)
    centred, half = (x - mu) * inverse, 0.5 * LEVEL * inverse
    first, last = x < LEVEL, x > 1 - LEVEL
    below = torch.where(last, 0.0, functional.logsigmoid(centred + half))
    above = torch.where(first, 0.0, functional.logsigmoid(half - centred))
    within = torch.where(first | last, 0.0, torch.log(-torch.expm1(-2 * half)))
    return (below + above + within).sum((1, 2, 3))


class Loss(nn.Module):
    """Negative ELBO of a batch with free bits, in nats per image."""

    def __init__(self):
        super().__init__()
        weights, resized = resnet.initial_weights(), {"stem": "half", "head": "double"}
        self.layers = nn.ModuleDict(
            {
                name: Convolution(*weights[name], resnet.mask(name, shape), resized.get(name))
                for name, shape in resnet.shapes().items()
            }
        )
        self.top = nn.Parameter(torch.full((resnet.WIDTH,), 0.1))

    def forward(self, raw):
        """Returns the loss of a batch of bytes, [B, C, H, W]."""
        x = (raw.float() + 0.5) / 256
        h, parts = self.layers["stem"](x - 0.5), []
        for block in range(BLOCKS):
            values = self.layers[f"up_in_{block}"](functional.elu(h))
            part = values.split(TOP_UP if block == BLOCKS - 1 else UP, 1)
            parts.append(part[:3])
            if block < BLOCKS - 1:
                h = h + RESIDUAL * self.layers[f"up_out_{block}"](functional.elu(part[3]))
        h, penalty = self.top.view(1, -1, 1, 1).expand(1, -1, SIDE // 2, SIDE // 2), 0.0
        h = h.contiguous(memory_format=torch.channels_last)
        for block in reversed(range(BLOCKS)):
            h, kl = self.down(block, h, *parts[block])
            penalty = penalty + torch.clamp(kl, min=resnet.FREE_BITS).sum()
        return penalty - log_likelihood(self.layers["head"](functional.elu(h)), x).mean()

    def down(self, block, h, up_mu, up_log_sigma, up_context):
        """Returns the top-down path below a block, and the block's KL divergence by channel."""
        values = self.layers[f"down_in_{block}"](functional.elu(h))
        prior_mu, prior_log_sigma, mu, log_sigma, context, features = values.split(DOWN, 1)
        mu, log_sigma = mu + up_mu, log_sigma + up_log_sigma
        eps = torch.randn_like(mu)
        z, log_det = self.flow(block, mu + torch.exp(log_sigma) * eps, context + up_context)
        log_q = -0.5 * (eps**2 + LOG_2PI) - log_sigma - log_det
        kl = (log_q - log_normal(z, prior_mu, prior_log_sigma)).sum((2, 3)).mean(0)
        both = torch.cat([z, features.expand(len(z), -1, -1, -1)], 1)
        return h + RESIDUAL * self.layers[f"down_out_{block}"](functional.elu(both)), kl

    def flow(self, block, z, context):
        """Returns the flow's z and the contributions to its log-determinant."""
        y = z
        for layer in range(resnet.LAYERS):
            y = self.layers[f"hidden_{block}_{layer}"](y)
            y = functional.elu(y if layer else y + context)
        m, s = (resnet.PARAMETER_SCALE * self.layers[f"flow_{block}"](y)).chunk(2, dim=1)
        return (z - m) * torch.exp(-s), -s


model = Loss()
compiled = torch.compile(model)
weights = list(model.parameters())
average = [torch.zeros_like(weight) for weight in weights]
betas = resnet.BETA_1, resnet.BETA_2
optimizer = torch.optim.Adamax(weights, resnet.RATE, betas, resnet.EPSILON, foreach=True)
tensor = torch.from_numpy(images.reshape(-1, SIDE, SIDE, resnet.COLORS)).permute(0, 3, 1, 2)


def take_pass():
    """Trains over all images, step by step."""
    loss = torch.zeros(())
    for start in range(0, len(tensor), batch):
        optimizer.zero_grad()
        loss = compiled(tensor[start : start + batch])
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1 - resnet.EMA_DECAY)
    return loss.item()


common.run(take_pass)
