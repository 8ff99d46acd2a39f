"""The synthetic brains: the same everywhere, equal to healthy twins where no mask says otherwise, honest masks."""

import cohorts
import images
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from lgjax.evaluation import references
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import phantom, sources, synthetic
from lgjax.scans.phantom import kept, render, subject
from lgjax.scans.phantom.draw import draw
from lgjax.scans.phantom.lattice import NODE, Lattice

LABELS = images.REAL / "labels_synthseg"
SMALL = {"slices": 17, "spacing": 2.0}
GAP = 112 / 16  # mm between those slices
SIZES = {  # mm^3, whole patients, lesions cut by the brain's surface or by the first and last slice included
    "glioma": (3e3, 2.5e5),
    "ms": (2e2, 2.5e4),
    "dark": (8e2, 3.5e4),
    "isointense": (2e3, 6e4),
}
PATIENTS = [(kind, index) for kind in SIZES for index in (0, 1, 2)]


@pytest.fixture(scope="module")
def anatomies():
    return phantom.load_anatomies(None)


@pytest.fixture(scope="module")
def scans(anatomies):
    """Twelve patients and their healthy twins."""
    made = {p: phantom.make_subject(anatomies, 7, p[1], p[0], **SMALL) for p in PATIENTS}
    return made | {i: phantom.make_subject(anatomies, 7, i, "healthy", **SMALL) for i in (0, 1, 2)}


def test_order_and_workers_change_nothing(anatomies, scans):
    kinds = ["healthy", "glioma", "ms"]
    indices = [0, 1, 2]
    made = cohorts.make_cohort(anatomies, 7, indices, kinds, workers=3, **SMALL)
    for scan, kind, index in zip(made, kinds, indices, strict=True):  # made one by one, and in another order, before
        expected = scans[index] if kind == "healthy" else scans[kind, index]
        assert scan.image.sha256 == expected.image.sha256
        np.testing.assert_array_equal(scan.image.data, expected.image.data)
        np.testing.assert_array_equal(scan.lesion, expected.lesion)
        assert scan.image.source == f"phantom:{kind}/{index}"


@pytest.mark.parametrize(
    ("seed", "index", "kind", "brain", "lesion", "total"),
    [
        (1, 0, "healthy", 146103, 0, 67380590),
        (3, 1, "glioma", 150507, 971, 40384103),
        (3, 2, "ms", 172415, 523, 68053831),
    ],
)
def test_brains_are_those_that_published_numbers_rest_on(anatomies, seed, index, kind, brain, lesion, total):
    """Made in another process; another draw would differ by thousands, another rounding by single voxels."""
    scan = phantom.make_subject(anatomies, seed, index, kind)
    assert abs(scan.brain.sum() - brain) <= 3
    assert abs(scan.lesion.sum() - lesion) <= 3
    assert scan.image.data.sum(dtype=np.float64) == pytest.approx(total, rel=1e-5)


def test_seed_and_index_change_the_brain(anatomies, scans):
    other = phantom.make_subject(anatomies, 8, 0, "healthy", **SMALL)
    assert len({scans[0].image.sha256, scans[1].image.sha256, other.image.sha256}) == 3


@pytest.mark.parametrize("index", [0, 1, 2])
def test_image_is_what_the_docstring_says(scans, index):
    image, brain, lesion, displaced = scans[index]
    assert image.data.dtype == np.float32
    assert image.data.shape == brain.shape == lesion.shape == (93, 108, 17)
    np.testing.assert_array_equal(image.data, np.rint(image.data))
    np.testing.assert_array_equal(image.data > 0, brain)
    assert not lesion.any()
    assert not displaced.any()
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(image.zooms, [2, 2, GAP])
    np.testing.assert_allclose(image.affine[2, 3], -52)
    area = brain.sum(axis=(0, 1)) * 4.0  # mm^2
    assert area.min() > 2000
    assert area.max() > 11000
    edge = brain.copy()
    edge[2:-2, 2:-2] = False
    assert not edge.any()  # the field of view holds the whole brain


@pytest.mark.parametrize(("kind", "index"), PATIENTS)
def test_masks_are_in_the_brain_and_of_stated_size(scans, kind, index):
    image, brain, lesion, displaced = scans[kind, index]
    assert not (lesion & ~brain).any()
    assert not (displaced & (lesion | ~brain)).any()
    low, high = SIZES[kind]
    assert low < lesion.sum() * np.prod(image.zooms) < high


@pytest.mark.parametrize(("kind", "index"), PATIENTS)
def test_patient_equals_its_twin_where_no_mask_says_otherwise(scans, kind, index):
    patient, twin = scans[kind, index], scans[index]
    change = np.abs(patient.image.data - twin.image.data)
    much = patient.brain & ~patient.lesion & (change > 0.1 * twin.image.data[twin.brain].std())
    border = ndimage.distance_transform_edt(~patient.lesion, patient.image.zooms)
    if kind == "glioma":  # pushes the brain aside, in an odd shape up to 63 mm off
        np.testing.assert_array_equal(patient.displaced, much)
        assert 0.5 < much.sum() / patient.lesion.sum() < 8
        far = border > 63.0 + GAP
        assert (patient.image.data == twin.image.data)[twin.brain].mean() > 0.4
        assert (patient.brain != twin.brain).mean() < 0.002  # the skull holds
    else:
        assert not patient.displaced.any()
        far = border > 8.0 + GAP  # a soft border
        assert far.mean() > 0.3
        np.testing.assert_array_equal(patient.brain, twin.brain)
    assert not change[far].any()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_glioma_pushes_the_brain_away_from_itself(scans, index):
    """What is beside the tumour looks like what the healthy brain has nearer to the tumour's centre."""
    patient, twin = scans["glioma", index], scans[index]
    zooms = patient.image.zooms
    offset = (np.argwhere(patient.displaced) - ndimage.center_of_mass(patient.lesion)) * zooms
    offset = np.where(np.abs(offset[:, 2:]) < 2 * GAP, offset, np.nan)
    at, offset = np.argwhere(patient.displaced)[~np.isnan(offset[:, 0])], offset[~np.isnan(offset[:, 0])]
    step = 3.0 * offset * (1, 1, 0) / np.linalg.norm(offset[:, :2], axis=1, keepdims=True) / zooms
    inwards, outwards = (ndimage.map_coordinates(twin.image.data, (at + side * step).T, order=1) for side in (-1, 1))
    found = patient.image.data[tuple(at.T)]
    assert np.abs(found - inwards).mean() < 0.8 * np.abs(found - outwards).mean()


@pytest.mark.parametrize(("kind", "index"), PATIENTS)
def test_brightness_of_each_kind(scans, kind, index):
    patient, twin = scans[kind, index], scans[index]
    spread = twin.image.data[twin.brain].std()
    inside = patient.lesion & twin.brain
    change = (patient.image.data - twin.image.data)[inside] / spread
    if kind == "dark":
        assert change.mean() < -0.4
    elif kind == "isointense":
        assert abs(change.mean()) < 0.25
        assert patient.image.data[inside].std() < 0.9 * twin.image.data[inside].std()
        assert change.std() > 0.1  # the structure is another
    else:
        assert change.mean() > 0.3


@pytest.mark.parametrize("index", [0, 1, 2])
def test_white_matter_is_dark_and_fluid_bright_as_in_t2(anatomies, scans, index):
    """In the image, at the places where the tissue maps that it was made from have one tissue alone."""
    scan = scans[index]
    grid = render.make_grid(17, 2.0, 4.0)
    shape = subject.stream(7, index, 0)
    shape.integers(1)
    position = draw(shape, anatomies[0], grid.lattice).position
    place = np.stack([grid.lattice.plane(position, z) for z in grid.z], axis=-1)
    maps = np.stack([ndimage.map_coordinates(m, place, order=0) for m in anatomies[0].maps]) / 255.0
    tissues = maps[0], maps[1], maps[5] + maps[6]  # ventricle, cortex, white matter
    fluid, grey, white = (np.median(scan.image.data[scan.brain & (tissue > 0.8)]) for tissue in tissues)
    assert white < 0.95 * grey
    assert grey < 0.9 * fluid
    assert 0.15 < white / fluid < 0.5


def test_every_head_is_drawn_as_often_as_the_others(anatomies, monkeypatch):
    class Heads(list):
        def __getitem__(self, number):
            drawn.append(number)
            raise InterruptedError

    drawn = []
    for index in range(90):
        with pytest.raises(InterruptedError):
            phantom.make_subject(Heads(3 * anatomies), 7, index, "healthy")
    assert np.bincount(drawn, minlength=3).min() > 15


def test_a_voxel_is_lesion_where_half_of_it_is(anatomies, scans, monkeypatch):
    covered = []

    def seen(*arguments):
        found = render.render(*arguments)
        covered.append(found[2])
        return found

    monkeypatch.setattr(subject, "render", seen)
    scan = phantom.make_subject(anatomies, 7, 0, "ms", **SMALL)
    np.testing.assert_array_equal(scan.lesion, scan.brain & (covered[0] >= 0.5))
    assert (covered[0] >= 0.05).sum() > 1.2 * scan.lesion.sum()


def test_the_bias_field_is_in_the_image(anatomies):
    grid = render.make_grid(3, 8.0, 4.0)
    made = draw(subject.stream(7, 0, 0), anatomies[0], grid.lattice)._replace(blur=0.0, noise=0.0, scale=1e4)
    flat = np.ones((len(grid.x), len(grid.y), len(grid.z)), np.float32)
    found = render.scan_of(made, grid, flat, subject.stream(7, 0, 2)) / 1e4
    nodes = [(at - axis[0]) / NODE for at, axis in zip((grid.x, grid.y, grid.z), grid.lattice.axes, strict=True)]
    where = np.meshgrid(*nodes, indexing="ij")
    expected = ndimage.map_coordinates(made.fields[5], where, order=3, prefilter=False)  # a cubic B-spline
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found.std() > 0.01


def test_interpolation_agrees_with_scipy(anatomies):
    rng = np.random.default_rng(0)
    maps = anatomies[0].maps
    position = rng.uniform(1, np.array(maps.shape[1:])[:, None] - 2, (3, 500)).astype(np.float32)
    expected = [ndimage.map_coordinates(m.astype(float), position, order=1) for m in maps]
    np.testing.assert_allclose(render._fractions(anatomies[0], position), expected, atol=4.5)  # of 255, three roundings


def test_lattice_repeats_straight_lines():
    x, y = np.array([-50.0, 3.0, 71.5]), np.array([-99.0, 12.25])
    lattice = Lattice(x, y)
    plane = lattice.plane(lattice.nodes, 33.3)
    np.testing.assert_allclose(plane[0], np.repeat(x[:, None], 2, 1), rtol=1e-6)
    np.testing.assert_allclose(plane[1], np.repeat(y[None], 3, 0), rtol=1e-6)
    np.testing.assert_allclose(plane[2], 33.3, rtol=1e-6)


def test_a_subject_of_the_list_is_made_once(anatomies, tmp_path, monkeypatch):
    """Through the list of subjects, as every command asks for them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (patient,) = (s for s in sources.find("phantom:dev:1") if s.kind == "glioma")
    synthetic._scan.cache_clear()
    image, displaced = patient.image(), patient.displaced()
    expected = phantom.make_subject(anatomies, 4, 1, "glioma")
    assert image.sha256 == expected.image.sha256
    np.testing.assert_array_equal(image.data, expected.image.data)
    np.testing.assert_array_equal(displaced.data, expected.displaced)
    synthetic._scan.cache_clear()
    monkeypatch.delattr(kept, "make_subject")
    assert patient.image().sha256 == image.sha256
    np.testing.assert_array_equal(references.read(patient, image).lesion, expected.lesion)


@pytest.mark.parametrize(("thickness", "gap"), [(4.0, 1.0), (8.0, 0.0)])
def test_with_a_gap_slices_are_as_thick_and_far_as_asked_and_reach_above_the_vertex(anatomies, thickness, gap):
    for index in range(3):
        scan = phantom.make_subject(anatomies, 7, index, "dark", spacing=4.0, thickness=thickness, gap=gap)
        np.testing.assert_allclose(scan.image.zooms, [4, 4, thickness + gap])
        area = scan.brain.sum(axis=(0, 1)) * 16.0  # mm^2
        assert area[0] > 2000
        assert area[-1] == 0
        assert area[area > 0][-1] < 5000  # the cap of the brain, thinner from slice to slice
        assert scan.lesion.any()


def test_a_slice_is_the_mean_of_planes_across_its_thickness(anatomies):
    grid = render.make_grid(1, 4.0, 4.0)
    made = draw(subject.stream(7, 0, 0), anatomies[0], grid.lattice)
    thick, *_ = render.render(made, anatomies[0], grid, None, 8.0)
    parts = []
    for offset in (-2.0, 2.0):
        thin = grid._replace(z=grid.z + offset)
        parts.append(render.render(made, anatomies[0], thin, None, 1e-6)[0])
    np.testing.assert_allclose(thick, np.mean(parts, axis=0), atol=1e-4)


def test_bids_opens_with_nibabel(anatomies, scans, tmp_path):
    paths = cohorts.write_bids(tmp_path, anatomies, 7, [0, 2], ["healthy", "ms"], **SMALL)
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [
        "sub-0000/anat/sub-0000_T2w.nii.gz",
        "sub-0002/anat/sub-0002_T2w.nii.gz",
    ]
    for path, scan in zip(paths, (scans[0], scans["ms", 2]), strict=True):
        stem = path.name.removesuffix("_T2w.nii.gz")
        arrays = {"T2w": scan.image.data, "desc-brain_mask": scan.brain, "label-lesion_mask": scan.lesion}
        for suffix, array in arrays.items():
            image = nib.load(path.with_name(f"{stem}_{suffix}.nii.gz"))
            np.testing.assert_array_equal(np.asarray(image.dataobj), array)
            np.testing.assert_allclose(image.affine, scan.image.affine, atol=1e-5)
    rows = (tmp_path / "participants.tsv").read_text().splitlines()
    assert rows[0].split("\t")[:2] == ["participant_id", "lesion_kind"]
    assert [r.split("\t")[1] for r in rows[1:]] == ["healthy", "ms"]
    assert (tmp_path / "dataset_description.json").read_text().startswith("{")


@pytest.mark.skipif(not LABELS.is_dir(), reason=f"the FreeSurfer-style label maps are not at {LABELS}")
def test_label_maps_make_brains(tmp_path):
    source = sorted(LABELS.rglob("*.nii.gz"))[0]  # a tilted head
    (tmp_path / source.name).symlink_to(source)
    (anatomy,) = phantom.load_anatomies(str(tmp_path))
    scan = phantom.make_subject([anatomy], 0, 0, "dark", **SMALL)
    assert scan.lesion.any()
    area = scan.brain.sum(axis=(0, 1)) * 4.0
    assert area[0] > 0  # this head's brain ends in the lowest slice
    assert area[1:].min() > 2000
    assert 11000 < area.max() < 26000


def test_faults_are_named(anatomies, tmp_path):
    with pytest.raises(InputError, match="holds no label map"):
        phantom.load_anatomies(str(tmp_path))
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.uint8), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(InputError, match="too few voxels"):
        phantom.load_anatomies(str(tmp_path))
    (tmp_path / "a.nii").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read"):
        phantom.load_anatomies(str(tmp_path))
    with pytest.raises(UsageError, match="expected a kind among"):
        phantom.make_subject(anatomies, 0, 0, "stroke")
    with pytest.raises(UsageError, match="slices >= 1"):
        phantom.make_subject(anatomies, 0, 0, "healthy", slices=0)
    with pytest.raises(UsageError, match="at least one anatomy"):
        phantom.make_subject([], 0, 0, "healthy")
