"""The benchmark: what is timed and how, its record, its tables, and the command."""

import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest
from conftest import ONE_DEVICE, ROOT

from configs import bench as settings
from lgjax import bench as door
from lgjax.evaluation import published
from lgjax.methods import names as methods
from lgjax.models import convolutions
from lgjax.runtime.errors import UsageError
from lgjax.speed import profile, programs, restorations, tables, times
from lgjax.speed import record as bench
from lgjax.speed.counts import Count
from lgjax.speed.peaks import Peaks
from lgjax.speed.times import Runs


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
    monkeypatch.setattr(programs.counts, "of", lambda *_: seen.append(convolutions.fusion.value) or Count(1.0, 1.0))
    found = restorations.prepare(runner, restorations.given(task, 4))
    assert len(asked) == 1
    assert list(runner.programs.values()) == [found.program]
    assert seen == [False, False]


def test_volumes_that_fit_in_no_run_are_computed():
    long = Runs(50, [1.0, 1.2, 1.4])
    found = restorations.computed(long, times.spread([0.01, 0.02, 0.03]), iterations=800, count=155, size=64)
    assert found["seconds"] == pytest.approx(3 * (1.2 + 750 * 0.02))  # the last batch of the three is padded
    assert found["computed_from"] == "3 batches of 64 for 155 slices, 800 iterations"


def test_wrong_names_and_values_are_refused():
    config = settings.get_config("smoke")
    with pytest.raises(UsageError, match="no method 'vae_lg'"):
        bench.choose(["vae_lg"])
    config.experiments.vae.restore.variance_at = "y"
    with pytest.raises(UsageError, match="variance_at"):
        bench.from_config(config)


class Item:
    """A contestant that takes no time."""

    kind = "methods"
    compiled = types.SimpleNamespace(program=types.SimpleNamespace(as_text=lambda: "HloModule jit_f, entry"))

    def __init__(self, name, order=()):
        self.name, self.order = name, order

    def sample(self):
        self.order.append(self.name)

    def record(self, peaks, as_paper):
        return {"peak": peaks.flops}

    def profile(self):
        return profile.Profile("kernels", [profile.Kernel("jit_f", "op", self.name, 3, 2.0)], 3)


class Broken(Item):
    """A contestant whose device has no profiler."""

    def profile(self):
        raise RuntimeError("no profiler in /home/ada/cupti.so\nand a long trace")


def test_everything_is_timed_in_turn(monkeypatch, mesh1):
    order = []

    class Rates:
        def __init__(self, *_):
            order.append("compiled")

        def sample(self):
            order.append("peaks")

        def peaks(self):
            return Peaks(9.0, 1.0, {})

    monkeypatch.setattr(bench, "Rates", Rates)
    record = bench.measure(bench.from_config(settings.get_config("smoke")), [Item("a", order), Item("b", order)], mesh1)
    assert order == ["compiled", *["a", "b", "peaks"] * 3]
    assert record["methods"] == {"a": {"peak": 9.0}, "b": {"peak": 9.0}}


def test_a_failing_profile_is_told_and_takes_nothing_else_along(caplog):
    record = {"methods": {"a": {"peak": 1.0}, "b": {"peak": 2.0}, "c": {"peak": 3.0}}, "training": {}}
    bench.add_profiles(record, [Item("a"), Broken("b"), Item("c")])
    fault = "RuntimeError: no profiler in cupti.so"  # not where it lies
    assert caplog.messages == [f"warning: b: no profile: {fault}"]
    assert record["methods"]["b"] == {"peak": 2.0, "profile": {"fault": fault}}
    kept = [record["methods"][name]["profile"] for name in "ac"]
    assert [one["longest"][0]["name"] for one in kept] == ["a", "c"]
    assert profile.markdown("b", record["methods"]["b"]["profile"]) == f"b: no profile: {fault}"


def test_the_record_is_written_before_the_profile_which_may_end_the_process(monkeypatch, tmp_path, mesh1):
    output = tmp_path / "record.json"
    values = types.SimpleNamespace(
        config=settings.get_config("smoke"), method=["mirror_tv3d"], profile=True, output=str(output)
    )
    monkeypatch.setattr(door.flags, "FLAGS", values)
    monkeypatch.setattr(door.app, "start", lambda: mesh1)
    monkeypatch.setattr(bench, "contestants", lambda *_: [])

    def ended(record, items):
        raise SystemExit(139)

    monkeypatch.setattr(bench, "add_profiles", ended)
    monkeypatch.setattr(bench, "measure", lambda *_: {"methods": {}, "training": {}})
    with pytest.raises(SystemExit):
        door.main()
    assert json.loads(output.read_text()) == {"methods": {}, "training": {}}


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
        found["bytes_of"] = programs.OPERATIONS
    text = tables.markdown(record)
    assert f"| <= {found['bytes'] / 1e9:.3g} " in text
    assert tables.OTHER_SIZE in text
    assert "Titan X" not in text
    assert "None" not in text
    assert "| –" in text
