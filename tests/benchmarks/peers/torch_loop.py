"""PyTorch: a model compiled by torch.compile, and fused Adam."""

import common
import numpy as np
import torch
from common import BETA_1, BETA_2, EPSILON, GATE_BIAS, HIDDEN, LATENTS, LOG_2PI, PIXELS, RATE, batch, images
from torch import nn
from torch.nn import functional

rng = np.random.default_rng(0)


def dense(inputs, outputs):
    """Returns a linear layer with a Glorot kernel and a bias of 0."""
    layer = nn.Linear(inputs, outputs)
    layer.weight.data.copy_(torch.from_numpy(common.glorot(rng, inputs, outputs).T))
    nn.init.zeros_(layer.bias)
    return layer


class Step(nn.Module):
    """One step of the flow."""

    def __init__(self):
        super().__init__()
        self.into, self.context, self.out = dense(LATENTS, HIDDEN), dense(LATENTS, HIDDEN), dense(HIDDEN, 2 * LATENTS)
        for name, mask in zip(("mask_in", "mask_out"), common.masks(), strict=True):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(mask.T)))

    def forward(self, z, context):
        """Returns the next z, and the step's contribution to log q."""
        units = functional.linear(z, self.into.weight * self.mask_in, self.into.bias) + self.context(context)
        out = functional.linear(torch.tanh(units), self.out.weight * self.mask_out, self.out.bias)
        m, s = out.chunk(2, dim=-1)
        gate = torch.sigmoid(s + GATE_BIAS)
        return (gate * z + (1 - gate) * m).flip(-1), -functional.logsigmoid(s + GATE_BIAS).sum(-1)


class NegativeElbo(nn.Module):
    """Loss of a batch, in nats per image."""

    def __init__(self):
        super().__init__()
        self.encoder, self.parameters_of_q = dense(PIXELS, HIDDEN), dense(HIDDEN, 3 * LATENTS)
        self.flow = nn.ModuleList(Step() for _ in range(common.STEPS))
        self.decoder, self.pixels = dense(LATENTS, HIDDEN), dense(HIDDEN, PIXELS)

    def forward(self, raw):
        """Returns the loss of a batch of bytes."""
        x = raw.float() / 255
        mu, log_sigma, context = self.parameters_of_q(torch.tanh(self.encoder(x))).chunk(3, dim=-1)
        eps = torch.randn_like(mu)
        z = mu + torch.exp(log_sigma) * eps
        log_q = (-0.5 * (eps**2 + LOG_2PI) - log_sigma).sum(-1)
        for step in self.flow:
            z, added = step(z, context)
            log_q = log_q + added
        logits = self.pixels(torch.tanh(self.decoder(z)))
        log_px = -functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        log_pz = (-0.5 * (z**2 + LOG_2PI)).sum(-1)
        return (log_q - log_pz - log_px).mean()


model = NegativeElbo()
compiled = torch.compile(model)
optimizer = torch.optim.Adam(model.parameters(), RATE, (BETA_1, BETA_2), EPSILON, fused=True)
tensor = torch.from_numpy(images)


def take_pass():
    """Trains over all images, step by step."""
    loss = torch.zeros(())
    for start in range(0, len(images), batch):
        optimizer.zero_grad()
        loss = compiled(tensor[start : start + batch])
        loss.backward()
        optimizer.step()
    return loss.item()


common.run(take_pass)
