"""The side of lgjax: what compare.py asks of it, in a process of its own."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import side

from benchmarks import gpu_machine
from lgjax import models
from lgjax.methods import names as methods
from lgjax.methods import runner as runners
from lgjax.models import vae, variance
from lgjax.preparation.slices import Slices
from lgjax.restoration import data_terms
from lgjax.runtime import devices
from lgjax.training import feeding, settings
from lgjax.training import step as training


def random_variables(config, seed: int) -> dict:
    """{"params", "batch_stats"} of untrained networks, NumPy, in which normalisation is far from the identity."""
    shapes = jax.eval_shape(models.from_config(config, config.train.precision).init, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    ranges = {"scale": (0.5, 1.5), "bias": (-0.3, 0.3), "mean": (-0.5, 0.5), "var": (0.3, 2.0)}
    ranges |= {"low": (-30, -20), "high": (20, 30)}  # of log variances, which are what the networks say

    def draw(path, leaf):
        if path[-1].key == "kernel":
            values = rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            values = rng.uniform(*ranges[path[-1].key], leaf.shape)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


class Side(side.Side):
    """lgjax on one device or on all, as `runtime.start` finds them."""

    def __init__(self, device: str, threads: int):
        """Takes cpu or gpu; threads are limited by compare.py, before this process starts."""
        super().__init__()
        self.mesh = devices.start(device)

    def modes(self, method: str) -> list[str]:
        """The modes in which a method, or `vae_train`, can run; `lgjax` is what everybody gets."""
        on_gpu = self.mesh.devices.flat[0].platform == "gpu"
        return ["lgjax", "lgjax_graph"] if on_gpu and method != "vae_train" else ["lgjax"]

    def versions(self) -> dict[str, str]:
        return devices.versions()

    def machine(self) -> dict[str, str]:
        """The device, its driver, versions and the code of this project."""
        return gpu_machine.machine(self.mesh)

    def variables(self, config) -> dict:
        """Random variables, {"params", "batch_stats"}, and frozen parameters, {"frozen"}."""
        found = random_variables(config, config.seed)
        return found | {"frozen": jax.device_get(models.freeze(found))}

    def threads(self) -> dict[str, int]:
        """Of XLA's pool, as the system sees them; none on a GPU."""
        names = [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
        return {"lgjax": sum("Eigen" in name for name in names)}

    def tv_gradient(self, change) -> np.ndarray:
        """Gradient of the TV of changes, [N, H, W, 1]."""
        gradient = jax.grad(data_terms.tv)
        return jax.device_get(jax.vmap(gradient)(change, np.zeros_like(change)))

    @jax.default_matmul_precision("highest")
    def outputs(self, config, frozen, x, z) -> dict[str, np.ndarray]:
        """What the networks make of images x, [N, H, W, 1], and latents z."""
        model = config.model
        network, weights = (
            vae.VAE(tuple(model.channels), model.latent_channels, normalise=False),
            {"params": frozen["autoencoder"]},
        )
        mean, log_variance = network.apply(weights, x, method="encode")
        variances = variance.Settings(tuple(model.variance_channels), model.variance_target, model.variance_floor)
        decoded = network.apply(weights, z, method="decode")
        sigma2 = variance.predict(variances, frozen["variance"], x)
        found = {"mean": mean, "log_variance": log_variance, "decoder": decoded, "variance": sigma2}
        return jax.device_get(found)

    def restored(self, config, frozen, method: str, slices) -> np.ndarray:
        """Slices restored by a method."""
        return self._restorer(config, frozen, method, "lgjax", slices)()

    def trained(self, config, variables, x, mask, steps: int) -> list[dict[str, float]]:
        """The terms of the loss at each of the first steps."""
        step, batch = self._training(config, variables, x, mask), []
        for _ in range(steps):
            batch.append({name: float(value) for name, value in step().items()})
        return batch

    def _training_run(self, config, variables, mode: str, slices):
        steps = config.restore.iterations
        together = math.gcd(steps, feeding.per_dispatch(settings.from_config(config), self.mesh))
        take = self._training(config, variables, *slices[:2], together)

        def run():
            for _ in range(steps // together):
                terms = take()
            jax.block_until_ready(terms)

        return run

    def _restorer(self, config, frozen, method, mode, slices):
        settings, model = runners.from_config(config), models.from_config(config, config.restore.precision)
        if mode == "lgjax_graph":
            settings = settings._replace(cuda_graphs=True, traced=False)
        runner = runners.Runner(methods.parse(method), settings, model, frozen, self.mesh)
        y, mask, strength = slices
        batch = Slices(y, mask, np.arange(len(y), dtype=np.int32))
        return lambda: np.concatenate([x for x, _ in runner(batch, strength)])

    def _training(self, config, variables, x, mask, together: int = 1):
        """Makes what takes some training steps, as the product does: several in one dispatch, or a single one."""
        model, values = models.from_config(config, config.train.precision), settings.from_config(config)
        params = variables["params"]
        optimizer = training.optimizer(values).init(params)
        found = {name: variables[name] for name in ("params", "batch_stats")}
        state = devices.replicate(training.TrainState(jnp.zeros((), jnp.int32), found, optimizer), self.mesh)
        if together > 1:
            program = feeding.make_steps(model, values, self.mesh)
            given = devices.replicate((x, mask), self.mesh), np.tile(np.arange(len(x)), (together, 1))
        else:
            program = feeding.make_step(model, values, self.mesh)
            given = jax.device_put((x, mask), devices.batch_sharding(self.mesh))

        def take():
            nonlocal state
            state, terms = program(state, *given)
            return terms

        return take
