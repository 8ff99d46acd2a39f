"""The comparison with PyTorch, without PyTorch: arguments, tolerances, turns and ratios, by sides that only pretend."""

import importlib
import json
import sys

import numpy as np
import pytest
from conftest import ROOT

from configs import vae as experiment
from lgjax.models import precision

METHOD = "vae_lg_neural_tv"


@pytest.fixture(scope="module", autouse=True)
def _found():
    """The modules of benchmarks/peers, which name one another without a folder."""
    before = set(sys.modules)
    sys.path.append(str(ROOT / "benchmarks" / "peers"))
    yield
    sys.path.remove(str(ROOT / "benchmarks" / "peers"))
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(ROOT / "benchmarks" / "peers")):
            del sys.modules[name]


@pytest.fixture
def compare():
    return importlib.import_module("compare")


@pytest.fixture
def record():
    return importlib.import_module("record")


@pytest.fixture
def timing(monkeypatch):
    module = importlib.import_module("timing")
    monkeypatch.setattr(module, "PAUSE", 0)
    return module


class Pretended:
    """A side that restores to the slices, off by some error, in modes that take some seconds a run."""

    def __init__(self, errors: dict[str, float], seconds: dict[str, float], broken: dict[str, str] | None = None):
        self.errors, self.seconds, self.broken = errors, seconds, broken or {}
        self.prepared, self.sampled = [], []

    def modes(self, method):
        return list(self.seconds)

    def prepare(self, config, variables, method, mode, slices):
        assert config.train.precision == config.restore.precision
        if self.broken.get(mode) == config.restore.precision:
            raise importlib.import_module("remote").RemoteFault("out of memory")
        neighbours = slices[1][:, :-1] * slices[1][:, 1:]
        assert bool(neighbours.any()) == (config.restore.iterations == 7), "rounding decides where neighbours change"
        self.prepared.append((config.restore.precision, mode, config.restore.iterations))
        self.scale = config.restore.iterations
        return None if method == "vae_train" else slices[0] + self.errors.get(mode, 0.0)

    def sample(self, mode):
        self.sampled.append(mode)
        return self.seconds[mode] * self.scale

    def clear(self):
        self.scale = None


def measured(compare, timing, theirs, *, method=METHOD, precisions=("tensorfloat32", "bfloat16"), modes=(), repeats=3):
    """What is measured of a pretended PyTorch, and what is told, beside the side of lgjax."""
    config = compare.make_config(compare.arguments(["--device=gpu", "--output=F", "--smoke", "--iterations=7"]))
    ours, told = Pretended({}, {"lgjax": 2.0}), []
    found = dict(timing.measure(config, ours, theirs, None, method, precisions, modes, repeats, told.append))
    return found, told, ours


def test_a_gpu_is_compared_in_float32_and_timed_in_two_precisions(compare, timing):
    theirs = Pretended({}, {"eager": 4.0, "graph": 1.0})
    found, told, ours = measured(compare, timing, theirs)
    assert found == {name: {"lgjax": [2.0] * 3, "eager": [4.0] * 3, "graph": [1.0] * 3} for name in found}
    assert (list(found), told) == (["tensorfloat32", "bfloat16"], [])
    assert [entry[:2] for entry in ours.prepared] == [(p, "lgjax") for p in ("float32", "tensorfloat32", "bfloat16")]
    assert {entry[2] for entry in theirs.prepared if entry[0] == "float32"} == {timing.CHECKED_ITERATIONS}
    assert theirs.sampled == ["eager", "graph"] * 6  # in turns


def test_a_cpu_is_timed_in_the_float32_that_is_compared(compare, timing):
    theirs = Pretended({}, {"eager": 4.0})
    found, _, _ = measured(compare, timing, theirs, precisions=("float32",))
    assert list(found) == ["float32"]
    assert theirs.prepared == [("float32", "eager", 7)]  # as many as are timed


@pytest.mark.parametrize(("error", "kept"), [(0.0009, True), (0.0011, False), (np.nan, False)])
def test_modes_that_restore_to_something_else_are_told_and_not_timed(compare, timing, error, kept):
    theirs = Pretended({"fast": error}, {"eager": 4.0, "fast": 1.0})
    found, told, _ = measured(compare, timing, theirs)
    assert all(("fast" in samples) == kept and "eager" in samples for samples in found.values())
    assert len(told) == (not kept)
    assert all(text.startswith(f"{METHOD}, float32, fast: half of the pixels differ") for text in told)


def test_half_of_the_pixels_may_differ():
    agreement = importlib.import_module("agreement")
    ours, theirs, mask = np.zeros(10), np.zeros(10), np.ones(10)
    theirs[:4] = 1.0  # where rounding decided the sign of TV's gradient
    assert agreement.typical_difference(ours, theirs, mask) == 0
    mask[4:8] = 0
    assert agreement.typical_difference(ours, theirs, mask) == 1


def test_a_mode_that_fails_stops_no_other(compare, timing):
    theirs = Pretended({}, {"eager": 4.0, "graph": 1.0}, {"graph": "bfloat16"})
    found, told, _ = measured(compare, timing, theirs)
    assert {name: list(samples) for name, samples in found.items()} == {
        "tensorfloat32": ["lgjax", "eager", "graph"],
        "bfloat16": ["lgjax", "eager"],
    }
    assert told == [f"{METHOD}, bfloat16, graph: out of memory"]


def test_training_is_timed_and_has_no_maps(compare, timing):
    theirs = Pretended({}, {"eager": 4.0, "graph": 1.0})
    found, told, _ = measured(compare, timing, theirs, method="vae_train", modes={"eager"})
    assert {name: list(samples) for name, samples in found.items()} == {
        "tensorfloat32": ["lgjax", "eager"],
        "bfloat16": ["lgjax", "eager"],
    }
    assert told == []


@pytest.mark.parametrize(("found", "fits"), [(1e-4, True), (1.1e-4, False), (np.nan, False)])
def test_what_both_sides_compute_must_agree(found, fits):
    agree, notes = importlib.import_module("agreement").agree, {}
    if fits:
        agree("mean, eager", np.zeros(3), np.full(3, found), 1e-4, notes)
    else:
        with pytest.raises(SystemExit, match="mean, eager: lgjax and PyTorch differ by"):
            agree("mean, eager", np.zeros(3), np.array([0, found, 0]), 1e-4, notes)
    np.testing.assert_equal(notes, {"mean, eager": found})


class Agreeing:
    """A side that notes what it was asked in float32, and whose results are off by some error."""

    def __init__(self, error: float = 0.0):
        self.error, self.asked, self.weights = error, [], np.zeros(2)
        self.told = {"device": "NVIDIA H200", "driver": "580.1"}

    def machine(self):
        return self.told

    def versions(self):
        return {"torch": "2.13"}

    def variables(self, config):
        ends, head = {"low": np.float32(-25), "high": np.float32(25)}, {"bias": self.weights}
        networks = {"autoencoder": {"log_variance_head": head, "log_variance_range": ends}}
        return {"params": networks, "frozen": networks}

    def outputs(self, config, *_):
        return {"mean": np.zeros(3)}

    def tv_gradient(self, change):
        return np.zeros(3)

    def restored(self, config, frozen, method, *_):
        return self._answer(config, method)

    def trained(self, config, *_):
        return [{"kl": 1 + self._answer(config, "vae_train")}]

    def _answer(self, config, what):
        assert config.train.precision == config.restore.precision == "float32"
        self.asked.append(what)
        return self.error


def checked(config, ours, theirs, methods, before=None) -> dict[str, float]:
    """What both sides agree on, with or without agreements of an earlier run."""
    before = before or importlib.import_module("kept").Kept(None, {})
    check = importlib.import_module("agreement").check
    return check(config, ours.variables(config), ours, theirs, methods, before.part)


@pytest.mark.parametrize("methods", [("vae_elbo_tv",), ("vae_lg_est_tv", "vae_train"), ("vae_train",)])
def test_what_is_timed_is_checked_in_float32(compare, methods):
    config = compare.make_config(compare.arguments(["--device=gpu", "--output=F", "--smoke"]))
    ours, theirs = Agreeing(), Agreeing()
    found = checked(compare.at(config, "bfloat16"), ours, theirs, methods)
    assert ours.asked == list(methods)
    assert theirs.asked == [method for method in methods for _ in range(2)]  # eager, and channels last
    assert {name.partition(",")[0] for name in found} == {"mean", "gradient of tv", *methods}
    with pytest.raises(SystemExit, match=f"{methods[-1]}, eager: lgjax and PyTorch differ by"):
        checked(config, Agreeing(), Agreeing(0.006), methods[-1:])


@pytest.fixture
def kept(compare, tmp_path, monkeypatch):
    """A function that checks beside a file; returns what PyTorch was asked, the parts from the file, all figures."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)

    def run(methods=("vae_elbo_tv",), words=(), error=0.0, ours=None):
        ours, theirs = ours or Agreeing(), Agreeing(error)
        config = compare.make_config(compare.arguments(["--device=gpu", "--output=F", "--smoke", *words]))
        conditions = compare.conditions(config, ours.variables(config), ours, theirs)
        before = compare.Kept(tmp_path / "agreement.json", conditions)
        found = checked(config, ours, theirs, methods, before)
        return theirs.asked, before.reused, found

    return run


def test_what_an_earlier_run_checked_is_not_asked_again(kept):
    asked, reused, first = kept()
    assert (asked, reused) == (["vae_elbo_tv"] * 2, [])
    assert kept(words=["--iterations=9", "--slices=3", "--precisions=bfloat16"]) == (
        [],
        ["networks", "gradient of tv", "vae_elbo_tv"],
        first,
    )
    asked, reused, found = kept(methods=("vae_elbo_tv", "vae_train"))
    assert (asked, reused) == (["vae_train"] * 2, ["networks", "gradient of tv", "vae_elbo_tv"])
    assert found == {**first, "vae_train, eager": 0.0, "vae_train, eager_channels_last": 0.0}


@pytest.mark.parametrize("what", ["device", "driver", "torch", "weights", "networks", "flags", "damaged"])
def test_an_agreement_of_anything_else_does_not_count(kept, tmp_path, monkeypatch, what):
    assert kept()[1] == []
    ours, words = Agreeing(), []
    if what in ("device", "driver"):
        ours.told |= {what: "another"}
    elif what == "torch":
        monkeypatch.setattr(Agreeing, "versions", lambda side: {"torch": "another"})
    elif what == "weights":
        ours.weights += 1e-6
    elif what == "flags":
        monkeypatch.setenv("XLA_FLAGS", "--xla_another")
    elif what == "damaged":
        (tmp_path / "agreement.json").write_text('{"parts": ')
    else:
        monkeypatch.setattr(importlib.import_module("compare").experiment, "smoke", experiment.paper)
    asked, reused, _ = kept(words=words, ours=ours)
    assert (asked, reused) == (["vae_elbo_tv"] * 2, [])


def test_what_did_not_agree_is_not_kept(kept):
    with pytest.raises(SystemExit, match="vae_elbo_tv, eager: lgjax and PyTorch differ by"):
        kept(error=0.006)
    asked, reused, _ = kept()
    assert (asked, reused) == (["vae_elbo_tv"] * 2, ["networks", "gradient of tv"])


def test_ratios_compare_with_the_fastest_mode(record):
    samples = {"m": {"lgjax": [3.0, 1.0, 2.0], "slow": [9.0, 8.0, 9.0], "fast": [4.0, 4.0, 1.0]}, "n": {"lgjax": [1.0]}}
    assert record.summarise(samples) == {"ratios": {"m": 0.5}, "best": {"m": "fast"}, "samples": samples}
    with_graph = {"m": {**samples["m"], "lgjax_graph": [1.0]}}
    assert record.summarise(with_graph) == {
        "ratios": {"m": 0.5},
        "graph_ratios": {"m": 0.25},
        "best": {"m": "fast"},  # of PyTorch
        "samples": with_graph,
    }
    rows = [line.split() for line in record.table(samples).splitlines()[1:]]
    assert rows[1:3] == [["m", "slow", "9000.000", "8000.000", "0.22"], ["m", "fast", "4000.000", "1000.000", "0.50"]]


def test_the_record_of_one_precision_is_shaped_as_the_committed_ones(record):
    samples = {"m": {"lgjax": [2.0], "eager": [4.0]}}
    found = record.results({"float32": samples})
    assert found == {"precision": "float32", "ratios": {"m": 0.5}, "best": {"m": "eager"}, "samples": samples}
    committed = json.loads((ROOT / "benchmarks" / "peers_cpu.json").read_text())
    assert set(found) - {"precision"} <= set(committed)
    both = record.results({"tensorfloat32": samples, "bfloat16": {}})["precisions"]
    assert {name: each["ratios"] for name, each in both.items()} == {"tensorfloat32": {"m": 0.5}, "bfloat16": {}}


class Told(Pretended):
    """A side that says what it is."""

    def versions(self):
        return {"device": "cpu with 2 cores", "jax": "0.10.2"}

    def machine(self):
        return {}

    def variables(self, config):
        return {}

    def threads(self):
        return {}


@pytest.fixture
def run(compare, timing, monkeypatch, tmp_path):
    """A function that compares pretended sides, as if typed; returns the exit code."""

    def compared(ours: Told, theirs: Told, *words: str) -> int:
        sides = {"ours": ours, "trains": Told({}, {"lgjax": 3.0}), "theirs": theirs}
        monkeypatch.setattr(compare, "Remote", lambda name, *_: sides[name])
        monkeypatch.setattr(compare, "check", lambda *_: {"mean, eager": 1e-6})
        monkeypatch.setattr(compare, "silence", lambda variables: variables)
        monkeypatch.setattr(compare.os, "environ", {**compare.os.environ})
        flags = ("--device=cpu", f"--output={tmp_path / 'F.json'}", "--smoke", "--iterations=7")
        monkeypatch.setattr(sys, "argv", ["compare.py", *flags, *words])
        return compare.main()

    return compared


def test_every_turn_is_written_and_what_is_missing_is_named(run, tmp_path):
    """As where a time limit ends the run in its third turn."""
    ours, theirs, written = Told({}, {"lgjax": 1.0}), Told({}, {"eager": 2.0}), []

    def sample(mode):
        if len(theirs.sampled) == 2:
            raise SystemExit("ended")
        if theirs.sampled:
            written.append(json.loads((tmp_path / "F.json").read_text()))
        return Pretended.sample(theirs, mode)

    theirs.sample = sample
    with pytest.raises(SystemExit, match="ended"):
        run(ours, theirs, f"--methods={METHOD},vae_train", "--repeats=3")
    written.append(json.loads((tmp_path / "F.json").read_text()))
    assert [each["samples"] for each in written] == [
        {METHOD: {"lgjax": [1.0] * turns, "eager": [2.0] * turns}} for turns in (1, 2)
    ]
    for record in written:
        assert record["incomplete"] == [f"{METHOD}, float32", "vae_train, float32"]
        assert (record["ratios"], record["agreement"]) == ({METHOD: 0.5}, {"mean, eager": 1e-6})


@pytest.mark.parametrize(("device", "seconds"), [("cpu", 3.0), ("gpu", 1.0)])
def test_on_cpus_lgjax_trains_in_a_process_of_its_own(run, tmp_path, device, seconds):
    words = f"--device={device}", "--precisions=float32", "--repeats=2", f"--methods={METHOD},vae_train"
    assert run(Told({}, {"lgjax": 1.0}), Told({}, {"eager": 2.0}), *words) == 0
    samples = json.loads((tmp_path / "F.json").read_text())["samples"]
    assert samples[METHOD]["lgjax"] == [1.0, 1.0]
    assert samples["vae_train"]["lgjax"] == [seconds, seconds]


def test_a_run_that_comes_to_its_end_lacks_nothing_and_names_what_failed_last(run, tmp_path):
    ours, theirs = Told({}, {"lgjax": 1.0}), Told({}, {"eager": 2.0, "graph": 1.0})
    assert run(ours, theirs, f"--methods={METHOD}", "--repeats=2") == 0
    assert json.loads((tmp_path / "F.json").read_text())["incomplete"] == []
    ours.broken = {"lgjax": "tensorfloat32"}
    assert run(ours, theirs, f"--methods={METHOD}", "--repeats=2", "--precisions=float32,tensorfloat32") == 3
    record = json.loads((tmp_path / "F.json").read_text())
    assert record["incomplete"] == [f"{METHOD}, tensorfloat32"]
    assert record["faults"] == [f"{METHOD}, tensorfloat32, lgjax: out of memory"]


def test_the_turns_before_a_fault_of_ours_are_kept(compare, timing):
    ours, told = Pretended({}, {"lgjax": 2.0}), []

    def sample(mode):
        if len(ours.sampled) == 2:
            raise importlib.import_module("remote").RemoteFault("out of memory")
        return Pretended.sample(ours, mode)

    ours.scale, ours.sample = 1, sample
    assert list(timing.sample({"lgjax": ours}, 5, 1, told.append)) == [{"lgjax": [2.0]}, {"lgjax": [2.0, 2.0]}]
    assert told == ["lgjax: out of memory"]


def test_a_record_says_device_versions_and_command_and_no_place(compare, monkeypatch, tmp_path):
    monkeypatch.setattr(compare, "Remote", lambda *_: Told({}, {"lgjax": 1.0, "eager": 2.0}))
    monkeypatch.setattr(compare, "check", lambda *_: {})
    monkeypatch.setattr(compare, "silence", lambda variables: variables)
    monkeypatch.setattr(compare, "measure", lambda *_: [("float32", {"lgjax": [1.0], "eager": [2.0]})])
    monkeypatch.setattr(compare.os, "environ", {**compare.os.environ})
    words = ["--device=cpu", f"--output={tmp_path / 'F.json'}", "--smoke", f"--methods={METHOD}"]
    monkeypatch.setattr(sys, "argv", ["compare.py", *words])
    assert compare.main() == 0
    record = json.loads((tmp_path / "F.json").read_text())
    assert record["device"] == "cpu with 2 cores"
    assert record["versions"]["jax"] == "0.10.2"
    command = f"bash benchmarks/peers/compare.sh --device=cpu --output=F.json --smoke --methods={METHOD}"
    assert record["command"] == command


def test_what_is_timed_by_default_hangs_on_the_device(compare):
    cpu, gpu = (compare.arguments([f"--device={device}", "--output=F"]) for device in ("cpu", "gpu"))
    assert (cpu.precisions, gpu.precisions) == (("float32",), ("tensorfloat32", "bfloat16"))
    assert compare.PRECISIONS == precision.CHOICES
    sizes = [(compare.make_config(options).restore.batch_size, options.methods) for options in (cpu, gpu)]
    assert sizes == [(24, compare.METHODS), (64, compare.METHODS)]


@pytest.mark.parametrize(
    ("word", "told"),
    [("--precisions=float32,half", "half: choose among float32"), ("--methods=gmm", "gmm: choose among vae_lg")],
)
def test_an_unknown_name_is_told(compare, capsys, word, told):
    with pytest.raises(SystemExit) as ended:
        compare.arguments(["--device=cpu", "--output=F", word])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_an_unknown_mode_is_told(compare):
    theirs = Pretended({}, {"eager": 1.0, "graph": 1.0})
    assert compare.choose_modes("graph", theirs, [METHOD]) == {"graph"}
    assert compare.choose_modes("", theirs, [METHOD]) == set()
    with pytest.raises(SystemExit, match="--modes: fast: choose among eager, graph"):
        compare.choose_modes("graph,fast", theirs, [METHOD])


def test_what_is_timed_ran_twice_before(compare):
    """Compilers make CUDA graphs at a second run."""
    module = importlib.import_module("side")
    side, runs = module.Side(), []
    side._restorer = lambda *_: lambda: runs.append(None) or len(runs)
    assert side.prepare(None, {"frozen": {}}, METHOD, "graph", None) == 2
    side.sample("graph")
    assert len(runs) == 3


def test_our_training_takes_as_many_steps_in_a_dispatch_as_the_product(compare, monkeypatch):
    ours = importlib.import_module("ours")
    config = compare.make_config(compare.arguments(["--device=cpu", "--output=F", "--smoke", "--iterations=20"]))
    side, rows = ours.Side.__new__(ours.Side), []
    side.mesh = ours.devices.mesh()

    def steps(*_):
        return lambda state, data, given: (state, rows.append(given.tolist()))

    monkeypatch.setattr(ours.feeding, "make_steps", steps)
    config.train.steps_per_dispatch = ours.feeding.DISPATCHED
    slices = np.zeros((3, 4, 4, 1), np.float32)
    side._training_run(config, {"params": {}, "batch_stats": {}}, "lgjax", (slices, slices))()
    assert rows == [[[0, 1, 2]] * 10] * 2
