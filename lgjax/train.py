"""Trains the prior on healthy scans.

    python -m lgjax.train --config=configs/vae.py:smoke --workdir=runs/mine

Writes config.json, checkpoints/, metrics.jsonl, TensorBoard scalars and sample reconstructions into the work
directory. Run again, it goes on from the last valid checkpoint, to the same end as without the interruption.
"""

import json
import math
import pathlib

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags
from tensorboardX import SummaryWriter
from tqdm import tqdm

from lgjax import checkpoints, experiment, figures, files, models, runtime, training
from lgjax.data import cohort
from lgjax.errors import LgjaxError
from lgjax.models import MODELS


class Diverged(LgjaxError):
    """The loss is not finite any more."""

    exit_code = 3


def train(config, workdir: pathlib.Path, mesh: jax.sharding.Mesh) -> None:
    """Trains to `config.train.steps`, resuming where the work directory left off."""
    experiment.record(config, workdir)
    folder = workdir / "checkpoints"
    state, start = checkpoints.restore_newest(folder, training.state_shapes(config)) or (None, 0)
    if state is None:
        state = training.initial_state(config)
    if start >= config.train.steps:
        print(f"{workdir} is trained already: {start} steps", flush=True)
        return
    prepared, _ = cohort.load(
        cohort.healthy(config.data, "train"), cohort.grid(config.data), config.data.workers, "preparing"
    )
    slices = cohort.pool(prepared)
    state = jax.device_put(state, runtime.replicated(mesh))
    data = jax.device_put((slices.y, slices.mask), runtime.replicated(mesh))
    step = make_step(config, mesh)
    log = Log(workdir, start)
    files.atomic_write(workdir / "training.json", json.dumps(trained_on(config, prepared), indent=2) + "\n")
    bar = tqdm(range(start, config.train.steps), "training", config.train.steps, initial=start, unit="step")
    pending = []
    for i in bar:
        indices = training.batch_indices(config.seed, i, config.train.batch_size, len(slices.y))
        state, terms = step(state, data, indices)
        pending.append(terms)
        last = i + 1 == config.train.steps
        if last or (i + 1) % config.train.log_every == 0 or (i + 1) % config.train.checkpoint_every == 0:
            check_finite(log.write(i + 1, pending), folder)
            bar.set_postfix_str(f"loss {log.loss:.1f}")
            pending = []
        if last or (i + 1) % config.train.checkpoint_every == 0:
            final = jax.device_get(state)
            check_finite({"a parameter": sum(float(np.abs(p).sum()) for p in jax.tree.leaves(final.variables))}, folder)
            checkpoints.save(folder, i + 1, final)
            sample(config, workdir, i + 1, state, slices)
    log.close()


def make_step(config, mesh: jax.sharding.Mesh):
    """The jitted training step (state, (y, mask), indices) -> (state, terms): batch split over the mesh."""
    pure = training.make_step(config)
    split = runtime.batch_sharding(mesh)

    def step(state, data, indices):
        x, mask = (jax.lax.with_sharding_constraint(part[indices], split) for part in data)
        return pure(state, x, mask)

    return jax.jit(step, donate_argnums=0)


class Log:
    """Loss terms of every step, in metrics.jsonl and as TensorBoard scalars."""

    def __init__(self, workdir: pathlib.Path, start: int):
        """Keeps what was logged up to step `start`; later lines belong to a part that is now trained again."""
        self.path = workdir / "metrics.jsonl"
        lines = []
        self.loss = math.nan
        if start and self.path.exists():
            entries = (json.loads(line) for line in self.path.read_text().splitlines() if line.endswith("}"))
            lines = [json.dumps(entry) for entry in entries if entry["step"] <= start]
        files.atomic_write(self.path, "".join(line + "\n" for line in lines))
        self.board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start)

    def write(self, step: int, terms: list[dict]) -> dict[str, float]:
        """Logs the mean of the steps since the last call and returns it."""
        values = jax.device_get(terms)
        means = {name: float(sum(v[name] for v in values) / len(values)) for name in values[0]}
        self.loss = means["loss"]
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step, **means}) + "\n")
        for name, value in means.items():
            self.board.add_scalar(name, value, step)
        return means

    def close(self) -> None:
        self.board.close()


def check_finite(terms: dict[str, float], folder: pathlib.Path) -> None:
    """Raises Diverged if a loss is NaN or infinite; the last checkpoint is the last good state."""
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    if bad:
        kept = checkpoints.steps(folder)
        raise Diverged(
            f"training diverged: {', '.join(bad)} is not finite. The last good state is step "
            f"{kept[0] if kept else 0}. Lower --config.train.learning_rate and run again."
        )


def trained_on(config, prepared: list[cohort.Prepared]) -> dict:
    """What stands beside every number: the training data in words and by hash."""
    n, slices = len(prepared), sum(len(p.slices.index) for p in prepared)
    source = "synthetic healthy brains (phantom)" if config.data.source.startswith("phantom") else config.data.source
    return {
        "TrainedOn": f"{n} healthy subjects, {slices} slices, {config.data.height}x{config.data.width}: {source}",
        "Subjects": [p.image.sha256 for p in prepared],
        "Versions": runtime.versions(),
    }


def sample(config, workdir: pathlib.Path, step: int, state: training.TrainState, slices) -> None:
    """Draws eight slices and what the model makes of them into samples/."""
    networks = MODELS[config.model.name].bind(config, models.freeze(state.variables))
    x = slices.y[np.linspace(0, len(slices.y) - 1, 10).astype(int)[1:-1]]
    rows = {"input": x}
    if networks.reconstruct:
        rows["reconstruction"] = jax.vmap(networks.reconstruct)(x)
    if networks.variance:
        rows["predicted sd"] = jax.vmap(networks.variance)(x) ** 0.5
    if networks.generate:
        z = jax.random.normal(jax.random.key(config.seed), (len(x), config.model.latent_size))
        rows["generated"] = jax.vmap(networks.generate)(z)
    picture = figures.samples_figure({name: np.asarray(row)[..., 0] for name, row in rows.items()})
    files.atomic_write(workdir / "samples" / f"{step:07d}.png", picture)


def main(_) -> None:
    """Runs the command line."""
    config = flags.FLAGS.config
    mesh = runtime.start()
    workdir = pathlib.Path(flags.FLAGS.workdir or experiment.default_workdir(config))
    train(config, workdir, mesh)
    print(f"trained: {workdir}. Next: python -m lgjax.calibrate --workdir={workdir}")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", "configs/vae.py", "Experiment: FILE[:variant].")
    flags.DEFINE_string("workdir", None, "Folder for everything that training writes; default: runs/<config name>.")
    runtime.run(main)
