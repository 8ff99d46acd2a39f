"""What calibration computes, against NumPy and scikit-image: a restoration that is known takes the networks' place."""

import functools
import json
import logging
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import together
from scipy import ndimage
from skimage.metrics import structural_similarity

import lgjax
from configs import detection
from lgjax.calibration import procedure, tails
from lgjax.calibration.procedure import Goal
from lgjax.methods import gmm, mirror, names
from lgjax.methods.runner import Pace, Settings
from lgjax.preparation import cohort, pipeline, recipe
from lgjax.preparation.midplane import Mirror, Plane
from lgjax.preparation.slices import Grid
from lgjax.runtime import devices, shares
from lgjax.runtime.errors import UsageError
from lgjax.workdir import calibrations, preparation, weights
from lgjax.workdir.calibrations import Calibration
from lgjax.workdir.weights import Trained

SHAPE = (24, 24, 9)
SPACING = 2.0  # mm, of scans and slices alike: a slice holds the scan's own voxels
GOAL = Goal(ssim=0.95, slices=13, smallest_lambda=0.1, largest_lambda=1000.0, lambdas=9, tolerance=0.02)
RATES = ("0.002", "0.01", "0.07")
VOLUMES = ("1", "5")
SETTINGS = Settings(seed=0, precision="float32", batch_size=0, mixture=gmm.Settings())


class Known:
    """A runner that restores X = Y lambda / (1 + lambda) inside the brain, in batches of five slices."""

    diverges = False

    settings = None  # of the last one

    size, timed, busy, kernels = 5, (), 0.0, "XLA"  # slices; nothing; s; whose

    def __init__(self, method, settings, *_):
        """Takes what `Runner` takes."""
        self.method, Known.settings = method, settings

        self.whole_volumes = method.volume

    def __call__(self, slices, strengths, known=None):
        step = len(strengths) if self.whole_volumes else self.size
        for start in range(0, len(strengths), step):
            yield self.batch([part[start : start + step] for part in (*slices, strengths)], step)

    def batch(self, part, size=size):
        y, mask, _, strength = (array[:size] for array in part)
        kept = (strength / (1 + strength))[:, None, None, None]
        return np.where(mask > 0, kept * y, y) + (np.inf if self.diverges else 0), None

    def pace(self):
        return Pace(None, None)

    def taken(self, traces):
        return None


def scan(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright, textured ellipsoid with a margin, and its mask; the brain of each slice has another size."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    mask = sum((axis / radius) ** 2 for axis, radius in zip(axes, (0.8, 0.7 + 0.05 * seed, 1.2), strict=True)) < 1
    return np.where(mask, 500 + 40 * axes[0] + rng.gamma(2.0, 30.0, SHAPE), 0), mask


@pytest.fixture(scope="module")
def scans():
    """Three scans and masks."""
    return [scan(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def prepared(scans):
    """The same, prepared by the product."""
    affine = np.diag([SPACING, SPACING, 5.0, 1.0])
    bare = recipe.bare(Grid(24, 24, SPACING))
    subjects = [lgjax.read(data, affine, mask=mask, name=f"s{i}") for i, (data, mask) in enumerate(scans)]
    return [pipeline.prepare(subject, bare) for subject in subjects]


@pytest.fixture(scope="module")
def standardised(scans):
    """Z-scored voxels of each scan, [X, Y, Z] float64, by NumPy; 0 outside the brain."""
    return [np.where(mask, (data - data[mask].mean()) / data[mask].std(), 0) for data, mask in scans]


@pytest.fixture
def calibrated(prepared, monkeypatch, tmp_path, caplog):
    """Calibrates a method by the product, with the known runner."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(procedure, "Runner", Known)
    trained = SimpleNamespace(
        params=None, digest="w", recipe=recipe.bare(Grid(24, 24, SPACING)), describe=lambda _: "made-up scans"
    )

    def calibrate(name: str, goal: Goal | None = GOAL, settings: Settings | None = None, share=shares.alone):
        wanted = {"rates": RATES, "volumes": VOLUMES, "score": "positive"}
        values = wanted | {"settings": settings, "model": None, "trained": trained, "digest": "c" * 64}
        values["healthy"] = share(prepared)
        mesh = devices.mesh(jax.devices()[:1])
        return procedure.calibrate(names.parse(name), goal=goal, workdir=tmp_path, mesh=mesh, **values)

    return calibrate


def similarity(prepared, strength: float) -> float:
    """Mean SSIM over evenly spaced slices of all subjects, by scikit-image, of what `Known` restores."""
    y = np.concatenate([subject.slices.y for subject in prepared])[..., 0]
    mask = np.concatenate([subject.slices.mask for subject in prepared])[..., 0] > 0
    low, high = np.percentile(y[mask], [0.5, 99.5])
    found = []
    for k in np.linspace(0, len(y) - 1, GOAL.slices).round().astype(int):
        x = np.where(mask[k], y[k] * np.float32(strength / (1 + strength)), y[k])
        found.append(structural_similarity(x, y[k], win_size=7, data_range=high - low, full=True)[1][mask[k]].mean())
    return float(np.mean(found))


def test_slices_hold_the_voxels(prepared, standardised):
    """The premise of this file."""
    assert len(np.concatenate([subject.slices.y for subject in prepared])) > 2 * GOAL.slices - 5
    for subject, z in zip(prepared, standardised, strict=True):
        for slice_, inside, k in zip(subject.slices.y, subject.slices.mask, subject.slices.number, strict=True):
            values = np.sort(slice_[inside > 0])
            np.testing.assert_allclose(values, np.sort(z[..., k][subject.placement.brain[..., k]]), atol=1e-4)


def test_every_lambda_has_its_own_mean_ssim(calibrated, prepared):
    curve = calibrated("vae_lg_neural_tv").search["curve"]
    assert len({round(value, 4) for _, value in curve}) > GOAL.lambdas
    for strength, value in curve:
        assert value == pytest.approx(similarity(prepared, strength), abs=1e-5)


def test_lambda_is_the_least_that_keeps_healthy_slices(calibrated, prepared):
    found = calibrated("vae_lg_neural_tv")
    assert similarity(prepared, found.strength) >= GOAL.ssim
    assert found.search["failing"] < found.strength <= found.search["failing"] * 1.02
    assert similarity(prepared, found.search["failing"]) < GOAL.ssim
    assert found.search["reached"]
    assert found.search["target"] == GOAL.ssim


def test_lambda_below_the_candidates_is_found(calibrated):
    found = calibrated("vae_lg_neural_tv")
    beyond = calibrated("vae_lg_neural_tv", GOAL._replace(smallest_lambda=30.0))
    assert beyond.strength == pytest.approx(found.strength, rel=0.02)


@pytest.mark.parametrize(("ssim", "told"), [(0.0, "smallest lambda tried, 0.0001,"), (1.1, "no lambda up to 1e+06")])
def test_a_search_that_ends_at_its_limit_says_so(calibrated, caplog, tmp_path, ssim, told):
    calibrated("vae_lg_neural_tv", GOAL._replace(ssim=ssim, lambdas=2))
    assert "the search ended at its limit" in caplog.text
    assert told in caplog.text
    record = json.loads((tmp_path / "calibration" / "vae_lg_neural_tv.json").read_text())["Search"]
    assert (record["reached"], record["failing"] > 0) == (ssim < 1, ssim > 1)


def test_which_ssim_is_stated(calibrated, caplog, tmp_path):
    calibrated("vae_lg_neural_tv")
    assert "(uniform window of 7 pixels, 14 mm)" in caplog.text
    assert "limit" not in caplog.text
    record = json.loads((tmp_path / "calibration" / "vae_lg_neural_tv.json").read_text())
    assert record["Search"]["window_mm"] == 7 * SPACING


def test_a_restoration_that_diverges_calibrates_nothing(calibrated, monkeypatch, tmp_path):
    monkeypatch.setattr(Known, "diverges", True)
    with pytest.raises(UsageError, match=r"diverged. Lower --config\.restore\.learning_rate"):
        calibrated("vae_lg_neural_tv")
    assert not list(tmp_path.rglob("*.json"))


def test_thresholds_are_those_of_the_restored_brain(calibrated, standardised, scans):
    """At the lambda that was found, over the voxels of all brains and of nothing else."""
    found = calibrated("vae_lg_neural_tv")
    left = 1 / (1 + found.strength)  # Y - X = Y / (1 + lambda)
    changes = np.concatenate([left * z[mask] for z, (_, mask) in zip(standardised, scans, strict=True)])
    assert found.voxels == len(changes)
    assert list(found.thresholds) == ["absolute", "positive", "relative"]
    each = [left * z[mask] for z, (_, mask) in zip(standardised, scans, strict=True)]
    multiples = np.concatenate([np.maximum(change, 0) / np.median(np.abs(change)) for change in each])
    expected = {"absolute": np.abs(changes), "positive": np.maximum(changes, 0), "relative": multiples}
    for score, values in expected.items():
        assert tuple(found.thresholds[score]) == RATES
        for rate, threshold in found.thresholds[score].items():
            allowed = int(float(rate) * len(changes))  # of false positives
            assert threshold == pytest.approx(np.sort(values)[len(values) - 1 - allowed], rel=1e-3)
            above = int((values > threshold * (1 + 1e-3)).sum())
            assert above <= allowed <= int((values > threshold * (1 - 1e-3)).sum())


def test_a_method_without_lambda_has_thresholds_alone(calibrated, standardised, scans):
    found = calibrated("intensity", goal=None)
    assert found.strength is found.search is None
    assert list(found.thresholds) == ["signed"]
    values = np.concatenate([z[mask] for z, (_, mask) in zip(standardised, scans, strict=True)])
    # Known restores 0 where lambda is 0, so that Y - X is Y.
    assert found.thresholds["signed"]["0.01"] == pytest.approx(np.sort(values)[-1 - int(0.01 * len(values))], rel=1e-3)


def test_a_stated_lambda_is_taken_as_it_is(calibrated, caplog):
    found = calibrated("vae_lg_neural_tv", GOAL._replace(strength=0.37))
    assert (found.strength, found.search) == (0.37, None)
    assert "lambda 0.37, as --config.calibrate.strength says" in caplog.text
    searched = calibrated("vae_lg_neural_tv")
    assert found.thresholds != searched.thresholds
    stated = calibrated("vae_lg_neural_tv", GOAL._replace(strength=searched.strength))
    assert stated.thresholds == searched.thresholds


def test_a_method_without_a_goal_has_no_lambda(calibrated):
    with pytest.raises(
        UsageError, match="vae_reconstruction_tv3d has a lambda, and the config has no part `calibrate`"
    ):
        calibrated("vae_reconstruction_tv3d", None)


def test_volumes_are_searched_whole(calibrated, prepared):
    """SSIM over all slices of as many volumes as hold the wanted slices: of three, the first and the last."""
    counts = [len(subject.slices.number) for subject in prepared]
    assert counts[0] < GOAL.slices <= counts[0] + counts[2]
    found = calibrated("vae_lg_neural_tv3d")
    y, mask = (np.concatenate([getattr(prepared[i].slices, part)[..., 0] for i in (0, 2)]) for part in ("y", "mask"))
    inside = np.concatenate([subject.slices.y[subject.slices.mask > 0] for subject in prepared])
    low, high = np.percentile(inside, [0.5, 99.5])
    for strength, value in found.search["curve"][::4]:
        x = np.where(mask > 0, y * np.float32(strength / (1 + strength)), y)
        maps = [
            structural_similarity(a, b, win_size=7, data_range=high - low, full=True)[1]
            for a, b in zip(x, y, strict=True)
        ]
        assert value == pytest.approx(np.mean([m[k > 0].mean() for m, k in zip(maps, mask, strict=True)]), abs=1e-5)


def test_the_mirrors_variance_is_measured_once_and_kept(calibrated, prepared, monkeypatch, tmp_path):
    """On the healthy subjects, whose mirror images are made once; the settings of the restoration have it."""
    asked = []

    def of(subject):
        asked.append(subject.image.sha256)
        spread = np.where(subject.slices.mask > 0, np.float32(1), np.float32(np.inf))
        return mirror.Seen(Plane((1.0, 0.0, 0.0), 0.0, 0.5, 0.4), Mirror(np.zeros_like(spread), spread))

    monkeypatch.setattr(mirror, "of", of)
    found = calibrated("mirror_tv3d", GOAL._replace(strength=2.0), SETTINGS)
    assert len(asked) == 3
    assert (found.healthy_scans["symmetry"], found.healthy_scans["tilt"]) == ([0.4] * 3, [0.0] * 3)
    inside = np.concatenate([subject.slices.y[subject.slices.mask > 0] for subject in prepared]).astype(np.float64)
    assert found.mirror_variance == pytest.approx((inside**2).mean(), rel=1e-5)
    assert Known.settings.mirror_variance == found.mirror_variance
    record = json.loads((tmp_path / "calibration" / "mirror_tv3d.json").read_text())
    assert record["MirrorVariance"] == found.mirror_variance
    assert calibrations.read(tmp_path, "mirror_tv3d") == found
    del record["MirrorVariance"]  # as in earlier records
    (tmp_path / "calibration" / "mirror_tv3d.json").write_text(json.dumps(record))
    assert calibrations.read(tmp_path, "mirror_tv3d") == found._replace(mirror_variance=None)


def test_a_detector_has_the_mirrors_variance_of_its_calibration(tmp_path):
    config = detection.get_config("smoke")
    preparation.begin(config, tmp_path)
    trained = weights.load(config, tmp_path)
    digests = calibrations.digest(config), trained.digest, trained.recipe.digest
    thresholds = {"positive": {f"{rate:g}": 1.0 for rate in config.restore.false_positive_rates}}
    record = Calibration("mirror_tv3d", 2.0, None, 1, thresholds, [], *digests, "nothing", {}, 0.3, kernels="lgjax")
    calibrations.write(tmp_path, record)
    detector = lgjax.load(tmp_path, method="mirror_tv3d", device="cpu")
    assert (detector.strength, detector.runner.settings.mirror_variance) == (2.0, 0.3)
    assert detector.about["CalibrationKernels"] == "lgjax"


def test_the_tails_are_those_of_the_score_in_use(calibrated, standardised, scans, tmp_path, caplog):
    """p-values, promised volumes and the largest false positives, against counts over the voxels of all brains."""
    found = calibrated("vae_lg_neural_tv", GOAL._replace(strength=1.0))
    read = tails.read(calibrations.read(tmp_path, "vae_lg_neural_tv"), "positive")
    values = np.concatenate([np.maximum(z[mask], 0) / 2 for z, (_, mask) in zip(standardised, scans, strict=True)])
    assert sum(read.null.voxels) == found.voxels == len(values)
    assert max(table[0] for table in read.null.scores) == pytest.approx(values.max(), rel=1e-4)
    assert (read.promise.scans, read.promise.thresholds) == (3, {"1": None, "5": None})
    assert "3 healthy scans cannot promise a volume of 5 mL of false positives: at least 9 are needed" in caplog.text
    for rate, threshold in found.thresholds["positive"].items():
        volumes = read.largest.volumes[rate]
        for volume, z, (_, mask) in zip(volumes, standardised, scans, strict=True):
            above = np.where(mask, np.maximum(z, 0) / 2, 0) > threshold * (1 + 1e-4)
            labels, _ = ndimage.label(above, np.ones((3, 3, 3)))
            most = max(np.bincount(labels.ravel())[1:], default=0)
            assert volume == pytest.approx(most * 0.02, abs=0.021)  # a voxel of 2 x 2 x 5 mm may lie on the threshold
    assert tails.read(found, "absolute") == tails.Tails()
    assert "calibrated for the score positive, not absolute" in tails.missing(found, "absolute")
    record = tmp_path / "calibration" / "vae_lg_neural_tv.json"
    content = json.loads(record.read_text())
    for key in ("Null", "VolumeThresholds", "LargestFalsePositives"):
        del content[key]  # as in earlier records
    record.write_text(json.dumps(content))
    earlier = calibrations.read(tmp_path, "vae_lg_neural_tv")
    assert (tails.read(earlier, "positive"), tails.missing(earlier, "absolute")) == (tails.Tails(), "")
    assert earlier.thresholds == found.thresholds


def test_a_record_has_the_measures_of_each_healthy_scan(calibrated, standardised, scans, tmp_path):
    """What a later scan is held against: of three scans, three values each, ascending."""
    found = calibrated("vae_lg_neural_tv", GOAL._replace(strength=1.0)).healthy_scans
    assert "symmetry" not in found  # of methods without a mirror
    assert all(values == sorted(values) and len(values) == 3 for values in found.values())
    errors = [np.median(np.abs(z[mask] / 2)) for z, (_, mask) in zip(standardised, scans, strict=True)]
    assert found["error"] == pytest.approx(sorted(errors), rel=1e-3)
    assert found["volume"] == pytest.approx(sorted(mask.sum() * 0.02 for _, mask in scans), rel=1e-5)
    place = tmp_path / "calibration" / "vae_lg_neural_tv.json"
    record = json.loads(place.read_text())
    assert (record.pop("HealthyScans"), record.pop("Kernels")) == (found, "XLA")
    place.write_text(json.dumps(record))  # as in earlier records
    earlier = calibrations.read(tmp_path, "vae_lg_neural_tv")
    assert (earlier.healthy_scans, earlier.kernels) == (None, None)


@pytest.mark.parametrize("hosts", [2, 5])
@pytest.mark.parametrize("name", ["vae_lg_neural_tv", "vae_reconstruction_mirror_tv3d", "intensity"])
def test_hosts_find_what_one_finds_to_the_bit(calibrated, monkeypatch, tmp_path, name, hosts):
    """Of three scans; two of five hosts have none. The search, and all that is pooled of healthy scans."""
    alone = calibrated(name, settings=SETTINGS)
    path = tmp_path / "calibration" / f"{name}.json"
    record = path.read_bytes()
    path.unlink()
    work = functools.partial(calibrated, name, settings=SETTINGS, share=shares.divided)
    assert together.threads(monkeypatch, hosts, work) == [alone] * hosts
    assert path.read_bytes() == record


def test_hosts_with_kernels_of_their_own_are_told_apart(calibrated, monkeypatch):
    monkeypatch.setattr(Known, "kernels", property(lambda _: names.KERNELS[jax.process_index() % 2]))
    work = functools.partial(calibrated, "intensity", settings=SETTINGS, share=shares.divided)
    assert [found.kernels for found in together.threads(monkeypatch, 2, work)] == ["XLA and lgjax"] * 2


def test_hosts_leave_out_the_same_scans(scans, monkeypatch, tmp_path, caplog):
    """A host whose scans cannot be used goes on with the others; nobody has a scan that all can use."""
    affine, source = np.diag([SPACING, SPACING, 5.0, 1.0]), cohort.Source("made up", 0, 9)
    empty = np.zeros(SHAPE, np.float32)
    given = [(scans[0][0], scans[0][1]), (empty, scans[1][1]), (scans[2][0], scans[2][1]), (empty, scans[0][1])]
    subjects = [lgjax.read(data, affine, mask=mask, name=f"s{i}") for i, (data, mask) in enumerate(given)]
    digest, bare = "0" * 64, recipe.bare(Grid(24, 24, SPACING))
    trained = Trained(None, digest, "nothing", frozenset(), bare)
    monkeypatch.setattr(cohort, "healthy", lambda *_: subjects)

    def work():
        found = procedure.prepare(trained, source, 1)
        return len(found.own), found.owners

    assert together.threads(monkeypatch, 2, work) == [(2, (0, 0)), (0, (0, 0))]
    assert caplog.text.count("left out: ") == 4  # of two scans, by each host; the first alone is heard
