"""Every number of every config has bounds, which are checked before anything is read."""

import importlib

import ml_collections
import pytest
from absl import flags

from lgjax.cli import configs, parse
from lgjax.methods import names
from lgjax.models import MODELS, precision
from lgjax.runtime.errors import UsageError
from lgjax.workdir import bounds

VARIANTS = {
    "vae": ("paper", "smoke", "authors", "smoke_authors"),
    "eval": ("standard",),
    "detection": ("standard", "smoke"),
    "restorer": ("detection", "paper", "smoke"),
}
ALL = [(name, variant) for name in configs.names() for variant in VARIANTS.get(name, ("paper", "smoke"))]
COMMANDS = {"data": "preprocess", "eval": "eval", "bench": "bench"}


def config_of(name: str, variant: str) -> ml_collections.ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(variant)


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_every_value_of_every_config_has_a_bound_and_keeps_to_it(name, variant):
    config = config_of(name, variant)
    bounds.check(config)
    paths = [path for path, _ in bounds.leaves(config)]
    without = [path for path in paths if path.removeprefix("experiments.") == path and path not in bounds.BOUNDS]
    assert without == []


def test_every_bound_is_of_a_value():
    known = {path for name, variant in ALL for path, _ in bounds.leaves(config_of(name, variant))}
    assert set(bounds.BOUNDS) <= known


def test_choices_are_those_of_the_code():
    assert bounds.PRECISIONS == precision.CHOICES
    assert set(MODELS) - set(bounds.BOUNDS["train_models"].expected.replace(",", " ").split()) == {"dae", "restorer"}


WRONG = [
    ("vae", "restore.false_positive_volumes", "(1.0,1.0)"),
    ("vae", "restore.false_positive_volumes", "(0.0,)"),
    ("vae", "restore.false_positive_volumes", "(5000.0,)"),
    ("vae", "restore.false_positive_volumes", "(1.2345678,)"),
    ("vae", "seed", "-1"),
    ("vae", "data.height", "65"),
    ("vae", "data.width", "100"),
    ("vae", "data.height", "0"),
    ("vae", "data.spacing", "0"),
    ("vae", "data.spacing", "nan"),
    ("vae", "data.saturation", "(1.5,)"),
    ("vae", "data.saturation", "(1.5,-2.0)"),
    ("vae", "data.saturation", "(0.0,1.5)"),
    ("vae", "data.saturation", "(-2.0,0.5,1.5)"),
    ("vae", "data.workers", "0"),
    ("vae", "data.workers", "100000"),
    ("vae", "data.train_subjects", "0"),
    ("vae", "data.read_processes", "-1"),
    ("vae", "data.source", ""),
    ("vae", "data.resident", "yes"),
    ("vae", "train.batch_size", "0"),
    ("vae", "train.batch_size", "2.5"),
    ("vae", "train.steps", "1e5"),
    ("vae", "train.steps", "many"),
    ("vae", "train.learning_rate", "-1"),
    ("vae", "train.learning_rate", "0"),
    ("vae", "train.learning_rate", "inf"),
    ("vae", "train.momentum", "1"),
    ("vae", "train.flip", "0.3"),
    ("vae", "model.channels", "()"),
    ("vae", "model.channels", "(8,0)"),
    ("vae", "model.channels", "(8,1.5)"),
    ("vae", "model.latent_channels", "0"),
    ("vae", "model.reconstruction_weight", "0"),
    ("vae", "model.variance_floor", "-0.1"),
    ("vae", "model.variance_channels", "()"),
    ("vae", "restore.iterations", "0"),
    ("vae", "restore.samples_est", "1"),
    ("vae", "restore.false_positive_rates", "()"),
    ("vae", "restore.false_positive_rates", "(0.01,0.01)"),
    ("vae", "restore.false_positive_rates", "(0.01,1.0)"),
    ("vae", "restore.mask_rate", "0.02"),
    ("vae", "restore.deviation_limit", "-inf"),
    ("vae", "calibrate.ssim", "1"),
    ("vae", "calibrate.smallest_lambda", "5000"),
    ("vae", "calibrate.largest_lambda", "nan"),
    ("vae", "gmm.classes", "4"),
    ("vae", "gmm.kappa", "0"),
    ("vae", "name", "../x"),
    ("aae", "model.discriminator_features", "(0,)"),
    ("aae", "model.gradient_penalty", "-1"),
    ("gmvae", "model.clusters", "0"),
    ("anogan", "restore.feature_weight", "1.5"),
    ("dae", "train.noise_cells", "0"),
    ("dae", "data.height", "60"),
    ("data", "spacing", "-3"),
    ("data", "height", "0"),
    ("data", "workers", "0"),
    ("data", "bias_field.levels", "0"),
    ("data", "bias_field.correct", "perhaps"),
    ("data", "histogram.percentiles", "(1.0,)"),
    ("data", "histogram.percentiles", "(50.0,10.0)"),
    ("data", "histogram.percentiles", "(0.0,101.0)"),
    ("data", "brain.stripper", "bet"),
    ("eval", "connectivity", "8"),
    ("eval", "lesion_share", "0"),
    ("eval", "least_subjects", "1"),
    ("eval", "family_error", "1"),
    ("bench", "repeats", "0"),
    ("bench", "run_seconds", "-1"),
    ("bench", "peak_sizes", "()"),
    ("bench", "train_models", "('vea',)"),
    ("bench", "experiments.vae.train.batch_size", "0"),
    ("bench", "experiments.gmvae.data.height", "65"),
]


@pytest.mark.parametrize(("name", "path", "value"), WRONG)
def test_a_value_out_of_bounds_is_one_line_before_anything_is_read(tmp_path, monkeypatch, name, path, value):
    monkeypatch.chdir(tmp_path)
    command = COMMANDS.get(name, "train")
    with pytest.raises(UsageError) as caught:
        parse.parse(command, [command, f"--config={name}", f"--config.{path}={value}"], flags.FlagValues())
    said = str(caught.value)
    assert said.startswith(f"--config.{path}=")
    assert "expected " in said or "gmm.classes" in path
    assert "\n" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.height", "96"),
        ("data.height", 64.0),
        ("seed", True),
        ("train.steps", None),
        ("train.learning_rate", "1e-3"),
        ("restore.method", 3),
        ("model.channels", 8),
        ("restore.score", None),
    ],
)
def test_a_value_of_another_type_in_a_file_is_refused(path, value):
    config = config_of("vae", "smoke")
    part, _, field = path.rpartition(".")
    values = config[part] if part else config
    with values.ignore_type():
        values[field] = value
    with pytest.raises(UsageError, match=rf"--config\.{path}="):
        bounds.check(config)


def test_what_is_unusual_and_right_is_taken():
    config = config_of("vae", "smoke")
    unusual = {"seed": 2**31 - 1, "data.spacing": 1, "train.steps": 1, "restore.tolerance": 0}
    for path, value in (*unusual.items(), ("data.saturation", (-2.0, 1.5)), ("data.saturation", ())):
        part, _, field = path.rpartition(".")
        values = config[part] if part else config
        with values.ignore_type():
            values[field] = value
        bounds.check(config)
    dae = config_of("dae", "smoke")
    dae.data.height = dae.data.width = 16  # of five levels, four halve
    bounds.check(dae)
    assert names.parse(dae.restore.method)
