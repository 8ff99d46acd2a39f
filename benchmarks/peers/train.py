"""Training in PyTorch: the loss of lgjax.models.vae, with Adam."""

import torch
from model import Networks, to_torch
from restore import PLAIN, REDUCED, Mode

EAGER = {"eager": Mode(), "eager_channels_last": Mode(True)}
COMPILED = {"compile_channels_last": Mode(True, PLAIN), "reduce_overhead_channels_last": Mode(True, REDUCED)}
MODES = {"cpu": EAGER, "cuda": EAGER | COMPILED}


class Training:
    """The training steps of both networks on one batch that lies on the device."""

    def __init__(self, config, variables: dict, mode: Mode, device: str, x, mask):
        """Takes lgjax's variables, and slices and masks, [N, H, W, 1], NumPy.

        PyTorch's running variances are those of n - 1, lgjax's those of n pixels; the loss does not see them. With
        bfloat16, PyTorch's autocast chooses what is rounded.
        """
        self.config, self.device = config, device
        layout = torch.channels_last if mode.channels_last else torch.contiguous_format
        self.networks = Networks(config, variables["params"], variables["batch_stats"])
        self.networks.to(device).to(memory_format=layout)
        self.x, self.mask = (to_torch(a, device, layout) for a in (x, mask))
        settings = config.train
        betas = (settings.momentum, 0.999)
        self.optimizer = torch.optim.Adam(self.networks.parameters(), settings.learning_rate, betas, fused=True)
        self.loss = self._loss
        if mode.compiler is not None:
            self.loss = torch.compile(self._loss, dynamic=False, **mode.compiler)

    def _loss(self, x, mask) -> dict[str, torch.Tensor]:
        """The terms of the loss of images x."""
        networks, model = self.networks, self.config.model
        mean, log_variance = networks.autoencoder.encode(x)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        reconstruction = networks.autoencoder.decode(z)
        error = model.reconstruction_weight * ((x - reconstruction) ** 2).sum((1, 2, 3)).mean()
        kl = 0.5 * (mean**2 + torch.exp(log_variance) - 1.0 - log_variance).sum((1, 2, 3)).mean()
        sigma2 = networks.sigma2(x, model.variance_floor, mask)
        likelihood = 0.5 * (torch.log(sigma2) + (x - reconstruction.detach()) ** 2 / sigma2)
        spread = (likelihood * mask).sum() / mask.sum().clamp(min=1.0)
        return {"reconstruction": error, "kl": kl, "variance": spread}

    def step(self) -> dict[str, torch.Tensor]:
        """One step; the terms of the loss before it, on the device."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.config.train.precision == "bfloat16"):
            terms = self.loss(self.x, self.mask)
        sum(terms.values()).backward()
        self.optimizer.step()
        return {name: value.detach() for name, value in terms.items()}
