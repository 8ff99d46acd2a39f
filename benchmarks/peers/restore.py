"""Restoration in PyTorch: the mathematics of lgjax.restoration.loop and lgjax.restoration.priors, for batches."""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from model import Networks, to_numpy, to_torch

B1, B2, EPSILON = 0.9, 0.999, 1e-8  # of Adam


class Mode(NamedTuple):
    """How PyTorch runs the iterations."""

    channels_last: bool = False
    compiler: dict | None = None  # arguments of torch.compile; None: eager
    graph: bool = False  # one iteration is captured in a CUDA graph, and replayed
    cloned: bool = False  # what an iteration returns is copied: the next one would overwrite it


PLAIN, TUNED, FROZEN = {}, {"mode": "max-autotune-no-cudagraphs"}, {"options": {"freezing": True}}
REDUCED = {"mode": "reduce-overhead"}  # PyTorch's own CUDA graphs
MODES = {
    "cpu": {
        "eager": Mode(),
        "eager_channels_last": Mode(True),
        "compile": Mode(False, PLAIN),
        "compile_channels_last": Mode(True, PLAIN),
        "compile_channels_last_frozen": Mode(True, FROZEN),
    },
    # Graphs are captured here too: those of mode="reduce-overhead" copy the state in and out.
    "cuda": {
        "eager": Mode(),
        "eager_channels_last": Mode(True),
        "eager_channels_last_graph": Mode(True, None, True),
        "compile_channels_last": Mode(True, PLAIN),
        "reduce_overhead_channels_last": Mode(True, REDUCED, cloned=True),
        "compile_graph": Mode(False, PLAIN, True),
        "compile_channels_last_graph": Mode(True, PLAIN, True),
        "max_autotune_channels_last_graph": Mode(True, TUNED, True),
    },
}


def tv_gradient(change: torch.Tensor) -> torch.Tensor:
    """Gradient of the anisotropic total variation of `change`, [N, 1, H, W], with sign(0) = 0."""
    rows, columns = torch.diff(change, dim=2).sign(), torch.diff(change, dim=3).sign()
    down = F.pad(rows, (0, 0, 1, 0)) - F.pad(rows, (0, 0, 0, 1))
    return down + F.pad(columns, (1, 0, 0, 0)) - F.pad(columns, (0, 1, 0, 0))


def samples(networks: Networks, x, noise):
    """Decoder samples [L, N, 1, H, W] at images x from noise [L, N, ...] of the latents' shape."""
    mean, log_variance = networks.autoencoder.encode(x)
    z = mean + torch.exp(0.5 * log_variance) * noise
    return networks.autoencoder.decode(z.flatten(0, 1)).unflatten(0, noise.shape[:2])


def lg_neural(networks: Networks, config, x, noise):
    """Local Gaussian, its variance from the variance network."""
    mu = samples(networks, x, noise).mean(0)
    return (mu - x) / networks.sigma2(x, config.model.variance_floor)


def lg_est(networks: Networks, config, x, noise):
    """Local Gaussian, its variance from the samples."""
    variance, mu = torch.var_mean(samples(networks, x, noise), 0)
    return (mu - x) / (variance + config.model.variance_floor)


def elbo(networks: Networks, config, x, noise):
    """Gradient of the evidence lower bound."""

    def bound(x):
        mean, log_variance = networks.autoencoder.encode(x)
        reconstruction = networks.autoencoder.decode(mean + torch.exp(0.5 * log_variance) * noise[0])
        kl = 0.5 * (mean**2 + torch.exp(log_variance) - 1.0 - log_variance).sum()
        return -config.model.reconstruction_weight * ((x - reconstruction) ** 2).sum() - kl

    return torch.func.grad(bound)(x)


PRIORS = {"vae_lg_neural_tv": lg_neural, "vae_lg_est_tv": lg_est, "vae_elbo_tv": elbo}


class Restoration:
    """The restoration of batches by one method in one mode."""

    def __init__(self, method: str, config, weights: dict, mode: Mode, device: str):
        """Takes frozen weights; nothing is compiled before the first call.

        With bfloat16, all between the networks' layers is bfloat16, which is more than lgjax rounds and as fast as
        PyTorch can; images, noise, TV and Adam are float32.
        """
        self.config, self.device, self.graph, self.cloned = config, device, mode.graph, mode.cloned
        self.layout = torch.channels_last if mode.channels_last else torch.contiguous_format
        self.networks = Networks(config, weights).to(device).to(memory_format=self.layout)
        if config.restore.precision == "bfloat16":
            self.networks.round()
        self.draws = {"vae_lg_est_tv": config.restore.samples_est, "vae_lg_neural_tv": config.restore.samples_neural}
        self.draws = self.draws.get(method, 1)
        self.prior = functools.partial(PRIORS[method], self.networks, config)
        self.step = self._step
        if mode.compiler is not None:
            self.step = torch.compile(self._step, fullgraph=True, dynamic=False, **mode.compiler)
        self.captured = None

    def _step(self, x, first, second, count, y, mask, strength):
        """One iteration: x, Adam's moments and its count, each as a new tensor."""
        blocks = 2 ** len(self.config.model.channels)
        size = (x.shape[2] // blocks, x.shape[3] // blocks)
        noise = torch.randn(self.draws, len(x), self.config.model.latent_channels, *size, device=x.device)
        ascent = (self.prior(x, noise) - strength * tv_gradient(x - y)) * mask
        count = count + 1
        first = B1 * first - (1 - B1) * ascent
        second = B2 * second + (1 - B2) * ascent**2
        root = torch.sqrt(second / (1 - B2**count)) + EPSILON
        return x - self.config.restore.learning_rate * first / (1 - B1**count) / root, first, second, count

    @torch.no_grad()
    def __call__(self, y, mask, strength):
        """Restored slices [N, H, W, 1] from slices and masks of that shape and lambdas, [N]: all NumPy."""
        y, mask = (to_torch(a, self.device, self.layout) for a in (y, mask))
        strength = torch.from_numpy(strength).to(self.device)[:, None, None, None]
        state = [y.clone(), torch.zeros_like(y), torch.zeros_like(y), torch.zeros((), device=self.device)]
        if self.graph:
            return self._replay(state, (y, mask, strength))
        for _ in range(self.config.restore.iterations):
            state = self.step(*state, y, mask, strength)
            if self.cloned:
                state = [a.clone() for a in state]
        return to_numpy(state[0])

    def _replay(self, state, constants):
        """The iterations as replays of one captured iteration, which is captured at the first call."""
        if self.captured is None:
            self.captured = self._capture([a.clone() for a in state], [a.clone() for a in constants])
        graph, inputs = self.captured
        for kept, value in zip(inputs, (*state, *constants), strict=True):
            kept.copy_(value)
        for _ in range(self.config.restore.iterations):
            graph.replay()
        return to_numpy(inputs[0])

    def _capture(self, state, constants):
        """A graph that takes the state one iteration further in place, and the tensors that it reads."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # compiles, and lets cuDNN choose
                self.step(*state, *constants)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for kept, value in zip(state, self.step(*state, *constants), strict=True):
                kept.copy_(value)
        return graph, (*state, *constants)
