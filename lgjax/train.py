"""Trains the prior on healthy scans.

    python -m lgjax.train --config=configs/vae.py:smoke --workdir=runs/mine
    python -m lgjax.train --config=configs/vae.py --config.data.source=prepared/cohort     # from lgjax.preprocess

Writes config.json, preprocessing.json, checkpoints/, metrics.jsonl, TensorBoard scalars and sample reconstructions into
the work directory. Run again, it goes on from the last valid checkpoint, to the same end as without the interruption.
Ctrl-C and SIGTERM (exit codes 130 and 143) write a checkpoint after the step that is being taken.

On several hosts, start the same command on each; batches are split over all their devices, and the folders of --workdir
and --config.data.source are shared by the hosts, of which the first one writes:

    python -m lgjax.train ... --coordinator=ADDRESS_OF_HOST_0:1234 --hosts=2 --host=0    # and --host=1 on the other
    python -m lgjax.train ... --hosts=auto    # on TPU pods, and under SLURM with one task a GPU
"""

import contextlib
import json
import math
import pathlib

import jax
import numpy as np
from absl import flags
from tensorboardX import SummaryWriter
from tqdm import tqdm

from lgjax import models
from lgjax.cli import app
from lgjax.cli.configs import define_config
from lgjax.preparation import cohort, dataset, recipe
from lgjax.preparation.dataset import Index
from lgjax.preparation.recipe import Recipe
from lgjax.runtime import devices, files, hosts, signals
from lgjax.runtime.errors import InputError, LgjaxError, UsageError
from lgjax.scans import pictures
from lgjax.training import feeding, settings
from lgjax.training.step import TrainState, initial_state, state_shapes
from lgjax.workdir import checkpoints, experiment


class Diverged(LgjaxError):
    """The loss is not finite any more."""

    exit_code = 3


def train(config, workdir: pathlib.Path, mesh: jax.sharding.Mesh) -> None:
    """Trains to `config.train.steps`, resuming where the work directory left off.

    Of several hosts, each calls this; the first one writes.

    Raises:
      UsageError: the work directory, the source and the config do not belong together, or hosts differ in them.
      Diverged: the loss is not finite any more.
    """
    prepared, index = check(config, workdir)
    model, values = models.from_config(config, config.train.precision), settings.from_config(config)
    shapes = state_shapes(model, values)
    state, start = checkpoints.restore_newest(workdir / "checkpoints", shapes) or (None, 0)
    if start >= config.train.steps:
        record(config, workdir, prepared)
        print(f"{workdir} is trained already: {start} steps", flush=True)
        return
    source, subjects = feeding.find_slices(experiment.source(config), prepared, index, config.data.workers)
    about = trained_on(config, prepared, subjects, len(source))
    if start:
        check_subjects(workdir, subjects)
    check_hosts(config, workdir, start, about)
    record(config, workdir, prepared, about)
    if state is None:
        state = initial_state(model, values)
    run(config, workdir, mesh, source, devices.replicate(state, mesh), start)


def run(config, workdir: pathlib.Path, mesh, source: feeding.Source, state: TrainState, start: int) -> None:
    """Takes the steps that are left, from `start`; logs, and keeps checkpoints."""
    examples = source.read(np.linspace(0, len(source) - 1, 10).astype(int)[1:-1])[0]
    model, values = models.from_config(config, config.train.precision), settings.from_config(config)
    log, pending, done, stop = Log(workdir, start), [], start, feeding.next_stop(values, start)
    bar = tqdm(None, "training", values.steps, initial=start, unit="step")
    stream = feeding.steps(model, values, source, mesh, start)
    with signals.uninterrupted() as asked, bar, contextlib.closing(log), contextlib.closing(stream):
        for taken, program, arguments in stream:
            state, terms = program(state, *arguments)
            pending.append(terms)
            done += taken
            bar.update(taken)
            if done == stop:
                check_finite(log.write(done, pending), workdir)
                bar.set_postfix_str(f"loss {log.loss:.1f}")
                pending, stop = [], feeding.next_stop(values, done)
                if done == values.steps or done % values.checkpoint_every == 0:
                    keep(config, workdir, done, jax.device_get(state), examples)
            if asked():
                # Several hosts would wait for each other, and each hears of a signal by itself.
                if jax.process_count() == 1 and done not in checkpoints.steps(workdir / "checkpoints"):
                    keep(config, workdir, done, jax.device_get(state), examples)
                break


def check(config, workdir: pathlib.Path) -> tuple[Recipe, Index | None]:
    """Checks that work directory, source and config belong together; writes nothing.

    Returns:
      How the slices are prepared, and the index of the prepared data set if the source is one.

    Raises:
      UsageError: they do not.
    """
    experiment.check_workdir(config, workdir)
    prepared, index, folder = recipe.bare(experiment.grid(config)), None, config.data.source
    if dataset.is_prepared(folder):
        grid = prepared.grid
        index = dataset.read_index(folder)
        prepared = index.recipe
        if prepared.grid != grid:
            values = " ".join(f"--config.data.{name}={value}" for name, value in prepared.grid._asdict().items())
            raise UsageError(f"{folder} was prepared for slices of another size. Give {values}, or prepare it again.")
    path = workdir / dataset.RECIPE
    if path.exists() and recipe.read(path).digest != prepared.digest:
        raise UsageError(
            f"{workdir} was trained on scans prepared in another way: {path} is not the recipe of {folder} any more. "
            "Use another --workdir, or prepare the scans as before."
        )
    return prepared, index


def check_subjects(workdir: pathlib.Path, subjects: list[str]) -> None:
    """Raises UsageError where a training that goes on would see other subjects than before, or in another order.

    Args:
      workdir: that holds a checkpoint.
      subjects: SHA-256 of the raw scans that the source has now.
    """
    path = workdir / "training.json"
    try:
        before = json.loads(path.read_text())["Subjects"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(path, f"cannot be read ({error})", "Restore it from a backup, or train again") from error
    if before != subjects:
        gone, new = len(set(before) - set(subjects)), len(set(subjects) - set(before))
        change = f"{gone} are gone, {new} are new" if gone or new else "their order has changed"
        raise UsageError(
            f"{workdir} was trained on other subjects than the source has now: of {len(before)}, {change}. "
            "Use another --workdir, or the subjects of before."
        )


def check_hosts(config, workdir: pathlib.Path, start: int, about: dict) -> None:
    """Raises UsageError where hosts would not train the same; each waits here for the others."""
    checkpoint = checkpoints.weights_digest(workdir / "checkpoints", start) if start else files.digest(None)
    subjects = files.digest([about["Subjects"], about["TrainedOn"], about["RecipeSHA256"]])
    found = {"config": files.digest(experiment.as_json(config)), "data": subjects, "checkpoint": checkpoint}
    if names := hosts.differing(found):
        raise UsageError(
            f"the hosts differ in their {' and '.join(names)}. Start all of them with the same command; the folders "
            "of --workdir and --config.data.source must be shared by them."
        )


def record(config, workdir: pathlib.Path, prepared: Recipe, about: dict | None = None) -> None:
    """Writes config.json, preprocessing.json and, given what the weights are trained on, training.json."""
    if hosts.is_first_host():
        experiment.record(config, workdir)
        recipe.write(workdir / dataset.RECIPE, prepared)
        if about:
            files.atomic_write(workdir / "training.json", json.dumps(about, indent=2) + "\n")


def keep(config, workdir: pathlib.Path, step: int, state: TrainState, examples: np.ndarray) -> None:
    """Writes a checkpoint and the pictures of it; raises Diverged if a parameter is not finite.

    The other hosts wait here for the first one to have written them.
    """
    total = sum(float(np.abs(p).sum()) for p in jax.tree.leaves(state.variables))
    check_finite({"a parameter": total}, workdir)
    if hosts.is_first_host():
        checkpoints.save(workdir / "checkpoints", step, state)
        sample(config, workdir, step, state, examples)
    hosts.wait_for_hosts("checkpoint")


class Log:
    """Loss terms of every step, in metrics.jsonl and as TensorBoard scalars; only the first host writes them."""

    def __init__(self, workdir: pathlib.Path, start: int):
        """Keeps what was logged up to step `start`; later lines belong to a part that is now trained again."""
        self.path = workdir / "metrics.jsonl"
        self.loss = math.nan
        self.board = None
        if not hosts.is_first_host():
            return
        lines = []
        if start and self.path.exists():
            entries = (json.loads(line) for line in self.path.read_text().splitlines() if line.endswith("}"))
            lines = [json.dumps(entry) for entry in entries if entry["step"] <= start]
        files.atomic_write(self.path, "".join(line + "\n" for line in lines))
        self.board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start)

    def write(self, step: int, terms: list[dict]) -> dict[str, float]:
        """Logs the mean of the steps since the last call and returns it; terms are of one step each, or of several."""
        values = jax.device_get(terms)
        means = {name: float(np.hstack([v[name] for v in values]).mean(dtype=np.float64)) for name in values[0]}
        self.loss = means["loss"]
        if self.board:
            with open(self.path, "a") as file:
                file.write(json.dumps({"step": step, **means}) + "\n")
            for name, value in means.items():
                self.board.add_scalar(name, value, step)
        return means

    def close(self) -> None:
        """Closes the log of TensorBoard, where there is one."""
        if self.board:
            self.board.close()


def check_finite(terms: dict[str, float], workdir: pathlib.Path) -> None:
    """Raises Diverged if a loss is NaN or infinite; the last checkpoint is the last good state."""
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    if bad:
        kept = checkpoints.steps(workdir / "checkpoints")
        raise Diverged(
            f"training diverged: {', '.join(bad)} is not finite. The last good state is step "
            f"{kept[0] if kept else 0}. Lower --config.train.learning_rate and run again."
        )


def trained_on(config, prepared: Recipe, subjects: list[str], n: int) -> dict:
    """Returns what stands beside every number: the training data in words and by hash."""
    source = cohort.describe(experiment.source(config))
    size = f"{config.data.height}x{config.data.width}"
    return {
        "TrainedOn": f"{len(subjects)} healthy subjects, {n} slices, {size}: {source}",
        "Subjects": subjects,
        "RecipeSHA256": prepared.digest,
        "Versions": devices.versions(),
    }


def sample(config, workdir: pathlib.Path, step: int, state: TrainState, x: np.ndarray) -> None:
    """Draws a few slices, [N, H, W, 1], and what the model makes of them into samples/."""
    networks = models.from_config(config, config.restore.precision).bind(models.freeze(state.variables))
    rows = {"input": x}
    if networks.reconstruct:
        rows["reconstruction"] = jax.vmap(networks.reconstruct)(x)
    if networks.variance:
        rows["predicted sd"] = jax.vmap(networks.variance)(x) ** 0.5
    if networks.generate:
        z = jax.random.normal(jax.random.key(config.seed), (len(x), config.model.latent_size))
        rows["generated"] = jax.vmap(networks.generate)(z)
    picture = pictures.samples_figure({name: np.asarray(row)[..., 0] for name, row in rows.items()})
    files.atomic_write(workdir / "samples" / f"{step:07d}.png", picture)


def define_flags() -> None:
    """Defines the command line."""
    define_config("vae", "Experiment: FILE[:variant], or a name: vae[:variant].")
    flags.DEFINE_string("workdir", None, "Folder for everything that training writes; default: runs/<config name>.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT where the first of several hosts listens.")
    flags.DEFINE_string("hosts", None, "How many hosts train together; auto: found out on TPU pods and under SLURM.")
    flags.DEFINE_integer("host", None, "Which of them this is, from 0.")


def main(_) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    config = values.config
    hosts.join(values.coordinator, values.hosts, values.host)
    mesh = app.start()
    workdir = pathlib.Path(values.workdir or experiment.default_workdir(config))
    with hosts.one_voice():
        train(config, workdir, mesh)
        print(f"trained: {workdir}. Next: python -m lgjax.calibrate --workdir={workdir}")


if __name__ == "__main__":
    app.run(main, define_flags)
