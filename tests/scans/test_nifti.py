"""The strict reader and the writer: what is accepted, what is rejected, and never a raw traceback."""

import gzip
import os
import pathlib

import hypothesis
import images
import nibabel as nib
import numpy as np
import pytest
from hypothesis import strategies as st

from lgjax.runtime import files
from lgjax.runtime.errors import EnvironmentFault, InputError
from lgjax.scans import nifti

SHAPE = (6, 7, 5)
OBLIQUE = np.array([[-1.1, 0.1, 0.0, 3], [0.1, 0.9, 0.2, -4], [0.0, -0.2, 2.0, 5], [0, 0, 0, 1.0]])


def voxels(dtype=np.int16, shape=SHAPE):
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


@pytest.fixture
def canonical(tmp_path):
    return images.save(tmp_path / "in" / "scan.nii.gz", voxels())


@pytest.fixture
def plain(tmp_path):
    return images.save(tmp_path / "in" / "plain.nii", voxels())


def rejects(path, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        nifti.read(path, **options)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


# What is accepted


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64, np.uint64, np.float32, np.float64]
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr", ".img"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("version", [1, 2])
def test_every_flavour_reads_like_the_canonical_file(tmp_path, dtype, suffix, big, version):
    paired = suffix in (".hdr", ".img")
    kinds = {1: (nib.Nifti1Image, nib.Nifti1Pair), 2: (nib.Nifti2Image, nib.Nifti2Pair)}
    cls = kinds[version][paired]
    header = cls.header_class(endianness=">" if big else "<")
    header.set_data_dtype(dtype)
    image = cls(voxels(dtype), OBLIQUE, header)
    image.set_sform(OBLIQUE, 1)
    image.set_qform(OBLIQUE, 1)
    nib.save(image, tmp_path / f"scan{suffix}")
    volume = nifti.read(tmp_path / f"scan{suffix}")
    np.testing.assert_array_equal(volume.data, voxels(np.float32))
    assert volume.data.dtype == np.float32
    np.testing.assert_allclose(volume.affine, OBLIQUE, rtol=1e-6)
    stored = [tmp_path / "scan.hdr", tmp_path / "scan.img"] if paired else [tmp_path / f"scan{suffix}"]
    assert volume.sha256 == files.sha256(*stored)


def test_scaling(tmp_path, plain):
    for slope, intercept, expected in ((0, 5, voxels()), (2, -3, 2.0 * voxels() - 3), (1, 0, voxels())):
        path = images.patch(plain, tmp_path / "scaled.nii", scl_slope=slope, scl_inter=intercept)
        np.testing.assert_array_equal(nifti.read(path).data, expected)
    for slope, intercept in ((np.nan, 0), (np.inf, 0), (1, np.nan)):
        rejects(images.patch(plain, tmp_path / "scaled.nii", scl_slope=slope, scl_inter=intercept), "scaling")


def test_values_beyond_float32_become_infinite(tmp_path):
    data = voxels(np.float64)
    data[0, 0, 0] = 1e300
    assert np.isposinf(nifti.read(images.save(tmp_path / "huge.nii", data)).data[0, 0, 0])


def test_one_volume_of_a_4d_file_is_squeezed_and_given_back(tmp_path):
    path = images.save(tmp_path / "one.nii.gz", voxels(shape=(*SHAPE, 1)))
    volume = nifti.read(path)
    assert volume.data.shape == SHAPE
    nifti.write(tmp_path / "out.nii.gz", volume.data, volume, np.float32)
    assert nib.load(tmp_path / "out.nii.gz").shape == (*SHAPE, 1)


def test_one_of_several_volumes_is_chosen(tmp_path):
    data = voxels(shape=(*SHAPE, 3))
    path = images.save(tmp_path / "several.nii.gz", data)
    rejects(path, "--volume")
    rejects(path, "no volume 3", volume=3)
    for k in range(3):
        volume = nifti.read(path, volume=k)
        np.testing.assert_array_equal(volume.data, data[..., k])
    nifti.write(tmp_path / "out.nii.gz", volume.data, volume, np.uint8)
    assert nib.load(tmp_path / "out.nii.gz").shape == SHAPE


def test_other_dimensions(tmp_path):
    path = images.save(tmp_path / "flat.nii.gz", voxels(shape=(6, 7)))
    rejects(path, "--slice")
    volume = nifti.read(path, single_slice=True)
    assert volume.data.shape == (6, 7, 1)
    nifti.write(tmp_path / "out.nii.gz", volume.data, volume, np.float32)
    assert nib.load(tmp_path / "out.nii.gz").shape == (6, 7)
    rejects(images.save(tmp_path / "five.nii.gz", voxels(shape=(*SHAPE, 1, 3))), "5-D")


# Geometry


def test_affines_that_say_nothing_are_rejected(tmp_path, plain):
    out = tmp_path / "bad.nii"
    rejects(images.patch(plain, out, srow_x=[np.nan, 0, 0, 0]), "not finite")
    rejects(images.patch(plain, out, srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0]), "singular")
    rejects(images.patch(plain, out, srow_x=0, srow_y=0, srow_z=0), "0 x 0 x 0 mm")
    rejects(images.patch(plain, out, srow_x=[3e38, 0, 0, 0]), "mm")
    rejects(images.patch(plain, out, sform_code=0, quatern_b=np.nan), "affine")
    rejects(images.patch(plain, out, sform_code=0, quatern_b=2), "affine")
    rejects(images.patch(plain, out, sform_code=0, pixdim=[1, -1, 1, 1, 1, 1, 1, 1]), "affine")
    rejects(images.patch(plain, out, sform_code=77), "sform_code 77")


def test_disagreeing_qform_and_sform_warn_and_are_both_kept(tmp_path, plain):
    path = images.patch(plain, tmp_path / "two.nii", qoffset_x=50)
    volume = nifti.read(path)
    assert "disagree" in volume.warnings[0]
    np.testing.assert_array_equal(volume.affine, images.affine())
    nifti.write(tmp_path / "out.nii.gz", volume.data, volume, np.float32)
    before, after = nib.load(path).header, nib.load(tmp_path / "out.nii.gz").header
    for form in ("get_qform", "get_sform"):
        np.testing.assert_array_equal(*(getattr(header, form)(coded=True)[0] for header in (before, after)))
    assert nifti.read(tmp_path / "out.nii.gz").warnings == volume.warnings
    assert not nifti.read(plain).warnings


def test_no_orientation_needs_assume_ras(tmp_path, plain):
    path = images.patch(plain, tmp_path / "none.nii", qform_code=0, sform_code=0)
    rejects(path, "--assume_ras")
    volume = nifti.read(path, assume_ras=True)
    assert volume.warnings
    np.testing.assert_array_equal(volume.affine, np.eye(4))
    nifti.write(tmp_path / "out.nii.gz", volume.data, volume, np.float32)
    header = nib.load(tmp_path / "out.nii.gz").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 0)


def test_units_are_read_and_kept(tmp_path, plain):
    rows = np.diag([0.001, 0.001, 0.002, 1])
    path = images.patch(plain, tmp_path / "m.nii", xyzt_units=1, srow_x=rows[0], srow_y=rows[1], srow_z=rows[2])
    volume = nifti.read(path)
    np.testing.assert_allclose(volume.zooms, [1, 1, 2], rtol=1e-6)
    nifti.write(tmp_path / "out.nii.gz", volume.data, volume, np.float32)
    np.testing.assert_array_equal(nifti.read(tmp_path / "out.nii.gz").affine, volume.affine)
    assert nib.load(tmp_path / "out.nii.gz").header.get_xyzt_units()[0] == "meter"


def test_check_same_grid_shows_both_grids():
    image = images.volume(voxels())
    nifti.check_same_grid(image, images.volume(voxels(), images.affine(origin=(-10.0001, -12, -8))))
    with pytest.raises(InputError, match=r"(?s)\(6, 7, 4\).*\(6, 7, 5\)"):
        nifti.check_same_grid(image, images.volume(voxels()[..., 1:]))
    with pytest.raises(InputError, match=r"(?s)0\.5 mm away.*-9\.5.*-10\."):
        nifti.check_same_grid(image, images.volume(voxels(), images.affine(origin=(-9.5, -12, -8))))


# Damage


def test_missing_folder_permission_and_pipe(tmp_path, canonical, plain):
    rejects(tmp_path / "absent.nii.gz", "does not exist")
    (tmp_path / "folder.nii").mkdir()
    rejects(tmp_path / "folder.nii", "is a folder")
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "gone")
    rejects(tmp_path / "link.nii.gz", "link to a file that is not there")
    (tmp_path / "good.nii.gz").symlink_to(canonical)
    assert nifti.read(tmp_path / "good.nii.gz").data.shape == SHAPE
    os.mkfifo(tmp_path / "pipe.nii")
    rejects(tmp_path / "pipe.nii", "not a regular file")
    rejects(tmp_path / "scan.xyz", "not named like")
    images.save(tmp_path / "pair.hdr", voxels(), cls=nib.Nifti1Pair)
    (tmp_path / "pair.img").unlink()
    rejects(tmp_path / "pair.hdr", "pair.img")
    if os.geteuid() != 0:
        plain.chmod(0)
        rejects(plain, "Permission denied")


def test_permission_denied(plain, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    rejects(plain, "Permission denied")


def test_truncated_at_any_byte(tmp_path, canonical, plain):
    for source in (canonical, plain):
        content = source.read_bytes()
        path = tmp_path / source.name
        for n in range(len(content)):
            path.write_bytes(content[:n])
            rejects(path, "empty" if n == 0 else "truncated|no NIfTI header|plain|damaged")


def test_trailing_data(tmp_path, canonical, plain):
    path = tmp_path / "tail.nii.gz"
    content, raw = canonical.read_bytes(), plain.read_bytes()
    tails = {
        b"a dozen bytes": "end of its gzip",
        b"a few": "end of its gzip",  # fewer than a gzip header has
        gzip.compress(b"more"): "declared content",
    }
    for tail, match in tails.items():
        path.write_bytes(content + tail)
        rejects(path, match)
    path.write_bytes(gzip.compress(raw + b"x"))
    rejects(path, "declared content")
    path.write_bytes(gzip.compress(raw + bytes(2 << 20)))
    rejects(path, "declared content")
    for padded in (
        content + bytes(512),
        gzip.compress(raw + bytes(512)),
        gzip.compress(raw[:400]) + gzip.compress(raw[400:]),
    ):
        path.write_bytes(padded)
        np.testing.assert_array_equal(nifti.read(path).data, voxels())
    plain.write_bytes(raw + b"x")
    rejects(plain, "declared content")


def test_other_content_than_the_name_says(tmp_path, canonical, plain):
    for name, content, match in (
        ("a.nii.gz", b"", "empty"),
        ("b.nii.gz", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("c.nii.gz", b"\n<!DOCTYPE html><html></html>", "web page"),
        ("d.nii", b"<html>" + b" " * 600, "web page"),
        ("e.nii", canonical.read_bytes(), "end in .gz"),
        ("f.nii.gz", plain.read_bytes(), "without .gz"),
        ("g.nii.gz", gzip.compress(b"hello" * 200), "no NIfTI header"),
        ("h.nii", bytes(128) + b"DICM" + bytes(400), "DICOM"),
        ("i.nii.gz", b"PK\x03\x04" + bytes(600), "zip"),
        ("j.nii.gz", gzip.compress(canonical.read_bytes() + bytes(600)), "packed twice"),
    ):
        (tmp_path / name).write_bytes(content)
        rejects(tmp_path / name, match)


def test_analyze_is_rejected(tmp_path):
    nib.save(nib.Spm99AnalyzeImage(voxels(), np.eye(4)), tmp_path / "old.img")
    rejects(tmp_path / "old.img", "Analyze")


def test_a_gzip_bomb_is_rejected_from_its_header(tmp_path, plain, monkeypatch):
    monkeypatch.setattr(nifti.np, "empty", None)  # nothing may be allocated
    dim = [3, 30000, 30000, 30000, 1, 1, 1, 1]
    rejects(images.patch(plain, tmp_path / "bomb.nii.gz", dim=dim), "--max_voxels")
    rejects(images.patch(plain, tmp_path / "small.nii.gz"), "--max_voxels", max_voxels=100)
    dim = [3, 512, 512, 512, 1, 1, 1, 1]  # allowed, and not there
    rejects(images.patch(plain, tmp_path / "hollow.nii.gz", dim=dim), "truncated")
    rejects(images.patch(plain, tmp_path / "hollow.nii", dim=dim), "truncated")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"dim": [3, -6, 7, 5, 1, 1, 1, 1]}, "shape"),
        ({"dim": [3, 0, 7, 5, 1, 1, 1, 1]}, "shape"),
        ({"dim": [9, 6, 7, 5, 1, 1, 1, 1]}, "9 dimensions"),
        ({"dim": [7] + [32767] * 7}, "--max_voxels"),
        ({"datatype": 128, "bitpix": 24}, "RGB"),
        ({"datatype": 32, "bitpix": 64}, "complex"),
        ({"datatype": 1536, "bitpix": 128}, "float128"),
        ({"datatype": 1, "bitpix": 1}, "binary"),
        ({"datatype": 999}, "unknown"),
        ({"vox_offset": 1e6}, "truncated"),
        ({"vox_offset": 0}, "byte 0"),
        ({"vox_offset": -352}, "byte -352"),
        ({"vox_offset": np.nan}, "byte nan"),
        ({"vox_offset": 352.5}, "byte 352.5"),
        ({"magic": b"ni1"}, "magic"),
        ({"magic": b"abc"}, "magic"),
    ],
)
def test_headers_that_lie(tmp_path, plain, fields, match):
    rejects(images.patch(plain, tmp_path / "lie.nii", **fields), match)
    rejects(images.patch(plain, tmp_path / "lie.nii.gz", **fields), match)


def equal(volume, other) -> bool:
    return (
        np.array_equal(volume.data, other.data, equal_nan=True)
        and np.array_equal(volume.affine, other.affine)
        and volume.header.binaryblock == other.header.binaryblock
    )


def count_rejected_flips(source: pathlib.Path, target: pathlib.Path, n: int) -> int:
    """Flips n random bits, one at a time: the file is rejected, or nothing at all has changed.

    The latter happens in gzip's own header (time, file name), and in the stream because deflate can spell the
    same bytes in several ways: a flipped distance may point at another run of the same background.
    """
    content, expected = source.read_bytes(), nifti.read(source)
    rejected = 0
    for bit in np.random.default_rng(0).integers(0, 8 * len(content), n):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        target.write_bytes(damaged)
        try:
            assert equal(nifti.read(target), expected)
        except InputError:
            rejected += 1
    return rejected


def test_bit_flips_in_a_small_file(tmp_path, canonical):
    assert count_rejected_flips(canonical, tmp_path / "flipped.nii.gz", 1000) > 875


@pytest.mark.skipif(not images.REAL.is_dir(), reason=images.NEEDS_REAL)
def test_bit_flips_in_a_real_scan(tmp_path):
    source = min((images.REAL / "brats18").glob("*/*_t2.nii.gz"))
    assert count_rejected_flips(source, tmp_path / "flipped.nii.gz", 50) >= 45


@pytest.mark.skipif(not images.REAL.is_dir(), reason=images.NEEDS_REAL)
def test_real_scans_read_as_nibabel_reads_them():
    paths = sorted((images.REAL / "brats18").glob("*/*_t2.nii.gz"))
    assert len(paths) == 12
    for path in paths:
        volume = nifti.read(path)
        image = nib.load(path)
        assert volume.warnings == ()
        np.testing.assert_array_equal(volume.affine, image.affine)
        np.testing.assert_array_equal(volume.data, np.asanyarray(image.dataobj))


SETTINGS = hypothesis.settings(
    max_examples=150, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)


@SETTINGS
@hypothesis.given(changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_header_is_read_or_rejected(tmp_path, plain, changes):
    content = bytearray(plain.read_bytes())
    for position, value in changes:
        content[position] = value
    for path, stored in (
        (tmp_path / "any.nii", bytes(content)),
        (tmp_path / "any.nii.gz", gzip.compress(content, 1)),
    ):
        path.write_bytes(stored)
        try:
            volume = nifti.read(path)
        except InputError:
            continue
        assert np.isfinite(volume.affine).all()
        nifti.write(tmp_path / "out.nii.gz", volume.data, volume, np.float32)
        again = nifti.read(tmp_path / "out.nii.gz")
        np.testing.assert_array_equal(again.data, volume.data)
        np.testing.assert_array_equal(again.affine, volume.affine)


@SETTINGS
@hypothesis.given(position=st.integers(0, 10**6), value=st.integers(0, 255))
def test_damage_inside_gzip_is_never_silent(tmp_path, canonical, position, value):
    content = bytearray(canonical.read_bytes())
    content[position % len(content)] = value
    path = tmp_path / "damaged.nii.gz"
    path.write_bytes(content)
    try:
        volume = nifti.read(path)
    except InputError:
        return
    assert equal(volume, nifti.read(canonical))


# Writing


@pytest.mark.parametrize("kind", ["pair", "nifti2", "big", "int16"])
def test_outputs_lie_on_the_grid_of_the_input(tmp_path, kind):
    path = tmp_path / ("in.hdr" if kind == "pair" else "in.nii.gz")
    cls = {"pair": nib.Nifti1Pair, "nifti2": nib.Nifti2Image}.get(kind, nib.Nifti1Image)
    header = cls.header_class(endianness=">" if kind == "big" else "<")
    header["descrip"] = b"kept"
    image = cls(voxels(), OBLIQUE, header)
    image.set_qform(OBLIQUE, 2)
    image.set_sform(OBLIQUE, 4)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_slope_inter(2, 1)
    nib.save(image, path)
    volume = nifti.read(path)
    for dtype in (np.float32, np.uint8):
        data = (volume.data > 50).astype(np.float32) * (0.1 if dtype == np.float32 else 1)
        nifti.write(tmp_path / "out.nii.gz", data, volume, dtype)
        out, source = nib.load(tmp_path / "out.nii.gz"), nib.load(path)
        assert out.get_data_dtype() == dtype
        np.testing.assert_array_equal(np.asanyarray(out.dataobj), data)
        np.testing.assert_array_equal(out.affine, source.affine)
        for form in ("get_qform", "get_sform"):
            (ours, code), (theirs, expected) = (getattr(i.header, form)(coded=True) for i in (out, source))
            np.testing.assert_array_equal(ours, theirs)
            assert code == expected
        assert out.header.get_xyzt_units() == ("mm", "sec")
        np.testing.assert_array_equal(out.header["pixdim"][:4], source.header["pixdim"][:4])
        nifti.check_same_grid(volume, nifti.read(tmp_path / "out.nii.gz"))


def test_a_volume_that_never_was_a_file(tmp_path):
    volume = images.volume(images.head(), OBLIQUE)
    nifti.write(tmp_path / "out.nii.gz", volume.data, volume, np.float32)
    image = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-6)
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_equal_data_give_equal_bytes(tmp_path, canonical):
    volume = nifti.read(canonical)
    for name, order in (("one.nii.gz", "F"), ("another.nii.gz", "C")):
        nifti.write(tmp_path / name, volume.data.copy(order), volume, np.float32)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "another.nii.gz").read_bytes()
    assert (tmp_path / "one.nii.gz").read_bytes()[3:8] == bytes(5)  # no file name, no time


def test_a_map_is_as_small_as_zlib_makes_it(tmp_path):
    """A brain of noise in a background of zeros, as maps are."""
    data = np.zeros((60, 60, 40), np.float32)
    data[10:50, 10:50, 5:35] = np.random.default_rng(0).normal(size=(40, 40, 30)).round(2)
    nifti.write(tmp_path / "map.nii.gz", data, images.volume(data, OBLIQUE), np.float32)
    written = (tmp_path / "map.nii.gz").read_bytes()
    plain = gzip.decompress(written)  # zlib's own reader, which checks length and checksum
    np.testing.assert_array_equal(np.frombuffer(plain[352:], "<f4").reshape(data.shape, order="F"), data)
    assert len(written) < 1.1 * len(gzip.compress(plain, 6)) < len(plain) / 2


def test_header_extensions_are_not_passed_on(tmp_path):
    image = nib.Nifti1Image(voxels(), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"patient: Doe"))
    nib.save(image, tmp_path / "in.nii")
    volume = nifti.read(tmp_path / "in.nii")
    np.testing.assert_array_equal(volume.data, voxels())
    nifti.write(tmp_path / "out.nii.gz", volume.data, volume, np.float32)
    assert b"Doe" not in gzip.decompress((tmp_path / "out.nii.gz").read_bytes())


def test_the_shape_must_match(tmp_path, canonical):
    volume = nifti.read(canonical)
    with pytest.raises(ValueError, match="expected data of shape"):
        nifti.write(tmp_path / "out.nii.gz", volume.data[1:], volume, np.float32)


def test_atomic_write_makes_folders_and_replaces_links(tmp_path):
    target = tmp_path / "new" / "folder" / "file.json"
    files.atomic_write(target, "é")
    assert target.read_bytes() == "é".encode()
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    (tmp_path / "link").symlink_to(outside)
    files.atomic_write(tmp_path / "link", b"new")
    assert outside.read_text() == "untouched"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("name", ["os.fsync", "os.replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, name, error):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_):
        raise error

    monkeypatch.setattr(name, fail)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else EnvironmentFault
    with pytest.raises(expected):
        files.atomic_write(path, b"new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        files.atomic_write(tmp_path / "file" / "below", b"")
    with pytest.raises(EnvironmentFault):
        files.atomic_write("/proc/no/such/place", b"")
