"""Training in PyTorch: the loss of lgjax.models.vae, with Adam."""

import torch
from model import Networks, to_torch

MODES = {"eager": torch.contiguous_format, "eager_channels_last": torch.channels_last}


class Training:
    """The training steps of both networks on one batch that lies on the device."""

    def __init__(self, config, variables: dict, layout, device: str, x, mask):
        """Takes lgjax's variables, and slices and masks, [N, H, W, 1], NumPy.

        PyTorch's running variances are those of n - 1, lgjax's those of n pixels; the loss does not see them.
        """
        self.config = config
        self.networks = Networks(config, variables["params"], variables["batch_stats"])
        self.networks.to(device).to(memory_format=layout)
        self.x, self.mask = (to_torch(a, device, layout) for a in (x, mask))
        settings = config.train
        betas = (settings.momentum, 0.999)
        self.optimizer = torch.optim.Adam(self.networks.parameters(), settings.learning_rate, betas, fused=True)

    def step(self) -> dict[str, torch.Tensor]:
        """One step; the terms of the loss before it, on the device."""
        networks, model, x = self.networks, self.config.model, self.x
        mean, log_variance = networks.autoencoder.encode(x)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        reconstruction = networks.autoencoder.decode(z)
        error = model.reconstruction_weight * ((x - reconstruction) ** 2).sum((1, 2, 3)).mean()
        kl = 0.5 * (mean**2 + torch.exp(log_variance) - 1.0 - log_variance).sum((1, 2, 3)).mean()
        sigma2 = networks.sigma2(x, model.variance_floor, self.mask)
        likelihood = 0.5 * (torch.log(sigma2) + (x - reconstruction.detach()) ** 2 / sigma2)
        spread = (likelihood * self.mask).sum() / self.mask.sum().clamp(min=1.0)
        self.optimizer.zero_grad()
        (error + kl + spread).backward()
        self.optimizer.step()
        return {"reconstruction": error.detach(), "kl": kl.detach(), "variance": spread.detach()}
