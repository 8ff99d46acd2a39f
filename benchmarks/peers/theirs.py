"""The side of PyTorch: what compare.py asks of it, in a process of its own."""

import numpy as np
import restore
import side
import torch
import train
from model import Networks, to_numpy, to_torch


def set_products(precision: str) -> None:
    """Lets a GPU round what float32 convolutions and products take to TensorFloat-32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tensorfloat32"


class Side(side.Side):
    """PyTorch on one device."""

    def __init__(self, device: str, threads: int):
        """Takes cpu or gpu."""
        super().__init__()
        self.device = {"gpu": "cuda"}.get(device, device)
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True

    def versions(self) -> dict[str, str]:
        found = {"torch": torch.__version__}
        if self.device == "cuda":
            found |= {"cuda": torch.version.cuda, "torch device": torch.cuda.get_device_name()}
        return found

    def threads(self) -> dict[str, int]:
        return {"torch": torch.get_num_threads()}

    def tv_gradient(self, change) -> np.ndarray:
        """Gradient of the TV of changes, [N, H, W, 1]; turned images have it turned."""
        return to_numpy(restore.tv_gradient(to_torch(change, self.device)))

    def modes(self, method: str) -> list[str]:
        """The modes in which a method, or `vae_train`, can run."""
        if method == "vae_train":
            return list(train.MODES[self.device])
        # Freezing is for functions without gradients.
        return [m for m in restore.MODES[self.device] if not (method == "vae_elbo_tv" and m.endswith("frozen"))]

    @torch.no_grad()
    def outputs(self, config, frozen, x, z, mode: str) -> dict[str, np.ndarray]:
        """What the networks make of images x, [N, H, W, 1], and latents z."""
        set_products(config.restore.precision)
        layout = torch.channels_last if "channels_last" in mode else torch.contiguous_format
        networks = Networks(config, frozen).to(self.device).to(memory_format=layout)
        x, z = (to_torch(a, self.device, layout) for a in (x, z))
        mean, log_variance = networks.autoencoder.encode(x)
        sigma2 = networks.sigma2(x, config.model.variance_floor)
        decoded = networks.autoencoder.decode(z)
        found = {"mean": mean, "log_variance": log_variance, "decoder": decoded, "variance": sigma2}
        return {name: to_numpy(value) for name, value in found.items()}

    def restored(self, config, frozen, method: str, mode: str, slices) -> np.ndarray:
        """Slices restored by a method."""
        return self._restorer(config, frozen, method, mode, slices)()

    def trained(self, config, variables, mode: str, x, mask, steps: int) -> list[dict[str, float]]:
        """The terms of the loss at each of the first steps."""
        training = self._training(config, variables, mode, x, mask)
        return [{name: float(value) for name, value in training.step().items()} for _ in range(steps)]

    def _training_run(self, config, variables, mode: str, slices):
        training = self._training(config, variables, mode, *slices[:2])

        def run():
            for _ in range(config.restore.iterations):
                terms = training.step()
            float(terms["kl"])  # waits for it

        return run

    def clear(self) -> None:
        """Forgets what was prepared, and what was compiled for it."""
        super().clear()
        torch._dynamo.reset()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _training(self, config, variables, mode: str, x, mask) -> train.Training:
        set_products(config.train.precision)
        return train.Training(config, variables, train.MODES[self.device][mode], self.device, x, mask)

    def _restorer(self, config, frozen, method, mode, slices):
        set_products(config.restore.precision)
        restoration = restore.Restoration(method, config, frozen, restore.MODES[self.device][mode], self.device)
        return lambda: restoration(*slices)
