"""The harder patients: each kind is what its name says, its twin is healthy, and no older subject has changed."""

import hashlib
import importlib.metadata

import numpy as np
import pytest
from scipy import ndimage

from lgjax.runtime.errors import UsageError
from lgjax.scans import phantom, sources, synthetic
from lgjax.scans.phantom import heads, kept, render, subject
from lgjax.scans.phantom.draw import UPRIGHT, draw, foreign, tilt

SLICES = {"slices": 17, "spacing": 2.0}
THIN = {"spacing": 2.5, "thickness": 1.5, "gap": 0.0}
SIZES = {  # ml
    "bilateral": (2, 60),
    "midline": (1.5, 40),
    "small": (0.1, 4),
    "wedge": (1, 60),
    "haemorrhage": (1, 30),
    "tilted": (3, 250),
    "contrast": (3, 250),
}
INDICES = (0, 1)
PATIENTS = [(kind, index) for kind in phantom.HARD for index in INDICES]
BEFORE = {  # SHA-256 of subjects of 6 slices and 3 mm, as they were before there were harder kinds
    (1, 0, "healthy"): "76174fac281c269a",
    (2, 0, "healthy"): "1a1d3ccb19d2cfe4",
    (3, 1, "glioma"): "0b2c8cf6814f1a81",
    (3, 2, "ms"): "5d1c61a28d42c0e4",
    (4, 3, "dark"): "9aebe7c8a3357e02",
    (4, 4, "isointense"): "0e822d8dbba025af",
}
MADE_WITH = {"numpy": "2.4.6", "scipy": "1.17.1", "nibabel": "5.4.2", "nilearn": "0.14.1"}


@pytest.fixture(scope="module")
def anatomies():
    return phantom.load_anatomies(None)


@pytest.fixture(scope="module")
def pairs(anatomies):
    """Patients and their healthy twins; small lesions in thin slices, which are meant for them."""
    settings = {kind: THIN if kind == "small" else SLICES for kind in phantom.HARD}
    return {
        (kind, index): tuple(
            phantom.make_subject(anatomies, 9, index, kind, twin=twin, **settings[kind]) for twin in (False, True)
        )
        for kind, index in PATIENTS
    }


def place(anatomies, grid, drawn):
    """Millimetres of the head's own frame at each voxel, [3, X, Y, Z]; the middle of the head is x = 0."""
    voxels = np.stack([grid.lattice.plane(drawn.position, z) for z in grid.z], axis=-1)
    affine = anatomies[0].affine
    return np.tensordot(affine[:3, :3], voxels, 1) + affine[:3, 3].reshape(3, 1, 1, 1)


def drawn_as(anatomies, index, pose=UPRIGHT, seed=9):
    """The grid and the healthy draw of one subject."""
    grid = render.make_grid(17, 2.0, 4.0)
    shape = subject.stream(seed, index, 0)
    shape.integers(1)
    return grid, draw(shape, anatomies[0], grid.lattice, pose)


@pytest.mark.skipif(
    any(importlib.metadata.version(name) != version for name, version in MADE_WITH.items()),
    reason="other versions of the libraries may round another voxel",
)
@pytest.mark.parametrize("which", BEFORE, ids=str)
def test_subjects_of_the_older_kinds_are_what_they_were(anatomies, which):
    """Published numbers rest on them. The hashes were computed by the code that knew the older kinds alone."""
    scan = phantom.make_subject(anatomies, *which, slices=6, spacing=3.0)
    found = hashlib.sha256()
    for part in (scan.image.data, scan.image.affine, scan.brain, scan.lesion, scan.displaced):
        found.update(np.ascontiguousarray(part).tobytes())
    assert found.hexdigest()[:16] == BEFORE[which]


@pytest.mark.parametrize(("kind", "index"), PATIENTS)
def test_masks_are_in_the_brain_and_of_stated_size(pairs, kind, index):
    image, brain, lesion, displaced = pairs[kind, index][0]
    assert not (lesion & ~brain).any()
    assert not (displaced & (lesion | ~brain)).any()
    low, high = SIZES[kind]
    assert low < lesion.sum() * image.voxel_ml < high
    assert displaced.any() == (kind in ("midline", "tilted", "contrast"))
    edge = brain.copy()
    edge[1:-1, 1:-1] = False
    assert edge.sum() < (1e-3 * brain.sum() if kind == "tilted" else 1)


@pytest.mark.parametrize(("kind", "index"), PATIENTS)
def test_patient_equals_its_twin_where_no_mask_says_otherwise(pairs, kind, index):
    patient, twin = pairs[kind, index]
    assert not twin.lesion.any()
    assert not twin.displaced.any()
    np.testing.assert_array_equal(patient.image.affine, twin.image.affine)
    change = np.abs(patient.image.data - twin.image.data)
    elsewhere = ~patient.displaced & (ndimage.distance_transform_edt(~patient.lesion, patient.image.zooms) > 15.0)
    assert elsewhere[patient.brain].mean() > 0.1
    allowed = 0.1 * twin.image.data[twin.brain].std() if patient.displaced.any() else 0.0
    assert change[elsewhere & patient.brain & twin.brain].max() <= allowed
    assert change[patient.lesion].mean() > 3 * change[elsewhere].mean()


@pytest.mark.parametrize("index", INDICES)
def test_bilateral_lesions_have_their_like_on_the_other_side(anatomies, pairs, index):
    patient, _ = pairs["bilateral", index]
    native = place(anatomies, *drawn_as(anatomies, index))[:, patient.lesion]
    assert 0.3 < (native[0] < 0).mean() < 0.7
    assert (np.abs(native[0]) < 2).mean() < 0.05
    gap = np.linalg.norm((native[:, None] * np.array([-1, 1, 1])[:, None, None] - native[:, :, None]), axis=0).min(0)
    assert np.mean(gap < 7.0) > 0.75  # slices are 7 mm apart


@pytest.mark.parametrize("index", INDICES)
def test_a_midline_lesion_straddles_the_middle(anatomies, pairs, index):
    patient, _ = pairs["midline", index]
    native = place(anatomies, *drawn_as(anatomies, index))[0, patient.lesion]
    assert 0.2 < (native < 0).mean() < 0.8
    assert (np.abs(native) < 2).mean() > 0.05
    assert np.abs(native).max() < 45


@pytest.mark.parametrize("index", INDICES)
def test_small_lesions_are_small_and_several(pairs, index):
    patient, _ = pairs["small", index]
    parts, count = ndimage.label(patient.lesion)
    assert 3 <= count <= 9
    volumes = np.bincount(parts.ravel())[1:] * patient.image.voxel_ml
    assert volumes.max() < 2 * 4.19e-3 * 5**3  # two that touch


@pytest.mark.parametrize("index", INDICES)
def test_a_wedge_is_widest_at_the_surface(pairs, index):
    patient, twin = pairs["wedge", index]
    zooms = patient.image.zooms
    below = ndimage.distance_transform_edt(np.pad(twin.brain, 1), zooms)[1:-1, 1:-1, 1:-1]
    depth = below[patient.lesion]
    assert depth.min() < 3.0
    assert depth.max() > 14.0
    inner, outer = (((low <= depth) & (depth < low + 7.0)).sum() for low in (7.0, 0.0))
    brain = [((low <= below[twin.brain]) & (below[twin.brain] < low + 7.0)).sum() for low in (7.0, 0.0)]
    assert outer > 1.3 * inner * min(1.0, brain[1] / brain[0])
    change = (patient.image.data - twin.image.data)[patient.lesion & (twin.image.data < np.median(twin.image.data))]
    assert change.size == 0 or change.mean() > 0


@pytest.mark.parametrize("index", INDICES)
def test_a_haemorrhage_is_dark(pairs, index):
    patient, twin = pairs["haemorrhage", index]
    within = ndimage.distance_transform_edt(patient.lesion, [2, 2, 1e3])
    core = within > 0.6 * within.max()
    assert patient.image.data[core].mean() < 0.75 * twin.image.data[core].mean()


@pytest.mark.parametrize(("index", "has_rim"), [(2, True), (4, True), (5, False)])
def test_some_haemorrhages_have_a_thin_bright_rim(anatomies, index, has_rim):
    """The rim beside the tissue that lies around it, in the slice with most of the lesion."""
    patient, lesion = phantom.make_subject(anatomies, 6, index, "haemorrhage", spacing=1.5, slices=24)[::2]
    at = lesion.sum(axis=(0, 1)).argmax()
    lesion, image = lesion[..., at], patient.data[..., at]
    within, outside = (1.5 * ndimage.distance_transform_edt(part) for part in (lesion, ~lesion))
    rim, around = (image[(distance > 1.4) & (distance < 2.9)].mean() for distance in (within, outside))
    assert rim > 1.15 * around if has_rim else rim < 0.9 * around


@pytest.mark.parametrize("index", INDICES)
def test_a_tilted_head_is_the_upright_head_turned_about_its_middle(anatomies, index):
    """The head's own place at a turned point is that of the upright head; only the smooth bending differs."""
    rng = np.random.default_rng(index)
    pose = tilt(rng)
    angles = np.degrees(np.arccos((np.trace(pose.turn) - 1) / 2))
    assert 0 < angles < 18
    np.testing.assert_allclose(pose.turn @ pose.turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.norm(pose.shift) <= 10
    (grid, upright), (_, tilted) = drawn_as(anatomies, index), drawn_as(anatomies, index, pose)
    pivot = np.array([0.0, -17.0, 20.0])
    nodes = grid.lattice.nodes.reshape(3, -1).T
    source = (nodes - pivot - pose.shift) @ pose.turn.T + pivot
    inside = (np.abs(source - pivot) < 60).all(axis=1)
    steps = ((source - nodes[0]) / 10.0)[inside].T
    expected = np.array([ndimage.map_coordinates(axis, steps, order=1) for axis in upright.position])
    found = tilted.position.reshape(3, -1)[:, inside]
    assert np.linalg.norm(found - expected, axis=0).mean() < 8.0
    untilted = upright.position.reshape(3, -1)[:, inside]
    assert np.linalg.norm(found - expected, axis=0).mean() < 0.7 * np.linalg.norm(found - untilted, axis=0).mean()
    np.testing.assert_array_equal(tilted.means, upright.means)


def test_the_pose_of_a_tilted_subject_is_its_own(anatomies, pairs):
    for index in INDICES:
        upright = phantom.make_subject(anatomies, 9, index, "healthy", **SLICES)
        assert (pairs["tilted", index][1].brain != upright.brain).mean() > 0.01


@pytest.mark.parametrize("index", INDICES)
def test_contrast_lies_outside_what_training_draws(anatomies, pairs, index):
    _, twin = pairs["contrast", index]
    grid, drawn = drawn_as(anatomies, index)
    place_of = np.stack([grid.lattice.plane(drawn.position, z) for z in grid.z], axis=-1)
    maps = np.stack([ndimage.map_coordinates(m, place_of, order=0) for m in anatomies[0].maps]) / 255.0
    tissues = maps[0], maps[1], maps[5] + maps[6]  # ventricle, cortex, white matter
    fluid, grey, white = (np.median(twin.image.data[twin.brain & (tissue > 0.8)]) for tissue in tissues)
    assert white < grey < fluid  # still T2-weighted
    assert white / fluid < 0.23 or white / fluid > 0.42


def test_the_exponents_take_white_matter_out_of_the_range_of_training():
    found = np.array([foreign(np.random.default_rng(seed)) for seed in range(40)])
    assert 5 < (found < 1).sum() < 35
    flat, steep = found[found < 1], found[found > 1]
    assert (0.22**flat > 0.42).all()
    assert (0.42**steep < 0.22).all()


def test_a_foreign_contrast_is_one_curve_for_brain_and_lesion(anatomies, pairs):
    """The lesion is that of the glioma which the same seed and index draw, and as bright as the curve says."""
    for index in INDICES:
        patient, _ = pairs["contrast", index]
        usual = phantom.make_subject(anatomies, 9, index, "glioma", **SLICES)
        np.testing.assert_array_equal(patient.lesion, usual.lesion)
        inner = ndimage.binary_erosion(usual.lesion, np.ones((5, 5, 1)))
        brightness = [scan.image.data[inner].mean() / np.quantile(scan.image.data, 0.999) for scan in (usual, patient)]
        exponent = foreign(subject.stream(9, index, 3))
        assert brightness[1] == pytest.approx(brightness[0] ** exponent, rel=0.12)


def test_the_hard_set_is_named_as_the_test_set_is():
    for split in ("hard", "hard-dev"):
        found = sources.find(f"phantom:{split}:2")
        assert {one.kind for one in found} == set(phantom.HARD)
        assert len(found) == len({one.identifier for one in found}) == 2 * len(phantom.HARD)
        assert all(one.identifier.removeprefix("sub-").isalnum() for one in found)
    assert len(sources.find("phantom:hard")) == 6 * len(phantom.HARD)
    kinds = [twin.kind for _, twin in synthetic.twins("phantom@8:hard-dev:1")]
    assert kinds == len(phantom.HARD) * ["healthy"]


def test_kinds_can_be_chosen_and_their_patients_stay_the_same():
    everyone = {one.identifier: one for one in sources.find("phantom@8:hard:2")}
    chosen = sources.find("phantom@8:hard/midline+bilateral:2")
    assert [one.kind for one in chosen] == ["bilateral", "bilateral", "midline", "midline"]
    assert all(one.reading == everyone[one.identifier].reading for one in chosen)
    assert len(synthetic.twins("phantom:dev/glioma:2")) == 2
    with pytest.raises(UsageError, match="no kind 'glioma'; its kinds are"):
        sources.find("phantom:hard/glioma")


def test_hard_patients_draw_the_heads_of_test_and_those_for_designs_the_heads_of_dev(tmp_path, monkeypatch):
    for number in range(16):
        (tmp_path / f"{number}.nii").write_text(f"map {number}")
    asked = []

    def load(labels, split):
        asked.append(heads.of_split(heads.find(labels), split))
        raise InterruptedError

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "load_anatomies", load)
    for split in ("hard", "test", "hard-dev", "dev"):
        with pytest.raises(InterruptedError):
            sources.find(f"phantom:{split}:1:{tmp_path}")[0].image()
    assert asked[0] == asked[1]
    assert asked[2] == asked[3]
    assert not set(asked[0]) & set(asked[2])
