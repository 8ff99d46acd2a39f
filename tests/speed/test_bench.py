"""The command bench: what is measured in which turn, its record, its profile and its tables."""

import json
import os
import types

import numpy as np
import pytest
import server

from configs import bench as settings
from lgjax import bench as door
from lgjax.speed import contestants, profile, programs, record, tables, turns
from lgjax.speed.peaks import Peaks


class Item:
    """A contestant that takes no time."""

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


class Failing(Item):
    """A contestant that runs out of memory in one of its turns."""

    def __init__(self, name, order, at):
        super().__init__(name, order)
        self.at = at

    def sample(self):
        if len([name for name in self.order if name == self.name]) == self.at:
            raise MemoryError("no room in /home/ada/pool\nand a long trace")
        super().sample()


def entrant(name, order, make=Item, *more):
    """What is to be compiled, and notes in `order` when it was."""

    def compile():
        order.append(f"compile {name}")
        return make(name, order, *more)

    return turns.Entrant("methods", name, compile)


@pytest.fixture
def measured(monkeypatch, mesh1):
    """Measures contestants that take no time, three turns; returns the record, and appends to `order` what ran when."""

    def measure(entrants, order, keep=lambda found: None):
        rates = types.SimpleNamespace(sample=lambda: order.append("peaks"), peaks=lambda: Peaks(9.0, 1.0, {}))
        monkeypatch.setattr(record, "Rates", lambda *_: rates)
        return record.measure(contestants.from_config(settings.get_config("smoke")), entrants, mesh1, keep)

    return measure


def test_everything_is_timed_in_turn_and_compiled_when_its_first_turn_comes(measured):
    order = []
    found = measured([entrant("a", order), entrant("b", order)], order)
    assert order == ["peaks", "compile a", "a", "compile b", "b", *["peaks", "a", "b"] * 2]
    assert found["methods"] == {"a": {"peak": 9.0}, "b": {"peak": 9.0}}
    assert (found["incomplete"], found["turns_left"]) == ([], 0)


def test_the_record_is_kept_after_every_turn_and_says_what_it_lacks(measured):
    order, kept = [], []
    measured([entrant("a", order), entrant("b", order)], order, kept.append)
    assert [list(found["methods"]) for found in kept] == [["a"], *[["a", "b"]] * 5]
    assert [found["turns_left"] for found in kept] == [5, 4, 3, 2, 1, 0]
    assert kept[0]["incomplete"] == ["a: 1 of 3 turns", "b: 0 of 3 turns"]
    assert kept[4]["incomplete"] == ["b: 2 of 3 turns"]


@pytest.mark.parametrize("at", [0, 1])
def test_a_contestant_that_fails_is_told_and_the_others_go_on(measured, caplog, at):
    order = []
    found = measured([entrant("a", order, Failing, at), entrant("b", order)], order)
    assert order == ["peaks", "compile a", *["a"] * at, "compile b", "b", *["peaks", "b"] * 2]
    fault = "MemoryError: no room in pool"  # not where it lies
    assert caplog.messages == [f"warning: a: no further turn: {fault}"]
    assert (found["incomplete"], found["turns_left"]) == ([f"a: {at} of 3 turns: {fault}"], 3 - at)
    assert list(found["methods"]) == ["a", "b"][1 - at :], "what was measured before stays"


def test_what_does_not_compile_is_a_contestant_that_fails(measured):
    def refuse(*_):
        raise ValueError("no such operation")

    order = []
    found = measured([entrant("a", order), turns.Entrant("training", "vae", refuse)], order)
    assert found["incomplete"] == ["training of vae: 0 of 3 turns: ValueError: no such operation"]
    assert (list(found["methods"]), found["training"]) == (["a"], {})


def test_a_failing_profile_is_told_and_takes_nothing_else_along(caplog):
    found = {"methods": {"a": {"peak": 1.0}, "b": {"peak": 2.0}, "c": {"peak": 3.0}}, "training": {}}
    entrants = [entrant(name, [], Broken if name == "b" else Item) for name in "abcd"]
    for each in entrants[:3]:
        each.turn()
    record.add_profiles(found, entrants)  # of d nothing was measured
    fault = "RuntimeError: no profiler in cupti.so"  # not where it lies
    assert caplog.messages == [f"warning: b: no profile: {fault}"]
    assert found["methods"]["b"] == {"peak": 2.0, "profile": {"fault": fault}}
    kept = [found["methods"][name]["profile"] for name in "ac"]
    assert [one["longest"][0]["name"] for one in kept] == ["a", "c"]
    assert profile.markdown("b", found["methods"]["b"]["profile"]) == f"b: no profile: {fault}"


@pytest.fixture
def benching(monkeypatch, tmp_path, mesh1):
    """Runs the door with contestants that take no time; returns the exit code."""
    rates = types.SimpleNamespace(sample=lambda: None, peaks=lambda: Peaks(9.0, 1.0, {}))

    def run(entrants, profile=False):
        values = {"method": ["mirror_tv3d"], "profile": profile, "output": str(tmp_path / "record.json")}
        flags = types.SimpleNamespace(config=settings.get_config("smoke"), **values)
        monkeypatch.setattr(door.flags, "FLAGS", flags)
        monkeypatch.setattr(door.app, "start", lambda: mesh1)
        monkeypatch.setattr(record, "Rates", lambda *_: rates)
        monkeypatch.setattr(contestants, "entrants", lambda *_: entrants)
        monkeypatch.setattr(door, "markdown", str)
        monkeypatch.setattr(door.app, "say", lambda _: None)
        return door.main()

    return run


class Interrupting(Item):
    """A contestant at which a user loses patience."""

    def sample(self):
        raise KeyboardInterrupt


def test_what_is_measured_is_not_lost_to_an_interrupt_and_replaces_no_complete_record(benching, tmp_path):
    (tmp_path / "record.json").write_text("complete")
    with pytest.raises(KeyboardInterrupt):
        benching([entrant("a", []), entrant("b", [], Interrupting)])
    found = json.loads((tmp_path / "record.incomplete.json").read_text())
    assert (found["methods"], found["turns_left"]) == ({"a": {"peak": 9.0}}, 5)
    assert (tmp_path / "record.json").read_text() == "complete"
    assert benching([entrant("a", [])]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    assert json.loads((tmp_path / "record.json").read_text())["incomplete"] == []


def test_a_bench_of_which_a_contestant_fails_ends_with_three(benching, tmp_path, capsys):
    assert benching([entrant("a", []), entrant("b", [], Failing, 0)]) == 3
    assert f"all samples: {tmp_path / 'record.incomplete.json'}" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["record.incomplete.json"]


def test_the_record_is_written_before_the_profile_which_may_end_the_process(benching, monkeypatch, tmp_path):
    def ended(*_):
        raise SystemExit(139)

    monkeypatch.setattr(record, "add_profiles", ended)
    with pytest.raises(SystemExit):
        benching([entrant("a", [])], profile=True)
    assert json.loads((tmp_path / "record.json").read_text())["methods"] == {"a": {"peak": 9.0}}


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
    experiment.model.channels, experiment.model.latent_channels, experiment.model.variance_channels = (4,), 2, (4,)
    experiment.restore.batch_size, experiment.restore.iterations, experiment.train.batch_size = 4, 8, 8
    return config
"""


@pytest.fixture(scope="module")
def benched(tmp_path_factory):
    """The benchmark of some methods as a user runs it: its JSON file and what it prints."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "tiny.py").write_text(TINY)
    result = server.run(
        "bench",
        f"--config={folder / 'tiny.py'}:smoke",
        "--config.as_paper=True",
        "--config.precision=float32",
        "--config.further_solvers=()",
        "--method=vae_lg_neural_tv,mirror_tv3d",
        "--profile",
        f"--output={folder / 'new' / 'out.json'}",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads((folder / "new" / "out.json").read_text()), result.stdout


def test_the_record_follows_from_its_samples(benched):
    record, _ = benched
    assert list(record["methods"]) == ["vae_lg_neural_tv", "mirror_tv3d"]
    found = record["methods"]["vae_lg_neural_tv"]
    short, long = found["samples"]["short"], found["samples"]["long"]
    assert len(short["seconds"]) == len(long["seconds"]) == 3
    assert (short["iterations"], long["iterations"], found["iterations"], found["solver"]) == (2, 8, 8, "adam")
    slopes = np.subtract(long["seconds"], short["seconds"]) / (8 - 2)
    lower, median, upper = np.percentile(slopes, [25, 50, 75])
    assert found["seconds_per_iteration"] == pytest.approx({"median": median, "lower": lower, "upper": upper})
    assert found["paper_seconds"] == 0.098
    assert (found["kernels"], found["cuda_graph_asked"]) == ("XLA", False)
    if median > 0:
        assert found["paper_over_ours"] == pytest.approx(0.098 / median)
    assert_follows(found, record["peaks"], median)
    found = record["training"]["vae"]
    seconds = np.divide(found["samples"]["seconds"], found["samples"]["iterations"])
    assert found["steps_per_second"]["median"] == pytest.approx(np.median(1 / seconds))
    assert_follows(found, record["peaks"], np.median(seconds))


def test_volumes_are_timed_whole(benched):
    record, printed = benched
    slices, mode = record["methods"].values()
    for found in (slices, mode):
        assert len(found["volume"]["samples"]) == 3
        assert found["volume"]["seconds"] == np.median(found["volume"]["samples"])
    assert [found["batch_size"] for found in (slices, mode)] == [12, 20]
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
    record["training"], record["incomplete"] = {}, ["a: 1 of 3 turns"]
    assert "Not complete: a: 1 of 3 turns." in tables.markdown(record)
    assert "steps/s" in text
    assert "steps/s" not in tables.markdown(record)
    assert "Titan X" not in text
    assert "None" not in text
    assert "| –" in text
