"""The VAE and the variance network of configs/vae.py in PyTorch, with lgjax's weights.

Everything here is turned by 180 degrees: images, latents and kernels. XLA pads a strided convolution after the image,
PyTorch on both sides; on the turned image PyTorch's own padding gives XLA's result without a copy of the image.
"""

import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

MOMENTUM = 0.05  # of running statistics: how much a training step moves them
WIDTH = 0.5  # nats that a bound log variance goes beyond its range at most


def activation(x: torch.Tensor) -> torch.Tensor:
    """LeakyReLU of the hidden layers."""
    return F.leaky_relu(x, 0.2)


def upsample(x: torch.Tensor) -> torch.Tensor:
    """Nearest neighbours: [N, C, H, W] -> [N, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Range(nn.Module):
    """Log variances: in training as they are, while their range is learnt; afterwards bound to it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, log_variance, ends=None):
        """Takes the function that finds both ends of a batch's range, by default `extremes`."""
        if self.training:
            with torch.no_grad():
                for kept, end in zip((self.low, self.high), (ends or extremes)(log_variance), strict=True):
                    kept.lerp_(end, MOMENTUM)
            return log_variance
        inside = log_variance.clamp(self.low, self.high)
        return inside + WIDTH * torch.tanh((log_variance - inside) / WIDTH)


def extremes(log_variance):
    """The smallest and the largest log variance of a slice, means over slices."""
    return log_variance.amin((1, 2, 3)).mean(), log_variance.amax((1, 2, 3)).mean()


def up_to_the_mean(log_variance, mask):
    """The smallest log variance of a slice in its mask, mean over slices, and the log of the mean variance there."""
    outside = mask <= 0
    low = log_variance.masked_fill(outside, torch.inf).amin((1, 2, 3)).mean()
    total = log_variance.masked_fill(outside, -torch.inf).flatten().logsumexp(0)
    return low, total - torch.log((~outside).sum())


def convolution(inputs: int, features: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size of the image, divided by the stride."""
    return nn.Conv2d(inputs, features, size, stride, padding=size // 2)


class NormalisedConv(nn.Module):
    """Convolution, then batch normalisation unless folded away."""

    def __init__(self, inputs: int, features: int, normalise: bool, size: int = 3, stride: int = 1):
        super().__init__()
        self.conv = convolution(inputs, features, size, stride)
        self.norm = nn.Identity()
        if normalise:
            self.norm = nn.BatchNorm2d(features, eps=1e-5, momentum=MOMENTUM)

    def forward(self, x):
        return self.norm(self.conv(x))


class Down(nn.Module):
    """Residual block that halves the image."""

    def __init__(self, inputs: int, features: int, normalise: bool):
        super().__init__()
        self.first = NormalisedConv(inputs, features, normalise, stride=2)
        self.second = NormalisedConv(features, features, normalise)
        self.skip = NormalisedConv(inputs, features, normalise, size=1)

    def forward(self, x):
        y = self.second(activation(self.first(x)))
        return activation(y + self.skip(x[:, :, 1::2, 1::2]))  # turned: XLA takes the even pixels


class Up(nn.Module):
    """Residual block that doubles the image."""

    def __init__(self, inputs: int, features: int, normalise: bool):
        super().__init__()
        self.first = NormalisedConv(inputs, features, normalise)
        self.second = NormalisedConv(features, features, normalise)
        self.skip = NormalisedConv(inputs, features, normalise, size=1)

    def forward(self, x):
        y = self.second(activation(self.first(upsample(x))))
        return activation(y + upsample(self.skip(x)))


class VAE(nn.Module):
    """Encoder and decoder; images are [N, 1, H, W], latents [N, latent_channels, H / 2^B, W / 2^B]."""

    def __init__(self, channels: tuple[int, ...], latent_channels: int, normalise: bool):
        super().__init__()
        last = channels[-1]
        downwards = zip((channels[0], *channels), channels, strict=False)
        upwards = zip((last, *channels[::-1]), channels[::-1], strict=False)
        self.first = NormalisedConv(1, channels[0], normalise)
        self.down = nn.Sequential(*(Down(before, after, normalise) for before, after in downwards))
        self.mean_head = convolution(last, latent_channels)
        self.log_variance_head = convolution(last, latent_channels)
        self.log_variance_range = Range()
        self.from_latent = NormalisedConv(latent_channels, last, normalise)
        self.up = nn.Sequential(*(Up(before, after, normalise) for before, after in upwards))
        self.last = convolution(channels[0], 1)

    def encode(self, x):
        """Mean and log variance of Q(z|X), float32."""
        x = self.down(activation(self.first(x.to(self.last.weight.dtype))))
        return self.mean_head(x).float(), self.log_variance_range(self.log_variance_head(x).float())

    def decode(self, z):
        """g(z), float32."""
        return self.last(self.up(activation(self.from_latent(z.to(self.last.weight.dtype))))).float()


class VarianceNet(nn.Sequential):
    """Convolutions at full resolution; the last gives the log variance, [N, 1, H, W], float32."""

    def __init__(self, channels: tuple[int, ...]):
        super().__init__(*(convolution(a, b) for a, b in zip((1, *channels), (*channels, 1), strict=True)))
        self.add_module("range", Range())

    def forward(self, x, mask=None):
        """Takes images, and, to learn the range, their masks."""
        *hidden, last, bound = self
        x = x.to(last.weight.dtype)
        for conv in hidden:
            x = activation(conv(x))
        return bound(last(x).float(), lambda log_variance: up_to_the_mean(log_variance, mask))


class Networks(nn.Module):
    """Both networks of an experiment."""

    def __init__(self, config, weights: dict, statistics: dict | None = None):
        """Takes lgjax's weights: frozen ones, or, to train them on, those with the statistics of their normalisation.

        Args:
          config: of the experiment.
          weights: {"autoencoder", "variance"}, nested dicts of arrays as Flax names them.
          statistics: likewise; None: the normalisation is folded into the weights.
        """
        super().__init__()
        settings = config.model
        normalise = statistics is not None
        self.autoencoder = VAE(tuple(settings.channels), settings.latent_channels, normalise)
        self.variance = VarianceNet(tuple(settings.variance_channels))
        self.load_state_dict(dict(_flatten(weights)) | dict(_flatten(statistics or {})))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.num_batches_tracked = None  # nobody reads it
        self.train(normalise).requires_grad_(normalise)

    def sigma2(self, x, floor: float, mask=None):
        """Variance of the prior at images x; masks where its range is learnt."""
        return torch.exp(self.variance(x, mask)) + floor

    def round(self) -> "Networks":
        """Makes the convolutions' weights, and so all between the layers, bfloat16, in place."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(torch.bfloat16)
        return self


NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
NAMES |= {name: name for name in ("bias", "low", "high")}


def _flatten(tree: dict, path: str = ""):
    """Yields PyTorch's name and tensor for every array of a Flax tree."""
    for name, child in tree.items():
        if isinstance(child, dict):
            yield from _flatten(child, path + re.sub(r"Conv_(\d+)", r"\1", re.sub(r"(down|up)_", r"\1.", name)) + ".")
        else:
            turned = np.flip(child, (0, 1)).transpose(3, 2, 0, 1) if name == "kernel" else child
            yield path + NAMES[name], torch.from_numpy(np.array(turned, order="C"))


def to_torch(images: np.ndarray, device: str = "cpu", layout=torch.contiguous_format) -> torch.Tensor:
    """Images [N, H, W, C] as a turned tensor [N, C, H, W] on a device."""
    tensor = torch.from_numpy(np.ascontiguousarray(np.flip(images, (1, 2)))).permute(0, 3, 1, 2)
    return tensor.to(device).contiguous(memory_format=layout)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The way back."""
    return np.flip(tensor.detach().cpu().permute(0, 2, 3, 1).numpy(), (1, 2))
