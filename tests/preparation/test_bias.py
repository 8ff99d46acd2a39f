"""N4 against known fields, and where it must hold back."""

from concurrent.futures import ThreadPoolExecutor

import images
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from lgjax.preparation import bias
from lgjax.preparation.bias import BiasField
from lgjax.scans import orientation

SETTINGS = BiasField(4.0, 3, 50, 1e-3)


def bent_head(strength=0.4):
    """Two tissues under a smooth field: the scan, the field and the brain, [S, H, W]."""
    data = images.head((40, 48, 36)).T
    inside = data > 0
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in data.shape), indexing="ij")
    tissue = np.where(np.hypot(x, y) < 0.4, 100.0, 140.0) + np.random.default_rng(0).normal(0, 2, data.shape)
    field = np.exp(strength * (x + 0.5 * y * z))
    return np.where(inside, tissue * field, 0).astype(np.float32), field, inside


def test_a_known_field_is_found():
    values, field, inside = bent_head()
    found, why = bias.estimate(values, inside, (1.0, 1.0, 1.0), BiasField(2.0, 3, 50, 1e-3))
    assert not why
    assert found[inside].mean(dtype=np.float64) == pytest.approx(1, abs=1e-5)
    assert found.min() == found[inside].min()
    assert found.max() == found[inside].max()
    ratio = (found / field)[inside]
    assert ratio.std() / ratio.mean() < 0.5 * field[inside].std() / field[inside].mean()
    flat = values / found
    tissue = inside & (values > 0)
    assert flat[tissue].std() < values[tissue].std()


def test_n4_gets_the_spacing_of_each_axis_and_the_settings(monkeypatch):
    class Recorded(sitk.N4BiasFieldCorrectionImageFilter):
        def Execute(self, image, mask):
            seen.append((image.GetSpacing(), mask.GetSpacing(), image.GetSize()))
            seen.append((self.GetConvergenceThreshold(), tuple(self.GetMaximumNumberOfIterations())))
            seen.append(self.GetNumberOfThreads())
            return super().Execute(image, mask)

    seen: list = []
    monkeypatch.setattr(sitk, "N4BiasFieldCorrectionImageFilter", Recorded)
    values = np.random.default_rng(0).normal(100, 5, (10, 24, 32)).astype(np.float32)
    bias.estimate(values, np.ones(values.shape, bool), (5.0, 2.0, 1.0), BiasField(4.0, 2, 3, 0.02))
    # SimpleITK counts axes from the last: 32 voxels of 1 mm are read in fours, 24 of 2 mm in pairs, 10 of 5 mm singly.
    assert seen[0] == ((4.0, 4.0, 5.0), (4.0, 4.0, 5.0), (8, 12, 10))
    assert seen[1] == (0.02, (3, 3))
    assert seen[2] == bias.THREADS


def test_units_do_not_matter_and_one_scan_gives_one_field():
    values, _, inside = bent_head()
    first, _ = bias.estimate(values, inside, (1.0, 1.0, 1.0), SETTINGS)
    again, _ = bias.estimate(values, inside, (1.0, 1.0, 1.0), SETTINGS)
    np.testing.assert_array_equal(first, again)
    for scale in (1e-6, 1e6):
        scaled, _ = bias.estimate(values * np.float32(scale), inside, (1.0, 1.0, 1.0), SETTINGS)
        np.testing.assert_allclose(scaled[inside], first[inside], rtol=2e-2)  # rounding, amplified by N4


@pytest.mark.parametrize("at_once", [1, 3])
def test_cores_do_not_matter(at_once):
    """ITK counts the cores that a process may use, and filters inside N4 split their sums by this count."""
    values, _, inside = bent_head()
    given = values, inside, (1.0, 1.0, 1.0), BiasField(4.0, 3, 10, 1e-3)
    filters, fields = sitk.ProcessObject, []
    before = filters.GetGlobalDefaultNumberOfThreads()
    try:
        for cores in (1, 2, 7):
            filters.SetGlobalDefaultNumberOfThreads(cores)
            with ThreadPoolExecutor(at_once) as pool:
                fields += [field for field, _ in pool.map(lambda _: bias.estimate(*given), range(at_once))]
            assert filters.GetGlobalDefaultNumberOfThreads() == cores  # those of a user's own filters
    finally:
        filters.SetGlobalDefaultNumberOfThreads(before)
    for field in fields:
        np.testing.assert_array_equal(field, fields[0])


def test_the_order_of_axes_does_not_matter():
    values, _, _ = bent_head()
    plain = nib.Nifti1Image(values.T, np.diag([1.0, -1.0, 1.0, 1.0]))
    fields = []
    for image in (plain, plain.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))):
        data = np.asarray(image.dataobj)
        scan = orientation.axial(data, orientation.to_lps(image.affine))
        fields.append(bias.estimate(scan, scan > 0, orientation.zooms(image.affine), SETTINGS)[0])
    np.testing.assert_array_equal(*fields)


@pytest.mark.parametrize("change", ["z-score", "inverted", "mostly zero", "one slice"])
def test_where_no_field_can_be_known_there_is_none(change):
    values, _, inside = bent_head()
    if change == "z-score":
        values = (values - 100) / 20
    elif change == "inverted":
        values = -values
    elif change == "mostly zero":
        values = np.where(np.random.default_rng(0).uniform(size=values.shape) < 0.6, 0, values)
    else:
        values, inside = values[18:19], inside[18:19]
    found, why = bias.estimate(values, inside, (1.0, 1.0, 1.0), SETTINGS)
    assert found is None
    assert "no bias field was estimated" in why


@pytest.mark.parametrize(
    ("shape", "zooms"), [((5, 48, 40), (5.0, 0.9, 0.9)), ((36, 5, 40), (1, 8, 1)), ((4, 4, 4), (30, 40, 40))]
)
def test_thick_slices_and_few_voxels(shape, zooms):
    values = np.random.default_rng(0).normal(100, 5, shape).astype(np.float32)
    found, why = bias.estimate(values, np.ones(shape, bool), zooms, SETTINGS)
    assert not why
    assert np.isfinite(found).all()
    assert found.min() > 0
