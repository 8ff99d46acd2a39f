"""Configs: recorded, compared, found again from a command line, and read by the code down to the last value."""

import importlib
import json
import os
import pathlib
import re

import jax
import ml_collections
import pytest
from absl import flags
from conftest import ROOT

from configs import dae
from lgjax import models
from lgjax.cli import commands, configs
from lgjax.cli.recorded import recorded_config
from lgjax.methods import names as methods
from lgjax.models import MODELS
from lgjax.runtime import files
from lgjax.runtime.errors import InputError, UsageError
from lgjax.training import settings, step
from lgjax.workdir import bounds, calibrations, experiment
from lgjax.workdir import recorded as recorded_configs


def leaves(config, prefix=()):
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from leaves(value, (*prefix, name))
        else:
            yield (*prefix, name)


def source() -> str:
    return "\n".join(path.read_text() for path in sorted((ROOT / "lgjax").rglob("*.py")))


CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "common")
EXPERIMENTS = [name for name in CONFIGS if name not in ("data", "bench", "eval", "detection")]  # of models


def variants(name):
    """All configs of one file by variant."""
    module = importlib.import_module(f"configs.{name}")
    names = getattr(module, "VARIANTS", ("paper", "smoke"))
    return {variant: module.get_config(variant) for variant in names}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_value_is_read_somewhere(name):
    code = source()
    for config in variants(name).values():
        unread = [".".join(path) for path in leaves(config) if not re.search(rf"[.\"]{path[-1]}\b", code)]
        assert not unread


def test_every_value_that_is_read_exists():
    """`config.part.name` in the source names a value of some file in configs/."""
    known = {".".join(path) for name in CONFIGS for config in variants(name).values() for path in leaves(config)}
    parts = {path.split(".")[0] for path in known if "." in path}
    read = set(re.findall(rf"\bconfig\.({'|'.join(parts)})\.([a-z_]+)", source()))
    assert read
    assert {f"{part}.{name}" for part, name in read} <= known


@pytest.mark.parametrize("name", CONFIGS)
def test_variants_have_the_same_values(name):
    first, *others = found = list(variants(name).values())
    assert len({config.name for config in found}) == len(found)
    for config in others:
        assert list(leaves(config)) == list(leaves(first))
    with pytest.raises(ValueError, match=", ".join([*variants(name)][:2])):
        importlib.import_module(f"configs.{name}").get_config("smaller")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_variants_fit_their_models(name):
    for config in variants(name).values():
        assert config.name.startswith(config.model.name)
        halved = 2 ** len(config.model.channels)
        assert config.data.height % halved == config.data.width % halved == 0
        assert methods.parse(config.restore.method).model == config.model.name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_networks_of_every_config_can_be_made(name):
    """Shapes only: nothing is computed at the paper's size."""
    for config in variants(name).values():
        state = step.state_shapes(models.from_config(config, config.train.precision), settings.from_config(config))
        assert jax.tree.leaves(state.variables["params"])


def test_there_is_a_config_for_every_model():
    assert {config.model.name for name in EXPERIMENTS for config in variants(name).values()} == set(MODELS)


def test_scans_are_prepared_for_the_models_of_the_same_variant(experiments):
    for variant, config in variants("data").items():
        data = experiments.get_config(variant).data
        assert (config.height, config.width, config.spacing) == (data.height, data.width, data.spacing)


def test_presets_differ_in_values_alone(experiments):
    """What docs/method.md says that the authors' code did, and nothing else."""
    for ours, theirs in (("paper", "authors"), ("smoke", "smoke_authors")):
        paper, authors = (experiments.get_config(name) for name in (ours, theirs))
        pairs = zip(leaves(paper), leaves(authors), strict=True)
        assert all(a == b for a, b in pairs)
        differing = {
            ".".join(path) for path in leaves(paper) if value(paper, path) != value(authors, path) and path != ("name",)
        }
        assert differing == {
            "model.reconstruction_weight",
            "model.variance_target",
            "restore.variance_at",
            "restore.deviation_limit",
        }
    assert authors.restore.deviation_limit == 70.7
    assert experiments.get_config("authors").model.reconstruction_weight == 5


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("model.variance_target", "absolut"),
        ("restore.variance_at", "y"),
        ("restore.score", "signed"),
        ("restore.slice_step", 0),
        ("train.schedule", "linear"),
        ("train.precision", "tf32"),
        ("restore.precision", "float16"),
        ("train.steps_per_dispatch", -1),
        ("train.checkpoint_every", 0),
        ("train.flip", 0.3),
        ("train.intensity", -0.1),
        ("restore.checkpoint", "newest"),
        ("restore.samples_neural", 0),
        ("restore.optimizer", "sgd"),
        ("restore.tolerance", -1.0),
        ("restore.batch_size", -1),
        ("restore.mask_rate", 0.02),
        ("calibrate.tolerance", 0.0),
        ("gmm.atlas", "talairach"),
        ("gmm.classes", 4),
    ],
)
def test_unknown_values_are_refused_before_anything_is_done(config, tmp_path, name, wrong):
    part, field = name.split(".")
    config[part][field] = wrong
    with pytest.raises(UsageError, match=f"{name}={wrong}"):
        experiment.record(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_rates_that_are_none_are_refused_before_anything_is_done(config):
    config.restore.false_positive_rates = (0.01, 1.5)
    with pytest.raises(UsageError, match=r"false_positive_rates=0.01, 1.5: expected"):
        experiment.check(config)


def diverges(sigma2: float, eta: float) -> bool:
    """Whether X <- X - eta (X - mu) / sigma2 takes X ever farther from mu = 0."""
    x = 1.0
    for _ in range(2000):
        x -= eta * x / sigma2
    return abs(x) >= 1


def refused(config, method: str) -> bool:
    config.restore.method = method
    try:
        experiment.check(config)
    except UsageError as error:
        return f"{method} with --config.restore.optimizer=gradient diverges where sigma2 <= eta / 2" in str(error)
    return False


@pytest.mark.parametrize("eta", [0.0199, 0.02, 0.0201])
def test_equation_4_as_printed_is_refused_where_it_diverges(config, eta):
    config.restore.optimizer, config.restore.learning_rate = "gradient", eta
    config.model.variance_floor, config.model.reconstruction_weight = 0.01, 25.0
    for method, sigma2 in (("vae_lg_neural_tv", 0.01), ("vae_lg_est_l1", 0.01), ("vae_elbo_tv", 1 / 50)):
        assert refused(config, method) == diverges(sigma2, eta)
        config.restore.optimizer = "adam"
        assert not refused(config, method)
        config.restore.optimizer = "gradient"
    config.model.reconstruction_weight = 50.0
    assert refused(config, "vae_elbo_tv") == diverges(1 / 100, eta)
    assert not refused(config, "vae_reconstruction")  # which iterates nothing
    assert not refused(config, "vae_reconstruction_tv3d")  # nor this one, whatever the optimizer
    assert not refused(dae.get_config(), "dae_reconstruction_tv3d")  # whose config names none


def test_equation_4_as_printed_is_refused_with_the_values_of_the_paper(experiments):
    config = experiments.paper()
    experiment.check(config)
    config.restore.optimizer = "gradient"
    assert refused(config, "vae_lg_neural_tv")


def test_every_choice_is_known(config):
    for name, bound in bounds.BOUNDS.items():
        part, _, field = name.partition(".")
        for choice in bound.choices if field and field in config.get(part, ()) else ():
            config[part][field] = choice
            experiment.check(config)


def value(config, path):
    for name in path:
        config = config[name]
    return config


def test_paper_values(experiments):
    """docs/method.md; the numbers of the paper's experiment."""
    config = experiments.paper()
    assert config.model.channels == (8, 16, 32, 64, 128, 256)
    assert config.model.latent_channels == 256
    assert config.model.variance_channels == (8, 16, 8)
    assert (config.train.learning_rate, config.train.batch_size, config.train.steps) == (2e-5, 64, 193_000)
    assert config.train.flip == config.train.intensity == 0
    assert (config.restore.optimizer, config.restore.learning_rate, config.restore.iterations) == ("adam", 5e-3, 800)
    assert config.restore.tolerance == 0
    assert (config.restore.samples_est, config.restore.samples_neural, config.restore.score) == (10, 1, "absolute")
    assert config.calibrate.ssim == 0.95
    assert config.restore.false_positive_rates == (0.001, 0.005, 0.01, 0.05)
    assert config.train.precision == config.restore.precision == "float32"


@pytest.mark.usefixtures("deep")
def test_record_round_trip(config, tmp_path):
    experiment.record(config, tmp_path / "w")
    recorded = experiment.get_config(str(tmp_path / "w" / "config.json"))
    assert experiment.as_json(recorded) == experiment.as_json(config)
    assert experiment.as_json(config)["model"]["channels"] == [4, 8]
    experiment.record(recorded, tmp_path / "w")  # read back, it is the same experiment


def test_an_earlier_record_says_what_was_done_then(config, tmp_path):
    experiment.record(config, tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    for part, added in recorded_configs.ADDED.items():
        for name in added:
            del values[part][name]
    for name in (*recorded_configs.ADDED_TO_ASCENT, *recorded_configs.ADDED_TO_AUTOENCODERS):
        del values["restore"][name]
    del values["calibrate"]["tolerance"]
    values["calibrate"]["bisections"] = 3
    path.write_text(json.dumps(values))
    recorded = experiment.get_config(str(path))
    assert recorded.train.precision == recorded.restore.precision == "tensorfloat32"
    assert recorded.train.steps_per_dispatch == 1
    assert (recorded.train.flip, recorded.train.intensity, recorded.restore.checkpoint) == (0, 0, "last")
    assert (recorded.restore.false_positive_rates, recorded.restore.mask_rate) == ((0.001, 0.005, 0.01, 0.05), 0.01)
    assert recorded.calibrate == config.calibrate  # from now on by tolerance
    assert (recorded.restore.optimizer, recorded.restore.tolerance) == (config.restore.optimizer, 0)
    assert (recorded.restore.variance_form, recorded.restore.decoder_form) == ("plain", "plain")
    assert recorded.train.learning_rate == config.train.learning_rate
    experiment.check_workdir(config, tmp_path)


def test_record_takes_new_values_that_weights_do_not_depend_on(config, tmp_path):
    experiment.record(config, tmp_path)
    config.train.steps = 99
    config.restore.iterations = 7
    experiment.record(config, tmp_path)
    assert experiment.get_config(str(tmp_path / "config.json")).train.steps == 99


@pytest.mark.parametrize(
    ("name", "value"),
    [("data.height", 32), ("model.channels", (4, 8, 16)), ("model.name", "gmvae"), ("data.source", "d")],
)
def test_record_refuses_another_experiment(config, tmp_path, name, value):
    experiment.record(config, tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UsageError, match=re.escape(name)):
        experiment.record(config, tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_a_damaged_record_is_an_input_error(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        experiment.get_config(str(path))


def test_a_missing_record_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        experiment.get_config(str(tmp_path / "config.json"))


def recorded(argv) -> flags.FlagValues:
    """What restore's --config and --workdir are for a command line."""
    values = flags.FlagValues()
    commands.COMMANDS["restore"].define(values)
    values(configs.define(recorded_config(argv, values), argv, values))
    return values


def test_a_given_config_is_left_alone(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment.record(config, tmp_path / "runs" / "seven")
    experiment.record(config, tmp_path / "w")
    pathlib.Path("c.py").write_text(
        "import ml_collections\n\ndef get_config():\n    return ml_collections.ConfigDict({'a': 7, 'name': 'seven'})\n"
    )
    for argv in (
        ["restore", "--config=c.py", "scan.nii.gz"],
        ["restore", "--config", "c.py"],
        ["restore", "-config=c.py", "--workdir=w"],
    ):
        assert recorded(argv).config.a == 7


@pytest.mark.parametrize("form", ["--workdir={}", "-workdir={}", "--workdir {}"])
def test_config_of_a_given_workdir(config, tmp_path, form):
    workdir = tmp_path / "my runs" / "a=b"
    config.seed = 23
    experiment.record(config, workdir)
    words = [word.format(workdir) for word in form.split(" ")]
    found = recorded(["restore", *words, "scan.nii.gz"])
    assert (found.config.seed, found.workdir) == (23, str(workdir))


def test_of_two_workdirs_the_last_counts_with_its_own_config(config, tmp_path):
    for seed, name in enumerate("ab"):
        config.seed = seed
        experiment.record(config, tmp_path / name)
    found = recorded(["restore", f"--workdir={tmp_path / 'a'}", f"--workdir={tmp_path / 'b'}"])
    assert (found.config.seed, found.workdir) == (1, str(tmp_path / "b"))


def test_a_workdir_without_config(tmp_path):
    with pytest.raises(UsageError, match=r"no config\.json"):
        recorded(["restore", f"--workdir={tmp_path}"])


def test_workdir_without_a_value():
    """The flag's value was forgotten: a usage error, not a traceback."""
    with pytest.raises(UsageError, match="lacks its value"):
        recorded(["restore", "scan.nii.gz", "--workdir"])


def test_a_scan_called_workdir(config, tmp_path):
    experiment.record(config, tmp_path)
    assert recorded(["restore", "workdir", f"--workdir={tmp_path}"]).workdir == str(tmp_path)


def test_newest_trained_then_newest_calibrated(config, tmp_path, monkeypatch, trained_into):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="nothing is trained"):
        recorded(["restore", "scan.nii.gz"])
    for age, name in enumerate(("old", "new")):
        config.seed = age
        trained_into(config, experiment.RUNS / name)
        os.utime(experiment.RUNS / name / "config.json", (1000 + age, 1000 + age))

    def chosen():
        found = recorded(["restore", "scan.nii.gz"])
        assert found.workdir == f"runs/{('old', 'new')[found.config.seed]}"
        return pathlib.Path(found.workdir).name

    assert chosen() == "new"
    # A calibrated one goes before one that is only trained.
    calibration = calibrations.path(experiment.RUNS / "old", "intensity")
    calibration.parent.mkdir()
    calibration.write_text("{}")
    assert chosen() == "old"
    second = calibrations.path(experiment.RUNS / "new", "intensity")
    second.parent.mkdir()
    second.write_text("{}")
    os.utime(calibration, (5000, 5000))
    os.utime(second, (6000, 6000))
    assert chosen() == "new"


@pytest.mark.usefixtures("deep")
def test_the_recorded_config_parses_and_can_be_overridden(config, tmp_path):
    config.train.learning_rate = 0.0123
    experiment.record(config, tmp_path)
    found = recorded(["restore", f"--workdir={tmp_path}", "--config.restore.iterations=9", "scan.nii.gz"])
    assert found.config.train.learning_rate == 0.0123
    assert found.config.restore.iterations == 9
    assert found.config.model.channels == (4, 8)
    rates = recorded(["restore", f"--workdir={tmp_path}", "--config.restore.false_positive_rates=(0.02,0.3)"])
    assert rates.config.restore.false_positive_rates == (0.02, 0.3)


def test_default_workdir(config):
    assert experiment.default_workdir(config).as_posix() == "runs/tiny"


def test_digest():
    assert files.digest({"a": 1, "b": [2]}) == files.digest({"b": [2], "a": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 2})


def test_calibration_belongs_to_its_config_and_weights(config, tmp_path):
    path = calibrations.path(tmp_path, "intensity")
    with pytest.raises(InputError, match="not calibrated"):
        calibrations.load(config, tmp_path, "intensity", "w", "r")
    digests = (calibrations.digest(config), "w", "r")
    thresholds = {"signed": {"0.005": 3.0, "0.01": 2.0}}
    config.restore.false_positive_rates = (0.01, 0.005)  # in any order
    written = calibrations.Calibration("intensity", None, None, 9, thresholds, ["s"], *digests, "", {})
    assert calibrations.write(tmp_path, written) == path
    assert calibrations.load(config, tmp_path, "intensity", "w", "r") == written
    calibrations.load(config, tmp_path, "intensity", "w", "r")
    with pytest.raises(UsageError, match="prepared otherwise"):
        calibrations.load(config, tmp_path, "intensity", "w", "q")
    with pytest.raises(UsageError, match="other weights"):
        calibrations.load(config, tmp_path, "intensity", "v", "r")
    for name, value in (
        ("restore.batch_size", 1),
        ("restore.traced", False),
        ("restore.cuda_graphs", True),
        ("data.workers", 9),
        ("data.resident", "never"),
        ("data.read_processes", 3),
        ("restore.score", "positive"),
        ("restore.checkpoint", "last"),  # the weights that it means have their own digest
        ("restore.false_positive_rates", (0.005,)),  # a threshold does not depend on the others
        ("restore.mask_rate", 0.005),
        ("train.steps", 1),
        ("train.steps_per_dispatch", 4),
    ):
        other = config.copy_and_resolve_references()
        other.update_from_flattened_dict({name: value})
        calibrations.load(other, tmp_path, "intensity", "w", "r")
    for name, value in (
        ("restore.iterations", 5),
        ("restore.learning_rate", 1.0),
        ("restore.optimizer", "proximal"),
        ("restore.refreshes", 5),
        ("restore.dual_steps", 5),
        ("restore.tolerance", 0.1),
        ("restore.samples_est", 5),
        ("restore.precision", "bfloat16"),
        ("restore.precision", "tensorfloat32"),
        ("model.variance_floor", 0.5),
        ("data.spacing", 9.0),
        ("seed", 8),
    ):
        other = config.copy_and_resolve_references()
        other.update_from_flattened_dict({name: value})
        with pytest.raises(UsageError, match="other settings"):
            calibrations.load(other, tmp_path, "intensity", "w", "r")
    config.restore.false_positive_rates = (0.002, 0.01)
    with pytest.raises(UsageError, match=r"no threshold for the false positive rate 0\.002\. Run .*lgjax\.calibrate"):
        calibrations.load(config, tmp_path, "intensity", "w", "r")
    path.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        calibrations.load(config, tmp_path, "intensity", "w", "r")
