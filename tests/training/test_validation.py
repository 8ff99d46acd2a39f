"""Held-out slices: what is measured on them, which checkpoint is best and what it is good for; changes of slices."""

import contextlib
import json
import math

import images
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import remembered
from conftest import random_variables, shrunk, subject

from lgjax import models, train
from lgjax.models import MODELS
from lgjax.models.base import Model
from lgjax.preparation import cohort, splits
from lgjax.preparation.slices import BACKGROUND, Slices
from lgjax.runtime.devices import replicate
from lgjax.runtime.errors import UsageError
from lgjax.scans import pictures
from lgjax.training import feeding, settings
from lgjax.training import step as training
from lgjax.training.log import Log
from lgjax.training.store import InMemory
from lgjax.workdir import checkpoints, weights


@pytest.fixture(autouse=True, scope="module")
def one_program():
    """Trainings of one config share their programs, which each of them would compile anew."""
    with remembered.programs():
        yield


def echo(criterion="loss"):
    """A model of one number whose loss terms are all that a loss is given."""

    def loss(variables, x, mask, key, train=True):
        terms = {"x": x, "mask": mask, "draw": jax.random.normal(key), "train": jnp.float32(train)}
        weight = variables["params"]["w"]
        terms["loss"] = (weight * x * mask).mean()
        return terms["loss"], ({}, terms)

    def init(key):
        return {"params": {"w": jnp.ones(())}, "batch_stats": {}}

    return Model(init, loss, None, (), criterion)


# Changes of training slices.


def disc(n):
    """Slices 16x16 of random brains that are not their own mirror images."""
    rng = np.random.default_rng(4)
    mask = (rng.random((n, 16, 16, 1)) < 0.6).astype(np.float32)
    return np.where(mask > 0, rng.normal(size=mask.shape), BACKGROUND).astype(np.float32), mask


def test_a_slice_is_mirrored_scaled_and_shifted_by_draws_of_its_own():
    """Scale and shift by least squares over each slice's brain."""
    x, mask = disc(600)
    found, masks = (np.asarray(part) for part in training.augment(jax.random.key(2), x, mask, 0.5, 0.1))
    mirrored = (masks[:, :, ::-1] == mask).all(axis=(1, 2, 3))
    assert ((masks == mask).all(axis=(1, 2, 3)) != mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 4 * math.sqrt(0.25 / 600)
    assert (found[masks == 0] == BACKGROUND).all()
    fits = []
    for k in range(600):
        given = x[k][:, ::-1] if mirrored[k] else x[k]
        inside = masks[k] > 0
        (fit, residual, *_) = np.polyfit(given[inside], found[k][inside], 1, full=True)
        assert residual[0] < 1e-8
        fits.append(fit)
    scale, shift = np.transpose(fits)
    for values, mean in ((scale, 1), (shift, 0)):
        assert abs(values.mean() - mean) < 4 * 0.1 / math.sqrt(600)
        assert abs(values.std() / 0.1 - 1) < 4 / math.sqrt(1200)
        assert len(np.unique(values.round(6))) > 590
    assert abs(np.corrcoef(scale, shift)[0, 1]) < 0.2


def test_each_change_is_made_alone():
    x, mask = disc(8)
    same = training.augment(jax.random.key(2), x, mask, 0.0, 0.0)
    np.testing.assert_array_equal(same, (x, mask))
    flipped = training.augment(jax.random.key(2), x, mask, 1.0, 0.0)
    np.testing.assert_array_equal(flipped, (x[:, :, ::-1], mask[:, :, ::-1]))


def test_changed_slices_depend_on_seed_and_step_alone(config, mesh1, mesh8):
    """Resident or streamed, on one and on eight devices, several steps at once or one by one: the same bits."""
    config.train.batch_size, config.train.steps, config.train.log_every, config.train.checkpoint_every = 8, 4, 4, 4
    config.train.flip, config.train.intensity = 0.5, 0.1
    held, seen, scales = InMemory(*disc(20)), [], []
    for mesh, resident, count, seed in (
        (mesh1, "always", 1, 3),
        (mesh1, "never", 1, 3),
        (mesh8, "always", 2, 3),
        (mesh1, "always", 1, 4),
    ):
        config.data.resident, config.train.steps_per_dispatch, config.seed = resident, count, seed
        values = settings.from_config(config)
        state, terms = replicate(training.initial_state(echo(), values), mesh), []
        for _, program, arguments in feeding.steps(echo(), values, held, mesh, 0):
            state, found = program(state, *arguments)
            terms.append(jax.device_get(found))
        seen.append(np.concatenate([found["x"].reshape(-1, 8, 256) for found in terms]))
        # The key of the loss is what it is without changes.
        keys = [jax.random.fold_in(jax.random.key(seed), step) for step in range(4)]
        draws = np.concatenate([np.atleast_1d(found["draw"]) for found in terms])
        np.testing.assert_array_equal(draws, [jax.random.normal(key) for key in keys])
        plain = np.stack([held.y[training.batch_indices(seed, step, 8, 20)].reshape(8, 256) for step in range(4)])
        scales.append(spread(seen[-1]) / spread(plain))
    np.testing.assert_array_equal(seen[1], seen[0])
    np.testing.assert_array_equal(seen[2], seen[0])
    assert len(np.unique(np.round([scales[0], scales[3]], 5))) == 2 * 4 * 8


def spread(slices):
    """Standard deviation in the brain, the same of a slice and its mirror image."""
    return np.ma.masked_equal(slices, BACKGROUND).std(axis=-1).filled()


# What is measured on held-out slices.


def test_validation_has_the_same_draws_at_every_call_and_changes_no_slice(config):
    values = settings.from_config(config)._replace(flip=0.5, intensity=0.5)
    validate = jax.jit(training.make_validation(echo(), values))
    x, mask = disc(4)
    one, two = (validate({"params": {"w": w}, "batch_stats": {}}, x, mask) for w in (1.0, 2.0))
    assert one["draw"] == two["draw"]
    assert one["draw"] not in [jax.random.normal(jax.random.fold_in(jax.random.key(3), step)) for step in range(9)]
    assert one["train"] == two["train"] == 0
    np.testing.assert_array_equal(one["x"], x)
    assert two["loss"] == pytest.approx(2 * (x * mask).mean(), rel=1e-5)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_held_out_losses_take_the_running_statistics_and_leave_them(name, slices):
    config = shrunk(name)
    model, variables = models.from_config(config, "float32"), random_variables(config)
    assert model.criterion == {"aae": "reconstruction", "anogan": "", "restorer": "restoration"}.get(name, "loss")

    @jax.jit
    def loss(stats):
        return model.loss({**variables, "batch_stats": stats}, *slices[:2], jax.random.key(0), train=False)[1]

    stats, terms = loss(variables["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])
    _, others = loss(jax.tree.map(lambda x: 2 * x, variables["batch_stats"]))
    named = "loss" if model.judge else model.criterion or "generator"
    assert abs(others[named] - terms[named]) > 1e-3 * abs(terms[named])


def test_a_validation_batch_is_evenly_spaced_and_always_the_same():
    n = 3 * feeding.VALIDATED + 5
    held = InMemory(np.arange(n)[:, None], -np.arange(n)[:, None])
    x, mask = feeding.validation_batch(held)
    assert len(x) == feeding.VALIDATED
    assert (x[0], x[-1]) == (0, n - 1)
    assert set(np.diff(x[:, 0])) == {3, 4} or set(np.diff(x[:, 0])) == {3}
    np.testing.assert_array_equal(mask, -x)
    few = InMemory(np.arange(5)[:, None], np.arange(5)[:, None])
    np.testing.assert_array_equal(feeding.validation_batch(few)[0][:, 0], range(5))


def test_training_and_held_out_phantoms_are_different_people():
    first, second = (cohort.healthy(cohort.Source("phantom", 1, 1), split)[0].image() for split in feeding.SPLITS)
    assert first.sha256 != second.sha256


# Which checkpoint is best, and what it is good for.


@pytest.fixture
def data(monkeypatch, slices):
    """Two subjects to train on, one held out."""
    chosen = slice(0, 4), slice(4, 7), slice(1, 6)
    parts = [Slices(*(part[rows] for part in slices)) for rows in chosen]
    prepared = [subject(f"raw {i}", part) for i, part in enumerate(parts)]
    splits = {"train": prepared[:2], "calibration": prepared[2:]}
    monkeypatch.setattr(cohort, "healthy", lambda source, split: splits[split])
    monkeypatch.setattr(cohort, "load", lambda found, *others: found.having([others[-1](one) for one in found.own]))
    return splits


class Killed(BaseException):
    """Stands for a signal."""


LOSSES = (5.0, 7.0, 5.0, math.nan)  # of the checkpoints of steps 1 to 4


@pytest.fixture
def known(monkeypatch, data, config):
    """A training with a checkpoint a step, whose held-out losses are known: to be cleared before another one."""
    config.train.steps, config.train.checkpoint_every = 4, 1
    asked = []

    def validate(variables, x, mask):
        asked.append(len(x))
        return {"loss": LOSSES[len(asked) - 1]}

    monkeypatch.setattr(feeding, "make_validation", lambda *_: validate)
    monkeypatch.setattr(train, "sample", lambda *_: None)
    monkeypatch.setattr(Log, "draw", lambda *_: None)
    return asked


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def kill_at(step):
    """What ends a training once the checkpoint of a step is written, in place of `train.sample`."""

    def sample(config, workdir, at, *_):
        if at == step:
            raise Killed

    return sample


def test_the_best_checkpoint_stays_and_is_what_restores(config, known, mesh1, tmp_path, monkeypatch):
    """Killed after step 2, the training goes on to the same end, and still knows of step 1."""
    train.train(config, tmp_path / "whole", mesh1)
    assert known == [5] * 4  # slices held out
    assert [line["validation_loss"] for line in lines(tmp_path / "whole")] == [*LOSSES[:3], None]
    known.clear()
    with monkeypatch.context() as patch:
        patch.setattr(train, "sample", kill_at(2))
        with pytest.raises(Killed):
            train.train(config, tmp_path / "killed", mesh1)
    train.train(config, tmp_path / "killed", mesh1)
    found = {}
    for name in ("whole", "killed"):
        folder = tmp_path / name / "checkpoints"
        assert checkpoints.steps(folder) == [4, 3, 1]
        assert checkpoints.best(folder) == 1
        for choice, step, words in (
            ("best", 1, "1 of 4 steps of 8, best of 3 checkpoints on held-out slices"),
            ("last", 4, "4 of 4 steps of 8, the newest checkpoint"),
        ):
            config.restore.checkpoint = choice
            loaded = weights.load(config, tmp_path / name)
            assert loaded.digest == checkpoints.weights_digest(folder, step)
            assert loaded.trained_on.endswith(f"; {words}")
            found[name, choice] = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(loaded.params)]
    assert found["whole", "best"] == found["killed", "best"] != found["whole", "last"] == found["killed", "last"]


def test_a_game_has_no_best_checkpoint(config, known, mesh1, tmp_path, monkeypatch):
    from_config = models.from_config
    monkeypatch.setattr(models, "from_config", lambda *given: from_config(*given)._replace(criterion=""))
    train.train(config, tmp_path, mesh1)
    assert lines(tmp_path)[0]["validation_loss"] == 5.0  # told all the same
    assert checkpoints.steps(tmp_path / "checkpoints") == [4, 3]
    assert weights.load(config, tmp_path).trained_on.endswith("4 of 4 steps of 8, the newest checkpoint")


def test_a_scan_to_train_on_that_is_held_out_too_is_refused(config, data, mesh1, tmp_path):
    data["calibration"][0] = subject("raw 1", data["calibration"][0].slices)
    message = r"1 of 1 scans of the calibration set are in the training set too \(SHA-256 raw 1\)"
    with pytest.raises(UsageError, match=message):
        train.train(config, tmp_path / "w", mesh1)
    assert not (tmp_path / "w").exists()


# What calibration would refuse after hours, before a scan is read.


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"restore.method": "vae_lg_neural_huber"}, "there is no method 'vae_lg_neural_huber'"),
        ({"restore.method": "gmvae_lg_neural_tv"}, "needs the model gmvae, and the config describes vae"),
        ({"restore.samples_est": 1}, "restore.samples_est=1: expected a whole number 2 or more"),
        ({"data.calibration_subjects": 0}, "data.calibration_subjects=0: expected a whole number 1 or more"),
        ({"calibrate.ssim": 1.0}, "calibrate.ssim=1.0: expected a number above 0, below 1"),
        ({"calibrate.lambdas": 0}, "calibrate.lambdas=0: expected a whole number 1 or more"),
        (
            {"calibrate.smallest_lambda": 50.0},
            "smallest_lambda=50.0: expected a number below calibrate.largest_lambda, 50.0",
        ),
        ({"calibrate.smallest_lambda": 0.0}, "smallest_lambda=0.0: expected a number above 0"),
    ],
)
def test_what_calibration_would_refuse_is_refused_before_a_scan_is_read(config, tmp_path, mesh1, values, message):
    config.data.source = "no folder at all"
    config.update_from_flattened_dict(values)
    with pytest.raises(UsageError, match=message):
        train.train(config, tmp_path / "w", mesh1)
    assert not (tmp_path / "w").exists()


def test_a_folder_without_calibration_subjects_is_refused_before_a_scan_is_read(config, tmp_path, mesh1):
    name = next(f"sub-{number}" for number in range(99) if splits.by_person(f"sub-{number}") == "train")
    images.save(tmp_path / "scans" / f"{name}.nii.gz", images.head())
    config.data.source = str(tmp_path / "scans")
    with pytest.raises(UsageError, match="no subject of it falls into the calibration split"):
        train.train(config, tmp_path / "w", mesh1)
    assert not (tmp_path / "w").exists()


# The log and its curves.


def test_curves_are_those_of_the_log(tmp_path):
    log = Log(tmp_path, 0)
    for step, held_out in ((5, None), (10, {"loss": 4.0}), (15, {"loss": math.nan}), (20, {"loss": 3.0})):
        log.write(step, [{"loss": np.float32(step)}, {"loss": np.float32(step + 2)}], 0.5, held_out)
    log.draw(best=20)
    log.close()
    with contextlib.closing(Log(tmp_path, 15)) as again:
        panels = again.curves()
    assert panels["loss"] == {"training": ([5, 10, 15], [6.0, 11.0, 16.0]), "held out": ([10], [4.0])}
    assert panels["learning rate"] == {"training": ([5, 10, 15], [0.5] * 3)}
    assert len(panels["steps per second"]["training"][0]) == 3
    assert (tmp_path / "curves.png").read_bytes() == pictures.curves_figure(log.curves(), 20)
    assert (tmp_path / "curves.png").read_bytes() != pictures.curves_figure(log.curves(), 10)
