"""Training: the order of slices, the step on one and on eight devices, resuming, divergence and schedules."""

import itertools
import json
import math
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import remembered
from conftest import both, shrunk, subject
from programs import collectives

from lgjax import models, train
from lgjax.methods import names as methods
from lgjax.methods import runner
from lgjax.models import MODELS
from lgjax.preparation import cohort
from lgjax.runtime.devices import batch_sharding, replicate, replicated
from lgjax.training import feeding, settings
from lgjax.training import step as training
from lgjax.training.store import InMemory
from lgjax.workdir import checkpoints, weights


@pytest.fixture(autouse=True, scope="module")
def one_program():
    """Trainings of one config share their programs, which each of them would compile anew."""
    with remembered.programs():
        yield


@pytest.mark.parametrize(("batch_size", "n"), [(4, 10), (8, 8), (5, 3), (64, 7), (1, 6)])
def test_epochs_are_permutations(batch_size, n):
    steps = math.lcm(batch_size, n) // batch_size * 2
    order = np.concatenate([training.batch_indices(0, step, batch_size, n) for step in range(steps)])
    epochs = order.reshape(-1, n)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(n), (len(epochs), 1)))


def test_batch_indices_depend_on_seed_and_step_alone():
    forth = [training.batch_indices(1, step, 6, 50) for step in range(20)]
    back = [training.batch_indices(1, step, 6, 50) for step in reversed(range(20))][::-1]
    np.testing.assert_array_equal(forth, back)
    epochs = np.concatenate([training.batch_indices(1, step, 10, 50) for step in range(10)]).reshape(2, 50)
    assert (epochs[0] != epochs[1]).any()
    other = np.concatenate([training.batch_indices(2, step, 10, 50) for step in range(5)])
    assert (other != epochs[0]).any()
    # One order, whatever the size of the batches that cut it.
    np.testing.assert_array_equal(np.concatenate([training.batch_indices(1, s, 25, 50) for s in range(2)]), epochs[0])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_learning_rate(config, schedule):
    config.train.schedule, config.train.steps, config.train.learning_rate = schedule, 8, 0.5
    transform = training.optimizer(settings.from_config(config))
    x = np.float32(0)
    state, moves = transform.init(x), []
    for _ in range(10):
        update, state = transform.update(np.float32(3), state, x)  # Adam moves by the rate under a constant gradient
        moves.append(-float(update))
    cosine = [0.25 * (1 + math.cos(math.pi * min(i, 8) / 8)) for i in range(10)]
    np.testing.assert_allclose(moves, cosine if schedule == "cosine" else [0.5] * 10, rtol=2e-5, atol=1e-7)
    if schedule == "cosine":
        assert abs(moves[8]) < 1e-7


def batch(slices):
    return np.concatenate([slices.y, slices.y[:1]]), np.concatenate([slices.mask, slices.mask[:1]])


def losses(config, params, stats, x, mask):
    return models.from_config(config, "float32").loss(
        {"params": params, "batch_stats": stats}, x, mask, jax.random.key(0)
    )


def terms_of(config, params, stats, x, mask):
    return losses(config, params, stats, x, mask)[1][1]


def test_neither_network_trains_the_other(config, variables, slices):
    params, stats = variables["params"], variables["batch_stats"]
    x, mask = batch(slices)

    @jax.jit
    @jax.jacrev
    def jacobian(params):
        terms = terms_of(config, params, stats, x, mask)
        return {name: terms[name] for name in ("loss", "variance")}

    found = jacobian(params)

    def size(name, part):
        return norm(found[name][part])

    assert size("variance", "autoencoder") == 0
    assert size("variance", "variance") > 1e-3
    assert size("loss", "variance") == 0
    assert size("loss", "autoencoder") > 1e-3


def test_loss_is_the_sum_of_its_terms(config, variables, slices):
    params, stats = variables["params"], variables["batch_stats"]
    loss, (_, terms) = jax.jit(lambda p: losses(config, p, stats, *batch(slices)))(params)
    assert float(terms["loss"]) == pytest.approx(float(terms["reconstruction"]) + float(terms["kl"]), rel=1e-5)
    assert float(loss) == pytest.approx(float(terms["loss"]) + float(terms["variance"]), rel=1e-5)
    config.model.reconstruction_weight *= 3
    thrice = jax.jit(lambda p: terms_of(config, p, stats, *batch(slices))["reconstruction"])(params)
    assert float(thrice) == pytest.approx(3 * float(terms["reconstruction"]), rel=1e-5)


def norm(tree):
    return np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]))


def leaves_close(found, expected, **tolerance):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(jax.device_get(found)), jax.tree.leaves(jax.device_get(expected)), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def test_a_step_on_one_and_on_eight_devices(config, slices, mesh1, mesh8):
    """Batch statistics and gradients are those of the whole batch, wherever its slices lie.

    Gradients are compared through Adam's first moment, 0.1 of the gradient: Adam's own first step is the sign of the
    gradient times the rate, so parameters whose gradient is nothing but rounding may part by twice the rate."""
    config, results = of_steps(config, 1), []
    for mesh in (mesh1, mesh8):
        state = jax.device_put(training.initial_state(*both(config)), replicated(mesh))
        x, mask = jax.device_put(batch(slices), batch_sharding(mesh))
        results.append(jax.device_get(feeding.make_step(*both(config), mesh)(state, x, mask)))
    (one, one_terms), (eight, eight_terms) = results
    leaves_close(eight_terms, one_terms, rtol=1e-5)
    leaves_close(eight.variables["batch_stats"], one.variables["batch_stats"], rtol=1e-5, atol=1e-6)
    moments, others = one.optimizer[0].mu, eight.optimizer[0].mu
    leaves_close(others, moments, rtol=1e-4, atol=1e-5 * norm(moments))
    leaves_close(eight.variables["params"], one.variables["params"], atol=2.1e-4)
    assert int(eight.step) == int(one.step) == 1
    trees = eight.variables["params"], one.variables["params"]
    parted = [np.abs(a - b) > 1e-5 for a, b in zip(*map(jax.tree.leaves, trees), strict=True)]
    assert np.mean(np.concatenate([p.ravel() for p in parted])) < 0.05


def told(config, mesh, size: int, count: int):
    """What devices tell each other in a training step of `count` slices, as `collectives` lists it, sorted."""
    model, values = both(config)
    state = jax.eval_shape(lambda: training.initial_state(model, values))
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)), state)
    x = jax.ShapeDtypeStruct((count, size, size, 1), np.float32, sharding=batch_sharding(mesh))
    program = feeding.make_step(model, values, mesh).lower(state, x, x).compile()
    return sorted(collectives(program.as_text()))


def test_devices_sum_gradients_and_statistics_and_tell_each_other_nothing_else(config, mesh8):
    """Sums over the batch alone: no slice and no activation travels, so twice the slices are told in as many bytes."""
    config = of_steps(config, 1)
    found = told(config, mesh8, 16, 8)
    assert {kind for kind, _ in found} == {"all-reduce"}
    assert told(config, mesh8, 16, 16) == found
    shapes = [shape for _, several in found for shape in several]
    assert {"f32[3,3,1,4]", "f32[]"} <= set(shapes)  # the gradient of the first kernel, a term of the loss


def test_momentum_is_adam_s_b1(config):
    """After one gradient of 1 and one of 0, Adam's first moment is (1 - b1) b1."""
    for momentum in (0.9, 0.5):
        config.train.momentum = momentum
        transform, x = training.optimizer(settings.from_config(config)), np.float32(0)
        state = transform.init(x)
        for gradient in (1.0, 0.0):
            _, state = transform.update(np.float32(gradient), state, x)
        assert float(state[0].mu) == pytest.approx((1 - momentum) * momentum)


def test_draws_change_from_step_to_step(config, slices, mesh1):
    step, losses = feeding.make_step(*both(config), mesh1), []
    for number in range(2):
        state = training.initial_state(*both(config))._replace(step=np.int32(number))
        after, terms = step(replicate(state, mesh1), *batch(slices))
        assert int(after.step) == number + 1
        losses.append(float(terms["reconstruction"]))
    assert losses[0] != losses[1]


def test_loss_falls(config, slices):
    config.train.learning_rate, config.train.schedule = 3e-3, "constant"
    step = jax.jit(training.make_step(*both(config)))
    state, history = training.initial_state(*both(config)), []
    for _ in range(80):
        state, terms = step(state, *batch(slices))
        history.append([float(terms["loss"]), float(terms["variance"])])
    first, last = np.mean(history[:5], axis=0), np.mean(history[-5:], axis=0)
    assert last[0] < 0.5 * first[0]
    assert last[1] < first[1]


@pytest.fixture
def data(monkeypatch, slices):
    """Makes the seven slices the training set, as two subjects, and five of them the slices of a third, held out.

    Returns the subjects to train on, for a test to change.
    """
    chosen = slice(0, 4), slice(4, 7), slice(1, 6)
    parts = [cohort.Slices(*(np.array(part[rows]) for part in slices)) for rows in chosen]
    prepared = [subject(f"raw {i}", part) for i, part in enumerate(parts)]
    splits = {"train": prepared[:2], "calibration": prepared[2:]}
    monkeypatch.setattr(cohort, "healthy", lambda source, split: splits[split])
    monkeypatch.setattr(cohort, "load", lambda found, *others: found.having([others[-1](one) for one in found.own]))
    monkeypatch.setattr(train.Log, "draw", lambda *_: None)  # which takes longer than a step
    return splits["train"]


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures of samples are empty, for tests that look at none: each takes longer than all steps."""
    monkeypatch.setattr(train.pictures, "samples_figure", lambda rows: b"")


class Killed(BaseException):
    """Stands for a signal."""


def kill_when(monkeypatch, name, at):
    """Ends train.train after the named function has run for the step `at`."""
    original = train.sample if name == "sample" else train.Log.write

    def lethal(*args):
        result = original(*args)
        if (args[2] if name == "sample" else args[1]) == at:
            raise Killed
        return result

    monkeypatch.setattr(train if name == "sample" else train.Log, name, lethal)


def metrics(workdir):
    """The lines of metrics.jsonl, but for the only value that is another in every run."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all(line.pop("steps_per_second") > 0 for line in lines)
    return lines


def validations(workdir):
    """How every checkpoint that is left did on the slices held out."""
    folder = workdir / "checkpoints"
    return {step: checkpoints.validation(folder, step) for step in checkpoints.steps(folder)}


def newest(config, workdir):
    return checkpoints.restore_newest(workdir / "checkpoints", training.initial_state(*both(config)))


@pytest.mark.usefixtures("undrawn")
def test_resumed_training_equals_uninterrupted_training(config, data, mesh1, tmp_path, monkeypatch, capsys):
    train.train(config, tmp_path / "whole", mesh1)
    expected, step = newest(config, tmp_path / "whole")
    assert step == int(expected.step) == 6
    assert [line["step"] for line in metrics(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]

    # Once right after the checkpoint of step 3, once two steps later, which are then trained again.
    for name, at in (("sample", 3), ("write", 5)):
        workdir = tmp_path / name
        with monkeypatch.context() as patch:
            kill_when(patch, name, at)
            with pytest.raises(Killed):
                train.train(config, workdir, mesh1)
        assert newest(config, workdir)[1] == 3
        with open(workdir / "metrics.jsonl", "a") as file:
            file.write('{"step": 6, "lo')  # a line cut short
        train.train(config, workdir, mesh1)
        found, step = newest(config, workdir)
        assert step == 6
        assert metrics(workdir) == metrics(tmp_path / "whole")
        assert validations(workdir) == validations(tmp_path / "whole")
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()

    capsys.readouterr()
    before = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    train.train(config, tmp_path / "whole", mesh1)
    assert "trained already" in capsys.readouterr().out
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == before


@pytest.mark.usefixtures("undrawn")
def test_ctrl_c_waits_for_the_step_and_its_checkpoint(config, data, mesh1, tmp_path, monkeypatch, capfd):
    """Orbax writes in threads of its own, for as long as the call of this one lasts."""
    save = checkpoints.ocp.StandardCheckpointer.save

    def interrupted(*arguments):
        save(*arguments)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(checkpoints.ocp.StandardCheckpointer, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.train(config, tmp_path, mesh1)
    assert newest(config, tmp_path)[1] == 3
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3]
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["0000003.png"]
    assert "Traceback" not in capfd.readouterr().err


def test_what_training_leaves(config, data, slices, mesh1, tmp_path):
    config.train.log_every = 2
    train.train(config, tmp_path, mesh1)
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    terms = {"loss", "reconstruction", "kl", "variance"}
    assert set(lines[0]) == {"step", "learning_rate", *terms}
    assert set(lines[1]) == set(lines[3]) == {*lines[0], *(f"validation_{term}" for term in terms)}
    cosine = [config.train.learning_rate * 0.5 * (1 + math.cos(math.pi * step / 6)) for step in (1, 2, 3, 5)]
    assert [line["learning_rate"] for line in lines] == pytest.approx(cosine)
    state, _ = newest(config, tmp_path)
    held_out = jax.tree.map(lambda part: part[1:6], slices)
    measured = jax.jit(training.make_validation(*both(config)))(state.variables, held_out.y, held_out.mask)
    for name, value in measured.items():
        assert lines[3][f"validation_{name}"] == pytest.approx(float(value), rel=1e-5)
    folder = tmp_path / "checkpoints"
    assert checkpoints.validation(folder, 6) == (lines[3]["validation_loss"], 2)
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["0000003.png", "0000006.png"]
    assert list((tmp_path / "tensorboard").iterdir())
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["TrainedOn"].startswith("2 healthy subjects, 7 slices, 16x16")
    assert record["Subjects"] == ["raw 0", "raw 1"]
    assert record["ValidationSubjects"] == ["raw 2"]
    loaded = weights.load(config, tmp_path)
    assert not any("norm" in jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(loaded.params))


@pytest.mark.usefixtures("undrawn")
def test_logged_values_are_means_of_the_steps(config, data, mesh1, tmp_path):
    train.train(config, tmp_path / "each", mesh1)
    config.train.log_every = 6
    config.train.checkpoint_every = 6
    train.train(config, tmp_path / "all", mesh1)
    each, (together,) = metrics(tmp_path / "each"), metrics(tmp_path / "all")
    for name in ("loss", "kl", "reconstruction", "variance"):
        assert together[name] == pytest.approx(np.mean([line[name] for line in each]), rel=1e-5)


@pytest.mark.usefixtures("undrawn")
def test_a_loss_that_is_not_finite_stops_training(config, data, mesh1, tmp_path):
    """A slice is spoilt that is first seen in step 5: the checkpoint of step 4 is the last good one."""
    config.train.checkpoint_every = 2
    many = cohort.Slices(*(np.concatenate([part] * 10) for part in data[0].slices))
    many.y[training.batch_indices(config.seed, 4, 8, len(many.y))[0]] = np.nan
    data[:] = [subject("raw", many)]
    with pytest.raises(train.Diverged, match=r"not finite.*step 4") as caught:
        train.train(config, tmp_path, mesh1)
    assert caught.value.exit_code == 3
    state, step = newest(config, tmp_path)
    assert step == 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.usefixtures("undrawn")
def test_the_last_good_checkpoint_is_good(config, data, mesh1, tmp_path, monkeypatch):
    """A step with a finite loss whose gradient overflows leaves parameters that must not be kept as good."""
    config.train.checkpoint_every = 1
    make_step = feeding.make_step

    def overflowing(*arguments):
        step = make_step(*arguments)

        def result(state, *rest):
            state, terms = step(state, *rest)
            spoil = np.float32(np.nan if int(state.step) == 2 else 0)
            return state._replace(variables=jax.tree.map(lambda p: p + spoil, state.variables)), terms

        return result

    monkeypatch.setattr(feeding, "make_step", overflowing)
    with pytest.raises(train.Diverged):
        train.train(config, tmp_path, mesh1)
    state, step = newest(config, tmp_path)
    assert step == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def of_steps(config, count, log_every=3, checkpoint_every=5, steps=10):
    """The config with several steps per dispatch, slices on the device."""
    result = config.copy_and_resolve_references()
    result.data.resident, result.train.steps_per_dispatch = "always", count
    result.train.log_every, result.train.checkpoint_every, result.train.steps = log_every, checkpoint_every, steps
    result.train.learning_rate = 1e-4
    return result


def test_dispatches_end_at_every_step_that_is_logged_or_kept(config, slices, mesh1):
    config = of_steps(config, 2, steps=13)
    held = InMemory(slices.y, slices.mask)
    taken = list(feeding.steps(*both(config), held, mesh1, 0))
    counts = [one.steps for one in taken]
    assert counts == [2, 1, 2, 1, 2, 1, 1, 2, 1]  # 3, 5, 6, 9, 10, 12, 13
    ends = np.cumsum(counts)
    assert {3, 5, 6, 9, 10, 12, 13} <= set(ends)
    for end, count, _, arguments in ((end, *one) for end, one in zip(ends, taken, strict=True)):
        rows = [training.batch_indices(config.seed, step, 8, 7) for step in range(end - count, end)]
        if count == 1:
            np.testing.assert_array_equal(arguments[0], slices.y[rows[0]])
        else:
            np.testing.assert_array_equal(arguments[1], rows)
    # From a checkpoint they are as they would have been.
    assert [one.steps for one in feeding.steps(*both(config), held, mesh1, 5)] == counts[3:]
    config.data.resident = "never"
    assert [one.steps for one in feeding.steps(*both(config), held, mesh1, 0)] == [1] * 13


def test_zero_steps_per_dispatch_suit_the_device(config, mesh1):
    gpu = SimpleNamespace(devices=np.array([SimpleNamespace(platform="gpu")]))
    assert feeding.per_dispatch(settings.from_config(config), mesh1) == 1
    assert feeding.per_dispatch(settings.from_config(config), gpu) == feeding.DISPATCHED
    config.train.steps_per_dispatch = 4
    assert (
        feeding.per_dispatch(settings.from_config(config), mesh1)
        == feeding.per_dispatch(settings.from_config(config), gpu)
        == 4
    )


@pytest.mark.parametrize("devices", [1, 8])
def test_steps_taken_at_once_are_those_taken_one_by_one(config, slices, devices, request):
    """Up to rounding: XLA compiles the convolutions of a loop otherwise. As in the test on eight devices, Adam turns
    the rounding of a gradient that is nothing else into steps of the learning rate, at most twice that a step."""
    mesh, results = request.getfixturevalue(f"mesh{devices}"), []
    for count in (1, 3):
        several = of_steps(config, count)
        state, terms = replicate(training.initial_state(*both(config)), mesh), []
        stream = feeding.steps(*both(several), InMemory(slices.y, slices.mask), mesh, 0)
        for _, program, arguments in itertools.islice(stream, 3 // count):
            state, found = program(state, *arguments)
            terms.append(jax.device_get(found))
        results.append((jax.device_get(state), terms))
    (single, each), (together, (all_of_them,)) = results
    for name in all_of_them:
        np.testing.assert_allclose(all_of_them[name], [one[name] for one in each], rtol=1e-4)
    assert int(together.step) == int(single.step) == 3
    leaves_close(together.variables["batch_stats"], single.variables["batch_stats"], rtol=1e-3, atol=1e-4)
    leaves_close(together.variables["params"], single.variables["params"], atol=3 * 2.1e-4)
    trees = together.variables["params"], single.variables["params"]
    parted = [np.abs(a - b) > 1e-5 for a, b in zip(*map(jax.tree.leaves, trees), strict=True)]
    assert np.mean(np.concatenate([p.ravel() for p in parted])) < 0.05


@pytest.mark.usefixtures("undrawn")
def test_several_steps_at_once_are_logged_kept_and_resumed(config, data, mesh1, tmp_path, monkeypatch):
    config = of_steps(config, 3)
    train.train(config, tmp_path / "whole", mesh1)
    assert [line["step"] for line in metrics(tmp_path / "whole")] == [3, 5, 6, 9, 10]
    names = sorted(path.name for path in (tmp_path / "whole" / "samples").iterdir())
    assert names == ["0000005.png", "0000010.png"]
    with monkeypatch.context() as patch:
        kill_when(patch, "write", 9)
        with pytest.raises(Killed):
            train.train(config, tmp_path / "killed", mesh1)
    train.train(config, tmp_path / "killed", mesh1)
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    found, expected = (newest(config, tmp_path / name) for name in ("killed", "whole"))
    assert found[1] == expected[1] == 10
    for a, b in zip(*map(jax.tree.leaves, (found[0], expected[0])), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    single = of_steps(config, 1)
    train.train(single, tmp_path / "single", mesh1)
    for a, b in zip(metrics(tmp_path / "whole"), metrics(tmp_path / "single"), strict=True):
        assert a == pytest.approx(b, rel=1e-3)


def test_samples_are_what_the_frozen_model_makes_of_slices(config, variables, slices):
    found = train.make_samples(config)(variables, slices.y)
    networks = models.from_config(config, "float32").bind(models.freeze(variables))
    assert set(found) == {"input", "reconstruction", "predicted sd"}
    np.testing.assert_array_equal(found["input"], slices.y)
    expected = jax.jit(networks.reconstruct)(slices.y[2]), jax.jit(networks.variance)(slices.y[2]) ** 0.5
    for name, image in zip(("reconstruction", "predicted sd"), expected, strict=True):
        np.testing.assert_allclose(found[name][2], image, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"vae"}))
def test_every_model_trains_and_restores(name, data, slices, mesh1, tmp_path, monkeypatch):
    """Through the same door as the VAE: training, checkpoint, frozen weights, its methods; each slice by itself."""
    config = shrunk(name)
    monkeypatch.setattr(train.twins, "COUNT", 1)  # of each kind, that the restorer is judged on
    train.train(config, tmp_path, mesh1)
    assert (tmp_path / "samples" / "0000003.png").stat().st_size > 1000
    loaded = weights.load(config, tmp_path)
    own = "restorer_reconstruction" if name == "restorer" else config.restore.method  # one of slices
    method, model = methods.parse(own), models.from_config(config, config.restore.precision)
    run = runner.Runner(method, runner.from_config(config), model, loaded.params, mesh1)
    ((x, trace),) = run(slices, np.ones(7, np.float32))
    inside = slices.mask > 0
    assert np.isfinite(x).all()
    np.testing.assert_array_equal(x[~inside], slices.y[~inside])
    assert np.abs(x - slices.y)[inside].mean() > 1e-3
    assert trace is None if name in ("dae", "restorer") else trace.change.shape == (7, 3)
    ((alone, _),) = run(cohort.Slices(*(part[5:6] for part in slices)), np.ones(1, np.float32))
    np.testing.assert_array_equal(alone[0], x[5])
