"""No lesion label is read in training or calibration: every healthy scan here has labels that must not be opened."""

import dataclasses

import images
import numpy as np
import pytest

from configs import detection
from lgjax import train
from lgjax.calibration import procedure
from lgjax.methods import names
from lgjax.preparation import cohort, recipe
from lgjax.runtime import shares
from lgjax.scans import sources, synthetic
from lgjax.training import twins
from lgjax.workdir import preparation

LABELS = ("lesion", "displaced", "guess")
BARE = recipe.bare(recipe.Grid(16, 16, 12.0))
BASELINES = [name for name, method in names.available().items() if not method.model]


class Read(Exception):
    """A label was read."""


def forbidden(*_):
    raise Read


@pytest.fixture(autouse=True)
def guarded(monkeypatch):
    """Every subject that training and calibration are given has all labels, which tell when they are read."""
    found = cohort.healthy

    def healthy(source, split):
        return [dataclasses.replace(one, **dict.fromkeys(LABELS, forbidden)) for one in found(source, split)]

    monkeypatch.setattr(cohort, "healthy", healthy)


@pytest.fixture
def folder(tmp_path):
    """Twelve healthy scans."""
    rng = np.random.default_rng(0)
    for number in range(12):
        data = images.head((20, 24, 10), seed=number)
        noise = rng.gamma(2.0, 5.0, data.shape)
        images.save(tmp_path / "scans" / f"s{number}.nii", np.where(data > 0, data + noise + 40, 0).astype(np.float32))
    return tmp_path / "scans"


def small(config, folder):
    config.data.source = str(folder)
    config.data.height = config.data.width = 16
    config.data.spacing = 2.0
    return config


@pytest.mark.parametrize("method", BASELINES)
def test_calibration_without_a_model_reads_none(method, folder, tmp_path, mesh1):
    config = small(detection.get_config("smoke"), folder)
    config.gmm.atlas = "none"
    config.calibrate.slices, config.calibrate.lambdas, config.calibrate.tolerance = 8, 2, 10.0
    preparation.begin(config, tmp_path / "w")
    found = procedure.from_config(config, tmp_path / "w", mesh1)(names.parse(method))
    assert len(found.subjects) > 5


def test_training_and_calibration_of_a_model_read_none(config, folder, tmp_path, mesh1):
    small(config, folder)
    config.train.steps, config.restore.closed_steps = config.train.checkpoint_every, 20
    config.calibrate.slices, config.calibrate.lambdas, config.calibrate.tolerance = 4, 2, 10.0
    train.train(config, tmp_path / "w", mesh1)
    calibrate = procedure.from_config(config, tmp_path / "w", mesh1)
    for method in ("vae_reconstruction", "vae_reconstruction_mirror_tv3d"):
        assert calibrate(names.parse(method)).voxels > 1000


def test_the_phantom_gives_brains_to_train_calibrate_and_judge_without_their_labels(monkeypatch):
    """The mask of the brain is no label; a training that is judged on patients knows their healthy twins alone."""
    part, pairs = synthetic._part, synthetic.twins

    def no_label(request, name):
        return forbidden() if name in LABELS else part(request, name)

    monkeypatch.setattr(synthetic, "_part", no_label)
    monkeypatch.setattr(synthetic, "twins", lambda spec: pairs(spec)[:1])
    source = cohort.Source("phantom@10", 1, 1)
    for split in ("train", "calibration"):
        everybody = shares.alone(cohort.healthy(source, split))
        (count,) = cohort.load(everybody, BARE, 1, "", lambda each: len(each.slices.number)).own
        assert count > 5
    assert len(twins.load(source, BARE, 1).mask) > 5


def test_the_guard_tells(folder):
    """Else the tests above could not fail."""
    one = cohort.healthy(cohort.Source(str(folder), 1, 12), "train")[0]
    for label in LABELS:
        with pytest.raises(Read):
            getattr(one, label)()
    assert sources.find(str(folder))[0].lesion is None
