"""The ResNet VAE in NumPy and SciPy, written from the paper: the ELBO of images, given weights and noise, in float64.

Kernels are convolved tap by tap, stride 2 drops every second output, and transposed convolutions are scattered.
"""

import numpy as np
from scipy.special import expit
from scipy.stats import norm


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def convolution(x, kernel):
    """SAME convolution of odd kernels."""
    size = len(kernel)
    half = size // 2
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    y = 0
    for i in range(size):
        for j in range(size):
            y = y + padded[:, i : i + height, j : j + width] @ kernel[i, j]
    return y


def halving(x, kernel):
    """SAME convolution of stride 2 of even images: output i is centred between pixels 2 i and 2 i + 1, to the right."""
    size = len(kernel)
    before = (size - 2) // 2
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (before, size), (before, size), (0, 0)))
    y = 0
    for i in range(size):
        for j in range(size):
            y = y + padded[:, i : i + height : 2, j : j + width : 2] @ kernel[i, j]
    return y


def doubling(x, kernel):
    """Transposed convolution of stride 2: pixel i is spread over the pixels that `halving` reads for it."""
    size = len(kernel)
    before = (size - 2) // 2
    rows, height, width, _ = x.shape
    y = np.zeros((rows, 2 * height + 2 * size, 2 * width + 2 * size, kernel.shape[-1]))
    for i in range(size):
        for j in range(size):
            y[:, size + i - before :, size + j - before :][:, : 2 * height : 2, : 2 * width : 2] += x @ kernel[i, j]
    return y[:, size : size + 2 * height, size : size + 2 * width]


def masked(x, kernel, reverse):
    """Convolution of a 2x3 kernel that reads the row and the row below it, or in reverse the row above it."""
    whole = np.zeros((3, 3, *kernel.shape[2:]))
    whole[slice(0, 2) if reverse else slice(1, 3)] = kernel
    return convolution(x, whole)


def autoregressive_mask(inputs, outputs, parameters, strict, reverse):
    """Returns the mask of a 2x3 kernel, computed weight by weight."""
    channels = outputs // parameters
    groups = min(inputs, channels)
    mask = np.zeros((2, 3, inputs, outputs))
    for a in range(inputs):
        for part in range(parameters):
            for b in range(channels):
                one, other = (inputs - 1 - a, channels - 1 - b) if reverse else (a, b)
                of_input, of_output = one * groups // inputs, other * groups // channels
                for i in range(2):
                    for j in range(3):
                        down, right = (1 - i, 1 - j) if reverse else (i, j - 1)
                        same = down == 0 and right == 0
                        live = (
                            down == 1
                            or right == 1
                            or (same and (of_input < of_output if strict else of_input <= of_output))
                        )
                        mask[i, j, a, part * channels + b] = live
    return mask


class Reference:
    """The model with these weights by path, for an affine flow and log-scales by pixel."""

    def __init__(self, weights, levels, blocks, layers, residual_scale):
        self.weights = {path.split("/", 1)[1]: np.asarray(value, np.float64) for path, value in weights.items()}
        self.levels, self.blocks, self.layers, self.residual_scale = levels, blocks, layers, residual_scale

    def apply(self, name, function, x, mask=None):
        v = self.weights[f"{name}/direction"]
        if mask is not None:
            v = v * mask
        norms = np.sqrt((v**2).sum((0, 1, 2)))
        kernel = np.exp(self.weights[f"{name}/log_scale"]) * v / norms
        return function(x, kernel) + self.weights[f"{name}/bias"]

    def network(self, name, z, context, reverse):
        h = z
        for number in range(1, self.layers + 1):
            layer = f"{name}/hidden_{number}"
            shape = self.weights[f"{layer}/direction"].shape
            mask = autoregressive_mask(shape[2], shape[3], 1, strict=False, reverse=reverse)
            h = self.apply(layer, lambda x, kernel: masked(x, kernel, reverse), h, mask)
            h = elu(h + context if number == 1 else h)
        shape = self.weights[f"{name}/out/direction"].shape
        mask = autoregressive_mask(shape[2], shape[3], 2, strict=True, reverse=reverse)
        out = self.apply(f"{name}/out", lambda x, kernel: masked(x, kernel, reverse), h, mask)
        return np.split(0.1 * out, 2, axis=-1)

    def elbo(self, images, eps):
        """Returns log p(x|z), and log q - log p by layer and channel."""
        x = (images + 0.5) / 256
        h = self.apply("stem", halving, x - 0.5)
        ups, latent = {}, next(iter(eps.values())).shape[-1]
        names = [f"{level}_{block}" for level in range(1, self.levels + 1) for block in range(1, self.blocks + 1)]
        for name in names:
            halves = name.endswith("_1") and not name.startswith("1")
            out = self.apply(f"block_{name}/up_in", halving if halves else convolution, elu(h))
            width = h.shape[-1]
            ups[name] = out[..., :latent], out[..., latent : 2 * latent], out[..., 2 * latent : 2 * latent + width]
            if name != names[-1]:
                features = out[..., 2 * latent + width :]
                skip = h[:, ::2, ::2] if halves else h
                h = skip + self.residual_scale * self.apply(f"block_{name}/up_out", convolution, elu(features))
        side = [size // 2**self.levels for size in images.shape[1:3]]
        h, kl = np.broadcast_to(self.weights["top"], (len(images), *side, width)), {}
        for name in reversed(names):
            halves = name.endswith("_1") and not name.startswith("1")
            out = self.apply(f"block_{name}/down_in", convolution, elu(h))
            p_mu, p_s, r_mu, r_s = np.split(out[..., : 4 * latent], 4, axis=-1)
            context, features = np.split(out[..., 4 * latent :], 2, axis=-1)
            mu, log_sigma, up_context = ups[name]
            z = (mu + r_mu) + np.exp(log_sigma + r_s) * eps[f"z_{name}"]
            log_q = norm.logpdf(z, mu + r_mu, np.exp(log_sigma + r_s))
            step = 0
            while f"block_{name}/flow/step_{step}/out/bias" in self.weights:
                m, s = self.network(f"block_{name}/flow/step_{step}", z, context + up_context, reverse=bool(step % 2))
                z, log_q, step = (z - m) / np.exp(s), log_q + s, step + 1
            kl[f"z_{name}"] = (log_q - norm.logpdf(z, p_mu, np.exp(p_s))).sum((1, 2))
            update = self.apply(
                f"block_{name}/down_out", doubling if halves else convolution, elu(np.concatenate([z, features], -1))
            )
            h = (h.repeat(2, 1).repeat(2, 2) if halves else h) + self.residual_scale * update
        mu, log_s = np.split(self.apply("head", doubling, elu(h)), 2, axis=-1)
        mu, s = mu + 0.5, np.exp(log_s - 2)
        upper, lower = expit((x + 1 / 512 - mu) / s), expit((x - 1 / 512 - mu) / s)
        p = np.where(images == 255, 1, upper) - np.where(images == 0, 0, lower)
        return np.log(p).sum((1, 2, 3)), kl
