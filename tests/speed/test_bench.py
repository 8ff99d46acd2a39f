"""Speed: what is made of times, what XLA counts, peak rates by a clock that is known, and the benchmark as typed."""

import itertools
import json
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ONE_DEVICE, ROOT, both
from jax.experimental.compilation_cache import compilation_cache

from configs import bench as settings
from lgjax import models
from lgjax.evaluation import published
from lgjax.methods import names as methods
from lgjax.models import convolutions
from lgjax.preparation.slices import BACKGROUND
from lgjax.runtime.errors import UsageError
from lgjax.speed import contestants, counts, profile, restorations, tables, traffic
from lgjax.speed import peaks as speed_peaks
from lgjax.speed import record as bench
from lgjax.speed.counts import Count
from lgjax.speed.peaks import Peaks, Runs
from lgjax.training import step


def test_spread_is_median_and_quartiles():
    assert speed_peaks.spread([5.0, 1.0, 4.0, 2.0, 3.0]) == (3.0, 2.0, 4.0)
    assert speed_peaks.spread([7.0]) == (7.0, 7.0, 7.0)


def test_seconds_per_iteration_without_what_a_run_does_once():
    fixed = np.array([0.5, 3.0, 0.1])  # of each pair of runs
    slopes = np.array([0.01, 0.02, 0.04])
    short, long = (Runs(n, list(fixed + n * slopes)) for n in (2, 50))
    np.testing.assert_allclose(speed_peaks.per_iteration(short, long), slopes)
    line = Runs(50, [0.5 + 50 * 0.01] * 3)
    assert speed_peaks.run_seconds(line, 0.01, 800) == pytest.approx(0.5 + 800 * 0.01)
    assert speed_peaks.run_seconds(line, 0.01, 50) == pytest.approx(1.0)
    with pytest.raises(ValueError):
        speed_peaks.per_iteration(short, Runs(50, [1.0]))


def test_count_for():
    assert speed_peaks.count_for(2.0, 0.1, 8, 800) == 20
    assert speed_peaks.count_for(2.0, 1e-4, 8, 800) == 800
    assert speed_peaks.count_for(2.0, 5.0, 8, 800) == 8
    assert speed_peaks.count_for(2.0, 0.1, 8, 4) == 8


def test_floor_is_the_slower_of_computing_and_moving():
    peaks = Peaks(flops=100.0, bytes=10.0, samples={})
    found = speed_peaks.floor(Count(200.0, 50.0), peaks)
    assert (found.compute, found.memory, found.seconds) == (2.0, 5.0, 5.0)
    assert speed_peaks.floor(Count(800.0, 50.0), peaks).seconds == 8.0


def test_ratio_of_what_is_known():
    assert speed_peaks.ratio(0.098, 0.0004) == pytest.approx(245)
    assert speed_peaks.ratio(None, 1.0) is None
    assert speed_peaks.ratio(1.0, None) is None
    assert speed_peaks.ratio(1.0, -1e-6) is None  # a slope lost in noise


@pytest.mark.parametrize("length", [3, 7])
def test_bytes_of_a_loop_are_those_of_all_iterations(length):
    n = 64
    w = jnp.ones((n, n)) / n
    once, several = (
        contestants.compiled(jax.jit(lambda x, t=turns: jax.lax.fori_loop(0, t, lambda _, x: jnp.tanh(x @ w), x)), w)
        for turns in (length, 2 * length)
    )
    more = counts.per_iteration(once.work, several.work, length).bytes
    # The product reads two matrices and writes one; what follows reads and writes one, or is fused, or copies one.
    assert 3 * 4 * n**2 <= more <= 7 * 4 * n**2


@pytest.mark.usefixtures("optimised")
def test_bytes_are_of_the_fused_program_and_of_all_devices():
    x = jnp.ones(1000)
    function = jax.jit(lambda a, b: jnp.tanh(a + b) * 2 + a)
    found = contestants.compiled(function, x, x)
    assert found.work.bytes == 3 * 4 * 1000  # and not those of every operation
    assert found.work.bytes == found.program.cost_analysis()["bytes accessed"]
    assert found.bytes_of == contestants.KERNELS
    assert contestants.compiled(function, x, x, devices=4).work.bytes == 4 * found.work.bytes


def test_where_the_text_of_a_program_tells_nothing_every_operation_counts():
    halve = jax.jit(lambda x: jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x))
    found = contestants.compiled(halve, jnp.ones(1000))
    assert found.bytes_of == contestants.OPERATIONS
    assert found.work == counts.of(halve, jnp.ones(1000))
    strange = "ENTRY %main (p: f32[]) -> f32[] {\n  ROOT %a = f32[] negate(%nowhere)\n}"
    for text in (None, "func.func @main", strange):
        assert traffic.of(types.SimpleNamespace(as_text=lambda text=text: text)) is None


def test_memory_of_a_program():
    program = jax.jit(lambda a: (a * 2, a.sum())).lower(jnp.ones(1000)).compile()
    assert 8004 <= speed_peaks.memory(program) <= 8004 + 256
    donated = jax.jit(lambda a: a * 2, donate_argnums=0).lower(jnp.ones(1000)).compile()
    assert 4000 <= speed_peaks.memory(donated) <= 4000 + 256  # the result takes the argument's place


@pytest.fixture
def clock(monkeypatch):
    """Every run takes half a second."""
    monkeypatch.setattr(speed_peaks.time, "perf_counter", itertools.count(0, 0.5).__next__)


@pytest.mark.parametrize("devices", [1, 8])
def test_peak_rates_count_the_work_of_all_devices(clock, request, devices):
    mesh = request.getfixturevalue(f"mesh{devices}")
    peaks = speed_peaks.measure_peaks(mesh, "bfloat16", sizes=[16, 32], length=1003, tries=3)
    rate = devices * speed_peaks.PRODUCTS * 2 * 16**3 / 0.5
    assert peaks.flops == rate
    assert peaks.samples["bfloat16 matrix product 16"] == [rate] * 3
    assert len(peaks.samples) == 2  # half a second is long: no larger matrices
    assert peaks.bytes == speed_peaks.SUMS * 3 * 4 * 1003 / 0.5  # of the host
    assert speed_peaks._sum_rates(mesh, 1003, 2) == [devices * speed_peaks.SUMS * 3 * 4 * 1003 / 0.5] * 2


def test_larger_matrices_are_tried_while_they_are_quick(mesh1, monkeypatch):
    monkeypatch.setattr(speed_peaks.time, "perf_counter", itertools.count(0, 0.25).__next__)
    peaks = speed_peaks.measure_peaks(mesh1, "float32", sizes=[16, 32], length=100, tries=1)
    assert peaks.flops == speed_peaks.PRODUCTS * 2 * 32**3 / 0.25
    assert set(peaks.samples) == {f"float32 matrix product {n}" for n in (16, 32)} | {"float32 sum a + b -> a"}


def test_best_of_several_measurements():
    first, second = Peaks(5.0, 20.0, {"a": [5.0], "b": [20.0]}), Peaks(7.0, 10.0, {"a": [6.0, 7.0], "b": [10.0]})
    assert speed_peaks.best([first, second]) == (7.0, 20.0, {"a": [5.0, 6.0, 7.0], "b": [20.0, 10.0]})


def test_slices_look_like_brains():
    y, mask, index = contestants.brain_like(seed=1, count=3, height=128, width=96)
    assert y.shape == mask.shape == (3, 128, 96, 1)
    assert y.dtype == mask.dtype == np.float32
    assert (y[mask == 0] == BACKGROUND).all()
    np.testing.assert_allclose(mask.mean(axis=(1, 2, 3)), np.pi / 4 * np.prod(contestants.AXES), rtol=0.05)
    assert abs(y[mask > 0].mean()) < 0.1
    assert y[mask > 0].std() == pytest.approx(1, abs=0.1)
    np.testing.assert_array_equal(index, [0, 1, 2])
    np.testing.assert_array_equal(contestants.brain_like(1, 3, 128, 96).y, y)
    assert (contestants.brain_like(2, 3, 128, 96).y != y).any()


@pytest.mark.parametrize("name", list(settings.EXPERIMENTS))
def test_random_states_are_those_of_training(name):
    config = settings.get_config("smoke").experiments[name]
    state = contestants.random_state(*both(config))
    assert jax.eval_shape(lambda: state) == step.state_shapes(*both(config))
    kernels = [leaf for leaf in jax.tree.leaves(models.freeze(state.variables)) if leaf.ndim > 1]
    assert all(np.isfinite(kernel).all() and np.asarray(kernel).std() > 0 for kernel in kernels)


@pytest.fixture
def empty_cache(tmp_path):
    """A compilation cache of this test's own: another may have left the user's in place."""
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation_cache.reset_cache()
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
    compilation_cache.reset_cache()


def test_compiling_takes_its_time_every_time(empty_cache):
    folder = empty_cache

    def double(x):
        return x * 2.0 + 0.125

    ones = jnp.ones(3)  # another program
    before = set(folder.iterdir())
    work, _, plain, program, seconds = contestants.compiled(jax.jit(double), ones)
    np.testing.assert_array_equal(program(ones), 2.125)
    assert work.flops == plain.flops == 2 * 3
    assert seconds > 0
    assert set(folder.iterdir()) == before
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.jit(lambda x: x * 3.0 + 0.0625)(jnp.ones(3))
    assert set(folder.iterdir()) > before  # other programs are kept as before


@pytest.mark.parametrize("features", [1, 8, 16])
def test_the_zeros_of_blocks_are_counted_apart(features):
    x, kernel = jnp.ones((2, 16, 16, 4)), jnp.ones((3, 3, 4, features))
    layer = convolutions.Conv(features, (3, 3), use_bias=False)

    @jax.jit
    def convolve(x, kernel):
        with convolutions.forms(convolutions.forms.value or "cpu"):
            return layer.apply({"params": {"kernel": kernel}}, x)

    work, _, plain, *_ = contestants.compiled(convolve, x, kernel)
    taps = 3 * 16 - 2  # pairs of output and kernel rows that meet the image
    assert plain.flops == 2 * 2 * 4 * features * taps**2
    height, width = next(block for most, block in ((1, (4, 4)), (8, (2, 2)), (16, (1, 2))) if features <= most)
    blocks = [(n + 2) * 16 // n - 2 for n in (height, width)]  # the same, of blocks of n pixels and n + 2 taps
    assert work.flops == 2 * 2 * 4 * features * height * width * np.prod(blocks)


def test_methods_by_default_are_the_papers_that_iterate_and_detection():
    names = bench.choose(None)
    paper = [name for name in names if name not in bench.DETECTION]
    assert set(paper) == {entry.method for entry in published.TABLE1 if entry.seconds} | {"anogan"}
    assert names == [*sorted(paper, key=published.place), *bench.DETECTION]
    given = ["aae_lg_neural_l1", "vae_elbo_l1", "mirror_tv3d", "dae_reconstruction", "aae_lg_neural_l1"]
    assert bench.choose(given) == given[:4]


def test_training_is_timed_for_the_models_of_the_methods():
    paper, smoke = (bench.from_config(settings.get_config(variant)) for variant in ("paper", "smoke"))
    names = bench.choose(None)
    assert bench.trained(paper, names) == ["anogan", "vae", "gmvae", "aae"]
    assert bench.trained(paper, ["vae_elbo_tv", "vae_elbo_l1"]) == ["vae"]
    assert bench.trained(smoke, names) == ["vae"]


@pytest.mark.parametrize("name", ["gmm", "intensity"])
def test_methods_without_networks_or_volumes_are_refused(name):
    with pytest.raises(UsageError, match=f"{name} asks no network.*vae_lg_neural_tv"):
        bench.choose(["vae_lg_neural_tv", name])


def test_methods_of_eq_4_are_timed_with_both_solvers():
    config = settings.get_config("smoke")
    found = {name: bench.solvers(bench.from_config(config), methods.parse(name)) for name in methods.available()}
    assert found["vae_lg_neural_tv"] == found["gmvae_elbo_l1"] == found["vae_lg_est_tv3d"] == ["adam", "proximal"]
    assert found["restorer_lg_neural_tv"] == ["proximal"]  # which is its own
    assert all(len(found[name]) == 1 for name in ("anogan", *bench.DETECTION))
    config.further_solvers = ()
    assert bench.solvers(bench.from_config(config), methods.parse("vae_lg_neural_tv")) == ["adam"]


def test_a_further_solver_is_named_and_its_iterations_are_its_own(mesh1):
    timed = bench.from_config(settings.get_config("smoke"))
    method = methods.parse("vae_lg_neural_tv")
    own, further = (bench.task(timed, method, one, {}, mesh1) for one in ("adam", "proximal"))
    assert (own.name, further.name) == ("vae_lg_neural_tv", "vae_lg_neural_tv, proximal")
    assert (own.settings.optimizer, further.settings.optimizer) == ("adam", "proximal")
    assert (own.runner(3).settings.iterations, own.runner(3).settings.refreshes) == (3, own.settings.refreshes)
    assert (further.runner(3).settings.iterations, further.runner(3).settings.refreshes) == (own.settings.iterations, 3)


def test_methods_are_compiled_as_in_the_product(mesh1, monkeypatch):
    config = settings.get_config("smoke")
    config.experiments.detection.data.height = config.experiments.detection.data.width = 16
    task = bench.task(bench.from_config(config), methods.parse("intensity_tv3d"), "adam", {}, mesh1)
    runner, asked = task.runner(), []

    def refuse_once(*given):  # as a compiler that knows no kernel of ours
        asked.append(given)
        runner.fused = False
        return runner.function.lower(*given).compile()

    monkeypatch.setattr(runner, "compile", refuse_once)
    seen = []
    monkeypatch.setattr(contestants.counts, "of", lambda *_: seen.append(convolutions.fusion.value) or Count(1.0, 1.0))
    found = restorations.prepare(runner, restorations.given(task, 4))
    assert len(asked) == 1
    assert list(runner.programs.values()) == [found.program]
    assert seen == [False, False]


def test_volumes_that_fit_in_no_run_are_computed():
    long = Runs(50, [1.0, 1.2, 1.4])
    found = restorations.computed(long, speed_peaks.spread([0.01, 0.02, 0.03]), iterations=800, count=155, size=64)
    assert found["seconds"] == pytest.approx(3 * (1.2 + 750 * 0.02))  # the last batch of the three is padded
    assert found["computed_from"] == "3 batches of 64 for 155 slices, 800 iterations"


def test_wrong_names_and_values_are_refused():
    config = settings.get_config("smoke")
    with pytest.raises(UsageError, match="no method 'vae_lg'"):
        bench.choose(["vae_lg"])
    config.experiments.vae.restore.variance_at = "y"
    with pytest.raises(UsageError, match="variance_at"):
        bench.from_config(config)


def test_everything_is_timed_in_turn(monkeypatch, mesh1):
    order = []

    class Item:
        kind = "methods"

        def __init__(self, name):
            self.name = name

        def sample(self):
            order.append(self.name)

        def record(self, peaks, settings):
            return {"peak": peaks.flops}

    def peaks(*_):
        order.append("peaks")
        return Peaks(float(len(order)), 1.0, {})

    monkeypatch.setattr(bench, "contestants", lambda *_: [Item("a"), Item("b")])
    monkeypatch.setattr(speed_peaks, "measure_peaks", peaks)
    record = bench.measure(bench.from_config(settings.get_config("smoke")), ["vae_elbo_tv", "vae_elbo_l1"], mesh1)
    assert order == ["a", "b", "peaks"] * 3
    assert record["methods"] == {"a": {"peak": 9.0}, "b": {"peak": 9.0}}  # the best of the whole run


def lgjax_bench(*arguments) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ONE_DEVICE}
    command = [sys.executable, "-m", "lgjax.bench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=900)


TINY = """
from configs import bench

def get_config(variant):
    config = bench.get_config(variant)
    config.repeats, config.run_seconds, config.train_slices = 3, 0.01, 16
    config.peak_sizes, config.peak_length = (64, 128), 1 << 16
    config.volume_slices = 20
    for experiment in (config.experiments.vae, config.experiments.detection):
        experiment.data.height = experiment.data.width = 16
    experiment = config.experiments.vae
    experiment.model.channels, experiment.model.latent_channels = (4,), 4
    experiment.restore.batch_size, experiment.restore.iterations, experiment.train.batch_size = 4, 8, 8
    return config
"""


@pytest.fixture(scope="module")
def benched(tmp_path_factory):
    """The benchmark of some methods as a user runs it: its JSON file and what it prints."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "tiny.py").write_text(TINY)
    result = lgjax_bench(
        f"--config={folder / 'tiny.py'}:smoke",
        "--config.as_paper=True",
        "--config.precision=float32",
        "--config.further_solvers=()",
        "--method=vae_lg_neural_tv,vae_lg_neural_tv3d,mirror_tv3d",
        "--profile",
        f"--output={folder / 'new' / 'out.json'}",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads((folder / "new" / "out.json").read_text()), result.stdout


def test_the_record_follows_from_its_samples(benched):
    record, _ = benched
    assert list(record["methods"]) == ["vae_lg_neural_tv", "vae_lg_neural_tv3d", "mirror_tv3d"]
    found = record["methods"]["vae_lg_neural_tv"]
    short, long = found["samples"]["short"], found["samples"]["long"]
    assert len(short["seconds"]) == len(long["seconds"]) == 3
    assert (short["iterations"], long["iterations"], found["iterations"], found["solver"]) == (2, 8, 8, "adam")
    slopes = np.subtract(long["seconds"], short["seconds"]) / (8 - 2)
    lower, median, upper = np.percentile(slopes, [25, 50, 75])
    assert found["seconds_per_iteration"] == pytest.approx({"median": median, "lower": lower, "upper": upper})
    assert found["paper_seconds"] == 0.098
    if median > 0:
        assert found["paper_over_ours"] == pytest.approx(0.098 / median)
    assert_follows(found, record["peaks"], median)
    found = record["training"]["vae"]
    seconds = np.divide(found["samples"]["seconds"], found["samples"]["iterations"])
    assert found["steps_per_second"]["median"] == pytest.approx(np.median(1 / seconds))
    assert_follows(found, record["peaks"], np.median(seconds))


def test_volumes_are_timed_whole(benched):
    record, printed = benched
    slices, joined, mode = record["methods"].values()
    for found in (slices, joined, mode):
        assert len(found["volume"]["samples"]) == 3
        assert found["volume"]["seconds"] == np.median(found["volume"]["samples"])
    assert [found["batch_size"] for found in (slices, joined, mode)] == [12, 20, 20]
    assert (joined["seconds_per_iteration"]["median"], joined["paper_seconds"]) != (None, 0.098)
    assert (mode["seconds_per_iteration"], mode["iterations"], mode["flops"] > 0) == (None, None, True)
    assert_follows(mode, record["peaks"], mode["volume"]["seconds"])
    for name, found in record["methods"].items():
        row = next(line for line in printed.splitlines() if line.startswith(f"| {name} "))
        assert [word.strip() for word in row.split("|")][8:10] == [f"{found['volume']['seconds']:.3g}", "measured"]
    assert "| mirror_tv3d, a volume" in printed


def assert_follows(found, peaks, seconds):
    """What is said of the hardware follows from counts, peaks and time."""
    assert peaks["flops"] == max(
        x for name, tries in peaks["samples"].items() if "float32 matrix product" in name for x in tries
    )
    assert peaks["bytes"] == max(peaks["samples"]["float32 sum a + b -> a"])
    compute, memory = found["flops"] / peaks["flops"], found["bytes"] / peaks["bytes"]
    assert found["floor_seconds_compute"] == pytest.approx(compute)
    assert found["floor_seconds"] == pytest.approx(max(compute, memory))
    assert found["program_bytes"] > 0
    assert found["compile_seconds"] > 0
    if seconds > 0:
        assert found["fraction_of_floor"] == pytest.approx(max(compute, memory) / seconds)
        assert found["fraction_of_compute_floor"] == pytest.approx(compute / seconds)


def test_the_record_says_how_it_was_made(benched):
    record, _ = benched
    assert record["command"].startswith("python -m lgjax.bench --config=")
    assert {"lgjax", "jax", "device", "date", "numpy", "python"} <= set(record["versions"])
    assert record["config"]["experiments"]["vae"]["seed"] == 0
    assert record["config"]["repeats"] == 3
    assert record["config"]["precision"] == "float32"
    parts = [
        config[part] for config in record["config"]["experiments"].values() for part in {"restore", "train"} & {*config}
    ]
    assert {part["precision"] for part in parts} == {"float32"}
    assert (record["devices"], record["cores"]) == (1, os.cpu_count())


def test_the_tables_show_the_record(benched):
    record, printed = benched
    assert tables.markdown(record) in printed
    assert "not stated in the paper (the authors' code restores 64 slices of 128x128" in printed
    row = next(line for line in printed.splitlines() if line.startswith("| vae_lg_neural_tv"))
    found = record["methods"]["vae_lg_neural_tv"]
    assert [word.strip() for word in row.split("|")][2:5] == [
        "12 of 16x16",
        "8",
        f"{found['seconds_per_iteration']['median']:.3g}",
    ]


def test_a_profile_is_kept_and_shown(benched):
    record, printed = benched
    for name, found in (("vae_lg_neural_tv", record["methods"]), ("training of vae", record["training"])):
        kept = found[name.split()[-1]]["profile"]
        assert len(kept["longest"]) == profile.LONGEST < kept["kernels"]
        shares = [kernel["share"] for kernel in kept["longest"]]
        assert shares == sorted(shares, reverse=True)
        assert 0.3 < sum(shares) < 1
        assert profile.markdown(name, kept) in printed
    long = record["methods"]["vae_lg_neural_tv"]["samples"]["long"]["iterations"]
    kept = record["methods"]["vae_lg_neural_tv"]["profile"]
    assert kept["iterations"] == long
    assert any(kernel["runs"] % long == 0 for kernel in kept["longest"])  # kernels of the loop
    assert any("VAE" in kernel["scope"] for kernel in kept["longest"])


def test_the_tables_show_what_is_unknown(benched):
    record = json.loads(json.dumps(benched[0]))
    record["config"]["as_paper"] = False
    assert "<= " not in tables.markdown(record)
    for found in record["methods"].values():
        found.update(dict.fromkeys(("paper_seconds", "paper_over_ours", "flops", "floor_seconds", "fraction_of_floor")))
        found["bytes_of"] = contestants.OPERATIONS
    text = tables.markdown(record)
    assert f"| <= {found['bytes'] / 1e9:.3g} " in text
    assert tables.OTHER_SIZE in text
    assert "Titan X" not in text
    assert "None" not in text
    assert "| –" in text
