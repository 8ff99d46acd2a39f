"""p-values and masks by promised volume, from a calibration record to the files of one scan."""

import json

import derived
import nibabel as nib
import numpy as np
import pytest

import lgjax
from configs import detection
from lgjax.calibration import components, null, promise, strata, tails
from lgjax.derivatives import sidecar, write
from lgjax.runtime.errors import UsageError
from lgjax.workdir import calibrations, preparation, weights
from lgjax.workdir.calibrations import Calibration


@pytest.fixture
def scan():
    return lgjax.read(nib.Nifti1Image(derived.brain(), derived.GRID), name="one")


@pytest.fixture(scope="module")
def healthy():
    """Scores of ten brains without a lesion, and their masks."""
    brains = [derived.brain(seed) > 0 for seed in range(10)]
    rng = np.random.default_rng(0)
    return [rng.normal(size=brain.sum()).astype(np.float32) for brain in brains], brains


def known(healthy, score: str = "signed") -> tails.Tails:
    scores, brains = healthy
    cells = [strata.cells(brain, derived.GRID)[brain] for brain in brains]
    voxel_ml = [8 * 8 * 20 / 1000] * len(brains)
    return tails.Tails(
        null.learn(score, scores, cells),
        promise.learn(score, scores, voxel_ml, ("1.5", "5")),
        components.pooled(score, [*map(components.volumes, scores, brains, voxel_ml, [{"0.01": 2.0}] * len(brains))]),
    )


def detector(found: tails.Tails):
    made = derived.detector()
    made.tails = found
    promised = tails.thresholds(found.promise, (5.0, 1.5))
    made.about = {**made.about, "VolumeThresholds": promised, "PValues": tails.about(found.null, 10)}
    made.about |= {"LargestFalsePositives": tails.largest(found.largest, made.about["MaskRate"])}
    return made


def test_a_scan_has_pvalues_and_masks_by_volume(scan, healthy, tmp_path):
    made = detector(known(healthy))
    found = made(scan)
    every = np.concatenate(healthy[0])
    assert len(made.tails.null.voxels) == 1  # too few voxels for more strata
    counted = (1 + (every[None] >= found.anomaly[found.brain][:, None]).sum(axis=1)) / (len(every) + 1)
    assert (found.pvalues[found.brain] >= counted).all()
    np.testing.assert_array_less(found.pvalues[found.brain], counted * 1.1 + 1e-6)
    assert (found.pvalues[~found.brain] == 1).all()
    assert found.pvalues[13, 13, 2] < 0.02 < np.median(found.pvalues[found.brain])
    assert list(found.volume_masks) == ["1.5", "5"]
    for volume, mask in found.volume_masks.items():
        np.testing.assert_array_equal(mask, (found.anomaly > made.tails.promise.thresholds[volume]) & found.brain)
    path = found.save(tmp_path)
    names = {name.name.partition("_space-orig_")[2] for name in path.parent.glob("*.nii.gz")}
    assert {"desc-pvalue_T2w.nii.gz", "label-lesion_desc-vol1p5_mask.nii.gz"} <= names
    pvalues = nib.load(sidecar.file(tmp_path, "sub-one", sidecar.PVALUE)).get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(pvalues, found.pvalues)
    about = json.loads(sidecar.file(tmp_path, "sub-one", sidecar.PVALUE, "json").read_text())
    assert about["Units"] == "probability"
    assert about["PValues"] == {"Scans": 10, "Voxels": len(every), "Strata": 1}
    assert about["VolumeThresholds"] == made.about["VolumeThresholds"]
    mask = nib.load(sidecar.file(tmp_path, "sub-one", "label-lesion_desc-vol5_mask")).get_fdata()
    np.testing.assert_array_equal(mask > 0, found.volume_masks["5"])


def test_without_tails_nothing_is_there_and_nothing_is_left(scan, healthy, tmp_path):
    full = detector(known(healthy))(scan)
    full.save(tmp_path)
    assert write.finished(tmp_path, "sub-one", full.about)
    plain = derived.detector()(scan)
    assert plain.pvalues is None
    assert plain.volume_masks == {}
    left = plain.save(tmp_path).parent
    assert not list(left.glob("*pvalue*"))
    assert not list(left.glob("*_desc-vol*"))
    assert not write.finished(tmp_path, "sub-one", full.about)
    assert write.finished(tmp_path, "sub-one", plain.about)  # as an earlier calibration left it


def test_strata_are_those_of_the_whole_brain_where_slices_are_left_out(scan, healthy):
    cells = np.concatenate([strata.cells(brain, derived.GRID)[brain] for brain in healthy[1]])
    scores = np.concatenate(healthy[0]) + 0.3 * cells.astype(np.float32)
    many = null.learn("signed", [np.tile(scores, 40)], [np.tile(cells, 40)])
    assert len(many.voxels) > 4
    made = detector(known(healthy)._replace(null=many))
    whole = made(scan)
    made.step = 2
    some = made(scan)
    assert some.brain.sum() < whole.brain.sum()
    np.testing.assert_array_equal(some.pvalues[some.brain], whole.pvalues[some.brain])
    assert (some.pvalues[~some.brain] == 1).all()


def test_the_pvalue_of_a_lesion_counts_healthy_scans(scan, healthy, tmp_path):
    made = detector(known(healthy))
    found = made(scan)
    volumes = made.tails.largest.volumes["0.01"]
    assert len(set(volumes)) > 2
    expected = [(1 + sum(ml > lesion.volume_ml - 0.1 for ml in volumes)) / 11 for lesion in found.lesions]  # of 1.28 mL
    assert [lesion.p for lesion in found.lesions] == pytest.approx(expected)
    assert found.lesions[0].p == pytest.approx(1 / 11)
    table = sidecar.file(tmp_path, "sub-one", sidecar.lesions("0.01"), "tsv")
    found.save(tmp_path)
    heading, first, *_ = (line.split("\t") for line in table.read_text().splitlines())
    assert float(first[heading.index("p")]) == pytest.approx(1 / 11, rel=1e-4)
    assert derived.detector()(scan).lesions[0].p is None
    assert tails.largest(made.tails.largest, "0.3") is tails.largest(None, "0.01") is None


def test_volumes_that_were_not_calibrated_are_refused(healthy):
    found = known(healthy).promise
    assert tails.thresholds(found, ()) is None
    assert tails.thresholds(None, (1.0,)) is None
    assert list(tails.thresholds(found, (5.0,))) == ["5"]
    with pytest.raises(UsageError, match=r"false_positive_volumes=2,7: was not calibrated"):
        tails.thresholds(found, (2.0, 5.0, 7.0))
    few = promise.learn("signed", healthy[0][:3], [1.28] * 3, ("5",))
    assert tails.thresholds(few, (5.0,)) is None


def test_a_detector_of_another_score_says_what_is_not_there(healthy, tmp_path, caplog):
    config = detection.get_config("smoke")
    config.restore.false_positive_volumes = (5.0,)
    preparation.begin(config, tmp_path)
    trained = weights.load(config, tmp_path)
    digests = calibrations.digest(config), trained.digest, trained.recipe.digest
    rates = {f"{rate:g}": 1.0 for rate in config.restore.false_positive_rates}
    thresholds = {score: rates for score in ("absolute", "positive", "relative")}
    fields = ("null", "volume_thresholds", "largest")
    parts = {name: part._asdict() for name, part in zip(fields, known(healthy, "positive"), strict=True)}
    record = Calibration("intensity_tv3d", 2.0, None, 1, thresholds, [], *digests, "nothing", {}, **parts)
    calibrations.write(tmp_path, record)
    found = lgjax.load(tmp_path, method="intensity_tv3d", device="cpu")
    assert found.tails == known(healthy, "positive")
    assert list(found.about["VolumeThresholds"]) == ["5"]
    assert not caplog.messages
    config.restore.score = "relative"
    (tmp_path / "config.json").unlink()
    preparation.begin(config, tmp_path)
    other = lgjax.load(tmp_path, method="intensity_tv3d", device="cpu")
    assert other.tails == tails.Tails()
    assert (other.about["VolumeThresholds"], other.about["PValues"]) == (None, None)
    assert "calibrated for the score positive, not relative" in caplog.text
