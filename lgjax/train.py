"""Trains the prior on healthy scans.

    python -m lgjax.train --config=configs/vae.py:smoke --workdir=runs/mine
    python -m lgjax.train --config=configs/vae.py --config.data.source=prepared/cohort     # from lgjax.preprocess

Writes config.json, preprocessing.json, checkpoints/, metrics.jsonl, TensorBoard scalars, curves.png and sample
reconstructions into the work directory. Every checkpoint is validated on slices of the calibration subjects; the newest
two and the best are kept, and the best is what is calibrated and what restores. Run again, it goes on from the last
valid checkpoint, on CPUs to the same bits as without the interruption. Ctrl-C and SIGTERM (exit codes 130 and 143)
write a checkpoint after the step that is being taken.

On several hosts, start the same command on each; batches are split over all their devices, and the folders of --workdir
and --config.data.source are shared by the hosts, of which the first one writes:

    python -m lgjax.train ... --coordinator=ADDRESS_OF_HOST_0:1234 --hosts=2 --host=0    # and --host=1 on the other
    python -m lgjax.train ... --hosts=auto    # on TPU pods, and under SLURM with one task a GPU
"""

import contextlib
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from lgjax.cli import early
from lgjax.runtime import memory

if __name__ == "__main__":
    memory.keep_freed()  # before the imports below, which begin threads
    words = early.begin("train")  # and which take seconds

import jax
import numpy as np
from absl import flags

from lgjax import models
from lgjax.cli import app, opening
from lgjax.preparation import audit, cohort, dataset, recipe
from lgjax.preparation.dataset import Index
from lgjax.preparation.recipe import Recipe
from lgjax.runtime import devices, files, hosts, progress, signals
from lgjax.runtime.counting import counted
from lgjax.runtime.errors import InputError, LgjaxError, UsageError
from lgjax.scans import pictures
from lgjax.training import feeding, settings, twins
from lgjax.training import step as training
from lgjax.training.log import Log
from lgjax.training.step import TrainState, initial_state, state_shapes
from lgjax.workdir import checkpoints, experiment, preparation

ROWS = "input", "reconstruction", "predicted sd", "generated"  # of the pictures in samples/, from the top
Samples = Callable[[Any, np.ndarray], dict[str, jax.Array]]  # see `make_samples`

SUBJECTS = {"Subjects": "trained", "ValidationSubjects": "validated"}  # keys of training.json: what was done with them


class Diverged(LgjaxError):
    """The loss is not finite any more."""

    exit_code = 3


def train(config, workdir: pathlib.Path, mesh: jax.sharding.Mesh) -> None:
    """Trains to `config.train.steps`, resuming where the work directory left off.

    Of several hosts, each calls this; the first one writes.

    Raises:
      UsageError: the work directory, the source and the config do not belong together, hosts differ in them, or the
        devices cannot share a batch.
      Diverged: the loss is not finite any more.
    """
    prepared, index = check(config, workdir)
    model, values = models.from_config(config, config.train.precision), settings.from_config(config)
    shapes = state_shapes(model, values)
    state, start = checkpoints.restore_newest(workdir / "checkpoints", shapes) or (None, 0)
    if start >= config.train.steps:
        record(config, workdir, prepared)
        app.say(f"{workdir} is trained already: {start} steps")
        return
    feeding.check_shared(values.batch_size, mesh)
    (source, subjects), (held_out, others) = (
        feeding.find_slices(experiment.source(config), prepared, index, config.data.workers, split)
        for split in feeding.SPLITS
    )
    feeding.check_apart(subjects, others)
    about = trained_on(config, prepared, subjects, others, len(source))
    if start:
        check_subjects(workdir, about)
    check_hosts(config, workdir, start, about)
    record(config, workdir, prepared, about)
    if state is None:
        state = initial_state(model, values)
    judged: tuple[np.ndarray, ...] = ()
    if model.judge and hosts.is_first_host():  # the one that validates
        judged = twins.load(experiment.source(config), prepared, config.data.workers)
    batch = (*feeding.validation_batch(held_out), *judged)
    run(config, workdir, mesh, source, batch, devices.replicate(state, mesh), start)


def run(
    config,
    workdir: pathlib.Path,
    mesh,
    source: feeding.Source,
    held_out: tuple[np.ndarray, ...],
    state: TrainState,
    start: int,
) -> None:
    """Takes the steps that are left, from `start`; logs, validates on what `feeding.make_validation` takes, keeps."""
    examples = source.read(np.linspace(0, len(source) - 1, 10).astype(int)[1:-1])[0]
    model, values = models.from_config(config, config.train.precision), settings.from_config(config)
    validate, rate = feeding.make_validation(model, values, mesh), training.schedule(values)
    log, pending, done, stop = Log(workdir, start), [], start, feeding.next_stop(values, start)
    draw = make_samples(config)
    bar = progress.track(None, "training", values.steps, "step", start)
    stream = feeding.steps(model, values, source, mesh, start)
    with signals.uninterrupted() as asked, bar, contextlib.closing(log), contextlib.closing(stream):
        for taken, program, arguments in stream:
            state, terms = program(state, *arguments)
            pending.append(terms)
            done += taken
            bar.update(taken)
            if done == stop:
                kept = done == values.steps or done % values.checkpoint_every == 0
                found = validate(jax.device_get(state.variables), *held_out) if kept else {}
                check_finite(log.write(done, pending, float(rate(done - 1)), found), workdir)
                bar.set_postfix_str(f"loss {log.loss:.3g}")
                pending, stop = [], feeding.next_stop(values, done)
                if kept:
                    keep(draw, workdir, done, jax.device_get(state), examples, found.get(model.criterion))
                    log.draw(checkpoints.best(workdir / "checkpoints"))
            if asked():
                # Several hosts would wait for each other, and each hears of a signal by itself.
                if jax.process_count() == 1 and done not in checkpoints.steps(workdir / "checkpoints"):
                    keep(draw, workdir, done, jax.device_get(state), examples)
                break


def check(config, workdir: pathlib.Path) -> tuple[Recipe, Index | None]:
    """Checks that work directory, source and config belong together, and will do for calibration; writes nothing.

    Returns:
      How the slices are prepared, and the index of the prepared data set if the source is one.

    Raises:
      UsageError: they do not.
    """
    experiment.check_workdir(config, workdir)
    experiment.check_method(config)
    prepared, index = preparation.find(config)
    path = workdir / dataset.RECIPE
    if path.exists() and recipe.read(path).digest != prepared.digest:
        raise UsageError(
            f"{workdir} was trained on scans prepared in another way: {path} is not the recipe of "
            f"{config.data.source} any more. Use another --workdir, or prepare the scans as before."
        )
    rows = feeding.check_splits(experiment.source(config), index)
    line = audit.training(rows, cohort.left_out(experiment.source(config)))
    app.say(f"{line}: {cohort.describe(experiment.source(config))}")
    return prepared, index


def check_subjects(workdir: pathlib.Path, about: dict) -> None:
    """Raises UsageError where a training that goes on would see other subjects than before, or in another order.

    Args:
      workdir: that holds a checkpoint.
      about: what is trained on now, see `trained_on`.
    """
    path = workdir / "training.json"
    try:
        record = json.loads(path.read_text())
        before = {name: record[name] for name in SUBJECTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(path, f"cannot be read ({error})", "Restore it from a backup, or train again") from error
    for name, done in SUBJECTS.items():
        if before[name] != about[name]:
            gone, new = len(set(before[name]) - set(about[name])), len(set(about[name]) - set(before[name]))
            change = f"{gone} are gone, {new} are new" if gone or new else "their order has changed"
            raise UsageError(
                f"{workdir} was {done} on other subjects than the source has now: of {len(before[name])}, {change}. "
                "Use another --workdir, or the subjects of before."
            )


def check_hosts(config, workdir: pathlib.Path, start: int, about: dict) -> None:
    """Raises UsageError where hosts would not train the same; each waits here for the others."""
    checkpoint = checkpoints.weights_digest(workdir / "checkpoints", start) if start else files.digest(None)
    subjects = files.digest([about[name] for name in (*SUBJECTS, "TrainedOn", "RecipeSHA256")])
    found = {"config": files.digest(experiment.as_json(config)), "data": subjects, "checkpoint": checkpoint}
    hosts.check_alike(found)


def record(config, workdir: pathlib.Path, prepared: Recipe, about: dict | None = None) -> None:
    """Writes config.json, preprocessing.json and, given what the weights are trained on, training.json."""
    if hosts.is_first_host():
        experiment.record(config, workdir)
        recipe.write(workdir / dataset.RECIPE, prepared)
        if about:
            files.atomic_write(workdir / "training.json", json.dumps(about, indent=2) + "\n")


def keep(
    draw: Samples, workdir: pathlib.Path, step: int, state: TrainState, examples: np.ndarray, loss: float | None = None
) -> None:
    """Writes a checkpoint, with its loss on held-out slices, and its pictures; raises Diverged for bad parameters.

    The other hosts wait here for the first one to have written them.
    """
    total = sum(float(np.abs(p).sum()) for p in jax.tree.leaves(state.variables))
    check_finite({"a parameter": total}, workdir)
    if hosts.is_first_host():
        checkpoints.save(workdir / "checkpoints", step, state, loss)
        sample(draw, workdir, step, state, examples)
    hosts.wait_for_hosts("checkpoint")


def check_finite(terms: dict[str, float], workdir: pathlib.Path) -> None:
    """Raises Diverged if a loss is NaN or infinite; the last checkpoint is the last good state."""
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    if bad:
        kept = checkpoints.steps(workdir / "checkpoints")
        raise Diverged(
            f"training diverged: {', '.join(bad)} is not finite. The last good state is step "
            f"{kept[0] if kept else 0}. Lower --config.train.learning_rate and run again."
        )


def trained_on(config, prepared: Recipe, subjects: list[str], held_out: list[str], n: int) -> dict:
    """Returns what stands beside every number: the training data in words and by hash."""
    source = cohort.describe(experiment.source(config))
    size = f"{config.data.height}x{config.data.width}"
    return {
        "TrainedOn": f"{counted(len(subjects), 'healthy subject')}, {counted(n, 'slice')}, {size}: {source}",
        "Subjects": subjects,
        "ValidationSubjects": held_out,
        "RecipeSHA256": prepared.digest,
        "Versions": devices.versions(),
    }


def make_samples(config) -> Samples:
    """Returns draw(variables, x) -> images by name, [N, H, W, 1]: slices x, and what the model makes of them."""
    model = models.from_config(config, config.restore.precision)

    @jax.jit
    def draw(variables, x):
        networks = model.bind(models.freeze(variables))
        rows = {"input": x}
        if networks.reconstruct:
            rows["reconstruction"] = jax.vmap(networks.reconstruct)(x)
        if networks.variance:
            rows["predicted sd"] = jax.vmap(networks.variance)(x) ** 0.5
        if networks.generate:
            z = jax.random.normal(jax.random.key(config.seed), (len(x), config.model.latent_size))
            rows["generated"] = jax.vmap(networks.generate)(z)
        return rows

    return draw


def sample(draw: Samples, workdir: pathlib.Path, step: int, state: TrainState, x: np.ndarray) -> None:
    """Draws a few slices, [N, H, W, 1], and what the model makes of them into samples/."""
    rows = jax.device_get(draw(state.variables, x))
    order = [name for name in ROWS if name in rows]  # a compiled function returns names in alphabetical order
    picture = pictures.samples_figure({name: rows[name][..., 0] for name in order})
    files.atomic_write(workdir / "samples" / f"{step:07d}.png", picture)


def main(words: Sequence[str] = ()) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    config = values.config
    workdir = pathlib.Path(values.workdir or experiment.default_workdir(config))
    experiment.check_workdir(config, workdir)
    if app.speaks():
        source = experiment.source(config)
        scans = opening.cohort(source.spec, cohort.count(source))
        app.say(f"{scans}; {opening.model(workdir, given=True)}")
    app.join()
    mesh = app.start(threads=None)  # no promise of equal bits slows training down
    with hosts.one_voice():
        precisions = {f"{part}.precision": config[part].precision for part in ("train", "restore")}
        for line in opening.faster(mesh, precisions):
            app.say(line)
        train(config, workdir, mesh)
        print(f"trained: {workdir}. Next: python -m lgjax.calibrate --workdir={workdir}")


if __name__ == "__main__":
    app.run(main, words)
