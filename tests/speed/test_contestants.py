"""What a benchmark times, and what it says of the times."""

import types

import jax
import numpy as np
import pytest

from configs import bench as settings
from lgjax.evaluation import published
from lgjax.methods import names as methods
from lgjax.models import convolutions
from lgjax.runtime.errors import UsageError
from lgjax.speed import contestants, programs, restorations, times
from lgjax.speed.counts import Count
from lgjax.speed.peaks import Peaks
from lgjax.speed.times import Runs


def test_methods_by_default_are_the_papers_that_iterate_and_detection():
    names = contestants.choose(None)
    paper = [name for name in names if name not in contestants.DETECTION]
    assert set(paper) == {entry.method for entry in published.TABLE1 if entry.seconds} | {"anogan"}
    assert names == [*sorted(paper, key=published.place), *contestants.DETECTION]
    given = ["aae_lg_neural_l1", "vae_elbo_l1", "mirror_tv3d", "dae_reconstruction", "aae_lg_neural_l1"]
    assert contestants.choose(given) == given[:4]


def test_training_is_timed_for_the_models_of_the_methods():
    paper, smoke = (contestants.from_config(settings.get_config(variant)) for variant in ("paper", "smoke"))
    names = contestants.choose(None)
    assert contestants.trained(paper, names) == ["anogan", "vae", "gmvae", "aae"]
    assert contestants.trained(paper, ["vae_elbo_tv", "vae_elbo_l1"]) == ["vae"]
    assert contestants.trained(smoke, names) == ["vae"]


@pytest.mark.parametrize("name", ["gmm", "intensity"])
def test_methods_without_networks_or_volumes_are_refused(name):
    with pytest.raises(UsageError, match=f"{name} asks no network.*vae_lg_neural_tv"):
        contestants.choose(["vae_lg_neural_tv", name])


def test_methods_of_eq_4_are_timed_with_both_solvers():
    config = settings.get_config("smoke")
    found = {
        name: contestants.solvers(contestants.from_config(config), methods.parse(name)) for name in methods.available()
    }
    assert found["vae_lg_neural_tv"] == found["gmvae_elbo_l1"] == found["vae_lg_est_tv3d"] == ["adam", "proximal"]
    assert found["restorer_lg_neural_tv"] == ["proximal"]  # which is its own
    assert all(len(found[name]) == 1 for name in ("anogan", *contestants.DETECTION))
    config.further_solvers = ()
    assert contestants.solvers(contestants.from_config(config), methods.parse("vae_lg_neural_tv")) == ["adam"]


def test_a_further_solver_is_named_and_its_iterations_are_its_own(mesh1):
    timed = contestants.from_config(settings.get_config("smoke"))
    method = methods.parse("vae_lg_neural_tv")
    own, further = (contestants.task(timed, method, one, {}, mesh1) for one in ("adam", "proximal"))
    assert (own.name, further.name) == ("vae_lg_neural_tv", "vae_lg_neural_tv, proximal")
    assert (own.settings.optimizer, further.settings.optimizer) == ("adam", "proximal")
    assert (own.runner(3).settings.iterations, own.runner(3).settings.refreshes) == (3, own.settings.refreshes)
    assert (further.runner(3).settings.iterations, further.runner(3).settings.refreshes) == (own.settings.iterations, 3)


def test_methods_are_compiled_as_in_the_product(mesh1, monkeypatch):
    config = settings.get_config("smoke")
    config.experiments.detection.data.height = config.experiments.detection.data.width = 16
    task = contestants.task(contestants.from_config(config), methods.parse("intensity_tv3d"), "adam", {}, mesh1)
    runner, asked = task.runner(), []

    def refuse_once(*given):  # as a compiler that knows no kernel of ours
        asked.append(given)
        runner.programs.fused = ()
        return runner.programs.function.lower(*given).compile()

    monkeypatch.setattr(runner.programs, "compile", refuse_once)
    seen = []
    monkeypatch.setattr(programs.counts, "of", lambda *_: seen.append(convolutions.fusion.value) or Count(1.0, 1.0))
    ran = []
    monkeypatch.setattr(restorations.times, "seconds", lambda run: ran.append(run()) or 7.0)
    found, alone = restorations.prepare(runner, restorations.given(task, 4))
    assert alone == 7.0
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(ran)), "nothing is brought back in that time"
    assert len(asked) == 1
    assert list(runner.programs.compiled.values()) == [found.program]
    assert seen == [(), ()]


@pytest.mark.parametrize(
    ("name", "target", "once", "long", "batch", "volume"),
    [
        ("vae_lg_neural_tv", 0.5, 0.1, 5, 12, None),  # too short for all iterations
        ("vae_lg_neural_tv", 9.9, 0.1, 8, 12, 2 * 0.9),  # 20 slices are two batches
        ("vae_lg_neural_tv", 9.9, 10, 8, 12, 2 * 10.8),  # a run of any length mostly begins, the program alone does not
        ("vae_lg_neural_tv3d", 9.9, 0.1, 8, 20, 0.9),
    ],
)
def test_iterations_are_of_a_batch_or_of_a_volume(monkeypatch, mesh1, name, target, once, long, batch, volume):
    """By a clock that is known: a batch of 12 slices, or a volume of 20, takes some time, and 0.1 s an iteration."""
    config = settings.get_config("smoke")
    config.volume_slices, config.experiments.vae.restore.iterations = 20, 8
    task = contestants.task(contestants.from_config(config), methods.parse(name), "adam", {}, mesh1)
    compiled = types.SimpleNamespace(memory_analysis=lambda: None)

    asked, prepared = [], []

    def prepare(runner, arrays):
        if runner.programs.fused is None:
            asked.append(runner)
            runner.programs.fused = ("variance",)
        count = Count(100.0 + 10.0 * runner.iterations, 7.0 * runner.iterations)
        prepared.append(runner.iterations)
        alone = 0.1 * runner.iterations / (1 if task.method.volume else 2)  # a program takes half a batch
        return programs.Compiled(count, programs.KERNELS, count, compiled, 3.0), alone

    def seconds(runner, arrays):
        return -(-len(arrays.slices.number) // (20 if task.method.volume else 12)) * (once + 0.1 * runner.iterations)

    monkeypatch.setattr(restorations, "prepare", prepare)
    monkeypatch.setattr(restorations, "seconds", seconds)
    monkeypatch.setattr(
        restorations.Task,
        "runner",
        lambda task, iterations=0: types.SimpleNamespace(
            iterations=iterations,
            size=12,
            dispatched=6,
            kernels="lgjax",
            programs=types.SimpleNamespace(fused=None, graphs=True),
        ),
    )
    one = restorations.Restoration(task, short=1, target=target)
    for _ in range(3):
        one.sample()
    found = one.record(Peaks(1e3, 1e2, {}), as_paper=True)
    assert prepared == [1, long]  # no further length is compiled
    assert len(asked) == 1  # whatever the length of a run
    assert one.long.programs.fused == ("variance",)
    assert (found["kernels"], found["cuda_graph_asked"]) == ("lgjax", True)
    assert (one.long.iterations, found["batch_size"]) == (long, batch)
    assert found["seconds_per_iteration"]["median"] == pytest.approx(0.1)
    assert found["paper_seconds"] == (0.098 if name == "vae_lg_neural_tv" else None)
    parts = 1 if task.method.volume else 2  # a batch is two times what devices take at once
    assert (found["flops"], found["bytes"]) == (10.0 * parts, 7.0 * parts)  # none of the 100
    assert found["fraction_of_floor"] == pytest.approx(0.07 * parts / 0.1)
    assert found["volume"]["seconds"] == pytest.approx(volume or 2 * 0.9)
    assert ("computed_from" in found["volume"]) == (volume is None)


@pytest.mark.parametrize(("platform", "runs"), [("cpu", 1), ("gpu", 2)])
def test_what_a_device_makes_once_is_made_before_anything_counts(platform, runs):
    """The second run of a program makes CUDA graphs."""
    made = []
    devices = np.array([types.SimpleNamespace(platform=platform)])

    def runner(*given):
        made.append(given)
        return []

    runner.mesh = types.SimpleNamespace(devices=devices)
    slices = restorations.Given("slices", "strength")
    restorations.warm(runner, slices)
    assert made == runs * [slices]


@pytest.mark.parametrize(("name", "value"), [("micro", 3), ("graphs", False)])
def test_what_a_device_refuses_when_it_restores_is_compiled_anew_without(monkeypatch, name, value):
    """Out of memory a runner takes fewer slices at a time; then the work and the seconds are of the smaller program."""
    made, run = [], []
    programs = types.SimpleNamespace(graphs=True, restart=lambda micro: made.append("forgotten"))
    runner = types.SimpleNamespace(micro=12, params="params", programs=programs)

    def compiled(runner, *arguments):
        made.append((runner.micro, runner.programs.graphs))
        return types.SimpleNamespace(program=lambda *given: run.append((*made[-1:], *given)))

    monkeypatch.setattr(restorations, "_arguments", lambda runner, arrays: [runner.micro])
    monkeypatch.setattr(restorations, "_compiled", compiled)
    monkeypatch.setattr(
        restorations, "warm", lambda runner, _: setattr(*((runner if name == "micro" else programs), name, value))
    )
    restorations.prepare(runner, None)
    least = (runner.micro, programs.graphs)
    assert made == [(12, True), "forgotten", least]
    assert run == [(least, "params", runner.micro)]


def test_volumes_that_fit_in_no_run_are_computed():
    long = Runs(50, [1.0, 1.2, 1.4])
    found = restorations.computed(long, times.spread([0.01, 0.02, 0.03]), iterations=800, count=155, size=64)
    assert found["seconds"] == pytest.approx(3 * (1.2 + 750 * 0.02))  # the last batch of the three is padded
    assert found["computed_from"] == "3 batches of 64 for 155 slices, 800 iterations"


def test_wrong_names_and_values_are_refused():
    config = settings.get_config("smoke")
    with pytest.raises(UsageError, match="no method 'vae_lg'"):
        contestants.choose(["vae_lg"])
    config.experiments.vae.restore.variance_at = "y"
    with pytest.raises(UsageError, match="variance_at"):
        contestants.from_config(config)
