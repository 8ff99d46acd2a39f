"""The lesions of a scan: measures against closed forms and scikit-image, their table, the image of their labels."""

import csv
import io
import itertools
import json

import derived
import nibabel as nib
import numpy as np
import pytest
from skimage import measure

import lgjax
from lgjax.derivatives import lesion_table, lesions, sidecar, write
from lgjax.derivatives.sidecar import Midplane
from lgjax.scans import nifti

SHAPE = (24, 22, 18)
HEAD = np.zeros(SHAPE, bool)
HEAD[2:22, 1:21, 3:13] = True  # 20 x 20 x 10 voxels
GRID = np.array([[-1.0, 0, 0, 30], [0, 2.0, 0, -7], [0, 0, 3.0, 5], [0, 0, 0, 1]])  # mm, the first axis to the left
ACROSS = [-1.0, 0.0, 0.0]  # to the left


def found(mask, affine=GRID, brain=HEAD, plane=None, score=None):
    """The lesions of a mask whose score is 1, but where another one is given."""
    score = np.ones(mask.shape) if score is None else score
    return lesions.measure(lesions.label(mask, affine), score, brain, affine, plane)


def boxes(*corners) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for corner in corners:
        mask[tuple(slice(*ends) for ends in corner)] = True
    return mask


def scattered(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A mask of many components, some of equal size, and a score of both signs."""
    rng = np.random.default_rng(seed)
    mask = HEAD & (rng.random(SHAPE) < 0.04)
    mask[4:9, 5:9, 4:8] = mask[14:16, 5:9, 4:6] = True
    return mask, rng.normal(size=SHAPE).astype(np.float32)


def test_boxes_have_the_volume_and_place_that_they_were_made_with():
    mask = boxes(((2, 7), (1, 21), (3, 13)), ((20, 22), (19, 21), (11, 13)))
    large, small = found(mask)
    assert (large.volume_ml, small.volume_ml) == pytest.approx((5 * 20 * 10 * 6 / 1000, 2 * 2 * 2 * 6 / 1000))
    assert large.centroid_mm == pytest.approx((30 - 4, -7 + 2 * 10.5, 5 + 3 * 7.5))
    assert large.centroid_percent == pytest.approx((87.5, 50, 50))  # the rightmost quarter of the brain
    assert small.centroid_percent == pytest.approx((5, 95, 90))  # 2 of 20, 2 of 20 and 2 of 10 voxels from the edges
    assert (large.side, small.side) == ("right", "left")


def test_a_brain_of_one_voxel_is_a_box():
    one = boxes(((4, 5), (4, 5), (4, 5)))
    (lesion,) = found(one, brain=one)
    assert lesion.centroid_percent == pytest.approx((50, 50, 50))
    assert lesion.side == "midline"


@pytest.mark.parametrize(
    ("columns", "plane", "side"),
    [
        ((2, 12), None, "right"),
        ((12, 22), None, "left"),  # the first axis runs to the left
        ((8, 14), None, "midline"),  # 4 of 6 voxels to the right
        ((9, 13), None, "right"),  # 3 of 4
        ((11, 13), None, "midline"),
        ((9, 13), (0.3, 18.5), "right"),  # the plane runs between the voxels 11 and 12, at 19 and 18 mm
        ((9, 13), (0.6, 18.5), "midline"),  # two voxels are nearer than the plane is known
        ((2, 7), (0.6, 26.5), "midline"),  # another plane, through the box
        ((2, 7), (0.4, 20.5), "right"),
    ],
)
def test_sides(columns, plane, side):
    plane = plane and Midplane(ACROSS, -plane[1], plane[0], 0.4)
    (lesion,) = found(boxes((columns, (5, 8), (5, 8))), plane=plane)
    assert lesion.side == side


def test_a_plane_that_does_not_fit_has_no_say():
    mask = boxes(((2, 7), (5, 8), (5, 8)))
    sides = [found(mask, plane=Midplane(ACROSS, -29.0, 0.1, score))[0].side for score in (0.05, 0.5)]
    assert sides == ["right", "left"]


@pytest.mark.parametrize("seed", [0, 1])
def test_measures_are_those_of_scikit_image(seed):
    mask, score = scattered(seed)
    ours = found(mask, score=score)
    props = measure.regionprops(measure.label(mask, connectivity=3), np.abs(score))
    theirs = sorted(
        (p.area * 6 / 1000, *(GRID[:3, :3] @ p.centroid + GRID[:3, 3]), p.intensity_max, p.intensity_mean)
        for p in props
    )
    rows = sorted((lesion.volume_ml, *lesion.centroid_mm, lesion.peak, lesion.mean) for lesion in ours)
    np.testing.assert_allclose(rows, theirs, rtol=1e-6, atol=1e-6)
    volumes = [lesion.volume_ml for lesion in ours]
    assert volumes == sorted(volumes, reverse=True)
    assert [lesion.label for lesion in ours] == list(range(1, len(props) + 1))


def test_labels_are_the_components_that_the_list_measures():
    mask, _ = scattered()
    labels = lesions.label(mask, GRID)
    assert labels.dtype == np.int32
    assert ((labels > 0) == mask).all()
    voxels = np.bincount(labels.ravel())[1:]
    assert [lesion.volume_ml for lesion in found(mask)] == pytest.approx(voxels * 0.006)


def test_all_48_orientations_have_the_same_lesions():
    mask, score = scattered()
    plane = Midplane(ACROSS, -18.2, 0.4, 0.4)
    labels, expected = lesions.label(mask, GRID), found(mask, score=score, plane=plane)
    text = lesion_table.table(expected)
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            order = np.stack([axes, signs], axis=1)
            turned, values, head = (nib.orientations.apply_orientation(part, order) for part in (mask, score, HEAD))
            affine = GRID @ nib.orientations.inv_ornt_aff(order, SHAPE)
            theirs = lesions.label(turned, affine)
            assert np.array_equal(theirs, nib.orientations.apply_orientation(labels, order))
            assert lesion_table.table(lesions.measure(theirs, values, head, affine, plane)) == text


def test_a_sheared_grid():
    """Against each voxel by itself."""
    affine = GRID.copy()
    affine[:3, :3] = [[-1.9, 0.3, 0.1], [0.2, 1.5, -0.4], [0.5, 0.2, 2.8]]
    mask = boxes(((3, 8), (4, 9), (5, 7)))
    (lesion,) = found(mask, affine)
    places = np.array([affine[:3, :3] @ voxel + affine[:3, 3] for voxel in np.argwhere(mask)])
    corners = [np.array(corner) - 0.5 for corner in itertools.product((0, 1), repeat=3)]
    brain = np.array([affine[:3, :3] @ (voxel + c) + affine[:3, 3] for voxel in np.argwhere(HEAD) for c in corners])
    low, high = brain.min(axis=0), brain.max(axis=0)
    assert lesion.centroid_mm == pytest.approx(places.mean(axis=0))
    assert lesion.centroid_percent == pytest.approx(100 * (places.mean(axis=0) - low) / (high - low))
    assert lesion.volume_ml == pytest.approx(len(places) * abs(np.linalg.det(affine[:3, :3])) / 1000)


def test_the_table_holds_what_was_found_and_says_what_it_is():
    mask, score = scattered()
    measured = found(mask, score=score)
    rows = list(csv.DictReader(io.StringIO(lesion_table.table(measured)), delimiter="\t"))
    about = lesion_table.dictionary("standard deviations of the brain")
    assert list(rows[0]) == list(about)
    assert all(entry["Description"] for entry in about.values())
    for row, lesion in zip(rows, measured, strict=True):
        assert (row["index"], row["name"], row["side"]) == (str(lesion.label), f"lesion {lesion.label}", lesion.side)
        places = [float(row[name]) for name in ("x_mm", "y_mm", "z_mm", "left_right", "back_front", "bottom_top")]
        assert places == pytest.approx([*lesion.centroid_mm, *lesion.centroid_percent], rel=1e-5)
        numbers = [float(row[name]) for name in ("volume_ml", "peak", "mean")]
        assert numbers == pytest.approx([lesion.volume_ml, lesion.peak, lesion.mean], rel=1e-5)
        assert row["p"] == "n/a"
        assert row["side"] in about["side"]["Levels"]
    units = {name: entry.get("Units") for name, entry in about.items()}
    assert (units["volume_ml"], units["x_mm"], units["peak"]) == ("mL", "mm", "standard deviations of the brain")


def test_nothing_found_is_a_heading():
    assert found(np.zeros(SHAPE, bool)) == []
    assert lesion_table.table([]) == "\t".join(lesion_table.COLUMNS) + "\n"


@pytest.fixture
def saved(tmp_path):
    scan = lgjax.read(nib.Nifti1Image(derived.brain(), derived.GRID), name="x")
    detection = derived.detector()(scan)
    detection.save(tmp_path)
    return detection, tmp_path / "sub-x" / "anat"


def test_a_scan_has_the_lesions_that_python_has(saved):
    detection, folder = saved
    name = "sub-x_space-orig_seg-lesions_desc-fpr1_dseg"
    rows = list(csv.DictReader(io.StringIO((folder / f"{name}.tsv").read_text()), delimiter="\t"))
    assert [float(row["volume_ml"]) for row in rows] == pytest.approx(
        [one.volume_ml for one in detection.lesions], 1e-5
    )
    labels = nifti.read(folder / f"{name}.nii.gz")
    np.testing.assert_allclose(labels.affine, derived.GRID)
    assert np.array_equal(labels.data > 0, detection.masks["0.01"])
    assert labels.data.max() == len(rows) > 0
    about = json.loads((folder / f"{name}.json").read_text())
    assert about["SpatialReference"] == "orig"
    assert about["peak"]["Units"] == detection.about["AnomalyUnits"]


def test_lesions_at_another_rate_take_the_place_of_earlier_ones(saved):
    detection, folder = saved
    other = dict(detection.about) | {"MaskRate": "0.05"}
    write.write(folder.parents[1], "sub-x", detection.subject, detection.maps, other)
    assert {path.name.split("_")[3] for path in folder.glob("*_dseg.*")} == {"desc-fpr5"}
    assert len(list(folder.glob("*_dseg.*"))) == 3


def test_a_scan_is_finished_after_its_lesions(saved, monkeypatch):
    detection, folder = saved
    monkeypatch.setattr(lesion_table, "table", lambda listed: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        detection.save(folder.parents[1])
    assert not sidecar.file(folder.parents[1], "sub-x", sidecar.ANOMALY, "json").exists()
