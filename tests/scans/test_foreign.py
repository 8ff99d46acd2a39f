"""What is no NIfTI file, or an odd one: each is read, or refused with the one thing to do."""

import bz2
import gzip
import lzma
import struct

import images
import nibabel as nib
import numpy as np
import pytest

from lgjax.runtime.errors import InputError
from lgjax.scans import nifti, sources

SHAPE = (6, 7, 5)
DATA = np.random.default_rng(0).integers(0, 100, SHAPE).astype(np.int16)
PLAIN = nib.Nifti1Image(DATA, images.affine()).to_bytes()
KEY = b"MD5E-s3423423--aabbccddeeff00112233445566778899.nii.gz"


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        nifti.read(path)
    for word in (path.name, *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"/annex/objects/" + KEY + b"\n", ("git-annex pointer", "datalad get", "git annex get")),
        (b"../../.git/annex/objects/Xx/Yy/" + KEY + b"/" + KEY, ("git-annex pointer", "datalad get")),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ("git-lfs pointer", "git lfs pull")),
        (b"PK\x03\x04" + bytes(400), ("zip archive", "Unpack")),
        (b"Rar!\x1a\x07\x00" + bytes(400), ("rar archive", "Unpack")),
        (b"7z\xbc\xaf\x27\x1c" + bytes(400), ("7z archive", "Unpack")),
        (lzma.compress(PLAIN), ("packed by xz", "xz -d")),
        (bz2.compress(PLAIN), ("packed by bzip2", "bzip2 -d")),
        (b"\x28\xb5\x2f\xfd" + bytes(400), ("packed by zstd", "zstd -d")),
        (gzip.compress(bytes(257) + b"ustar\x00" + bytes(400)), ("tar archive", "Unpack")),
        (gzip.compress(gzip.compress(PLAIN)), ("packed twice", "gunzip")),
        (gzip.compress(b"\x00\x00\x00\x01\x00\x00\x00\x10" + bytes(400)), ("FreeSurfer", "mri_convert")),
        (b"CDF\x01" + bytes(400), ("MINC", "mnc2nii")),
        (b"\x89HDF\r\n\x1a\n" + bytes(400), ("HDF5", "mnc2nii")),
        (b"NRRD0005\ntype: short\n" + bytes(400), ("NRRD", "3D Slicer")),
        (b"ObjectType = Image\nNDims = 3\n" + bytes(400), ("MetaImage", "3D Slicer")),
        (b"\x08\x00\x05\x00\x0a\x00" + bytes(400), ("DICOM", "dcm2niix")),
        (b"\x93NUMPY\x01\x00" + bytes(400), ("array without", "affine")),
        (b"%PDF-1.4" + bytes(400), ("picture", "dcm2niix")),
        (b"\x00\x05\x16\x07" + bytes(400), ("macOS", "._")),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', ("web page", "Download it again")),
        (b'{"message": "Not Found"}', ("JSON", "Download it again")),
        (bytes(600), ("only zeros", "Copy or download")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",  # gzip's bytes hold the time
)
def test_what_lies_under_the_name_of_a_scan_is_named(tmp_path, content, words):
    path = tmp_path / "one_T2.nii.gz"
    path.write_bytes(content)
    refused(path, *words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("brain.mgz", ("FreeSurfer", "mri_convert")),
        ("brain.mgh", ("FreeSurfer", "mri_convert")),
        ("IM0001.dcm", ("DICOM", "dcm2niix")),
        ("0001.IMA", ("DICOM", "dcm2niix")),
        ("t2.mnc", ("MINC", "mnc2nii")),
        ("t2.mnc.gz", ("MINC", "mnc2nii")),
        ("t2.nhdr", ("NRRD", "3D Slicer")),
        ("t2.mha", ("MetaImage", "3D Slicer")),
        ("t2+orig.HEAD", ("AFNI", "3dAFNItoNIFTI")),
        ("t2.PAR", ("Philips", "dcm2niix")),
        ("t2.nii.xz", ("not by gzip", "Unpack")),
        ("t2.nii.bz2", ("not by gzip", "Unpack")),
        ("cohort.tar.gz", ("archive", "Unpack")),
        ("t2.nii.gz.part", ("unfinished download", "again")),
        ("lh.pial.gii", ("surface", "scan")),
        ("t2.npy", ("array", "affine")),
        ("t2.png", ("picture", "dcm2niix")),
        ("t2.xyz", ("not named like a NIfTI file", ".nii.gz")),
    ],
)
def test_a_name_tells_what_to_convert_with(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"anything")
    refused(tmp_path / name, *words)


def test_a_link_into_an_annex_that_is_not_fetched(tmp_path):
    path = tmp_path / "sub-01" / "anat" / "sub-01_T2w.nii.gz"
    path.parent.mkdir(parents=True)
    path.symlink_to("../../.git/annex/objects/Xx/Yy/KEY/KEY")
    refused(path, "git-annex link", "datalad get")
    (subject,) = sources.find(str(tmp_path))
    with pytest.raises(InputError, match="datalad get"):
        sources.digest(subject)


def test_a_mask_that_is_not_fetched_is_named_rather_than_its_scan(tmp_path):
    images.save(tmp_path / "a.nii.gz", DATA)
    (tmp_path / "a_mask.nii.gz").symlink_to(".git/annex/objects/x")
    (subject,) = sources.find(str(tmp_path))
    with pytest.raises(InputError, match=r"a_mask\.nii\.gz: is a git-annex link"):
        sources.digest(subject)


# Pairs


def packed_pair(folder, *ends, name="oasis1"):
    images.save(folder / f"{name}.img", DATA, cls=nib.Nifti1Pair)
    for end in ends:
        part = folder / f"{name}.{end}"
        part.with_name(f"{part.name}.gz").write_bytes(gzip.compress(part.read_bytes(), mtime=0))
        part.unlink()


@pytest.mark.parametrize("ends", [(), ("hdr",), ("img",), ("hdr", "img")])
def test_a_pair_is_read_whichever_part_is_packed(tmp_path, ends):
    packed_pair(tmp_path, *ends)
    for end in ("hdr", "img"):
        path = tmp_path / f"oasis1.{end}{'.gz' if end in ends else ''}"
        np.testing.assert_array_equal(nifti.read(path).data, DATA)
    (subject,) = sources.find(str(tmp_path))
    assert subject.identifier == "sub-oasis1"
    assert [part.name.removesuffix(".gz") for part in subject.paths] == ["oasis1.hdr", "oasis1.img"]
    np.testing.assert_array_equal(subject.image().data, DATA)


def test_half_a_packed_pair(tmp_path):
    packed_pair(tmp_path, "hdr", "img")
    (tmp_path / "oasis1.img.gz").unlink()
    refused(tmp_path / "oasis1.hdr.gz", "oasis1.img.gz")


def test_analyze_says_what_it_lacks(tmp_path):
    nib.save(nib.Spm99AnalyzeImage(DATA, np.eye(4)), tmp_path / "old.img")
    refused(tmp_path / "old.hdr", "Analyze 7.5", "does not state its orientation", "dcm2niix")


# Scaling


def unscaled(path, dtype, slope, intercept):
    """Writes an image whose header states this scaling."""
    content = bytearray(images.save(path, DATA.astype(dtype)).read_bytes())
    content[112:120] = struct.pack("<ff", slope, intercept)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_integers_whose_scaling_is_nan_are_unscaled_with_a_warning(tmp_path, dtype):
    found = nifti.read(unscaled(tmp_path / "mask.nii", dtype, np.nan, np.nan))
    np.testing.assert_array_equal(found.data, DATA)
    assert ["unscaled" in warning for warning in found.warnings] == [True]


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept"),
    [(np.float32, np.nan, np.nan), (np.uint8, np.nan, 0), (np.uint8, 1, np.nan), (np.uint8, np.inf, np.nan)],
)
def test_other_scaling_that_is_no_number_is_refused(tmp_path, dtype, slope, intercept):
    refused(unscaled(tmp_path / "scan.nii", dtype, slope, intercept), "scaling")


# Axes


@pytest.mark.parametrize("more", [(1,), (1, 1), (1, 1, 1), (1, 1, 1, 1)])
def test_axes_that_hold_nothing_are_squeezed_and_given_back(tmp_path, more):
    volume = nifti.read(images.save(tmp_path / "scan.nii.gz", DATA.reshape(*SHAPE, *more)))
    np.testing.assert_array_equal(volume.data, DATA)
    nifti.write(tmp_path / "out.nii.gz", volume.data, volume, np.float32)
    out = nib.load(tmp_path / "out.nii.gz")
    assert out.shape == (*SHAPE, *more)
    np.testing.assert_array_equal(out.get_fdata().reshape(SHAPE), DATA)


def test_a_volume_of_five_axes_is_chosen_and_given_back_alone(tmp_path):
    path = images.save(tmp_path / "scan.nii.gz", np.stack([DATA, DATA + 1], -1)[..., None])
    refused(path, "holds 2 volumes", "--volume")
    volume = nifti.read(path, volume=1)
    np.testing.assert_array_equal(volume.data, DATA + 1)
    nifti.write(tmp_path / "out.nii.gz", volume.data, volume, np.float32)
    assert nib.load(tmp_path / "out.nii.gz").shape == SHAPE


@pytest.mark.parametrize("shape", [(1, *SHAPE), (1, *SHAPE, 1), (1, 1, *SHAPE)])
def test_axes_of_a_network_are_named(tmp_path, shape):
    refused(images.save(tmp_path / "scan.nii.gz", DATA.reshape(shape)), "axis of length 1", "without that axis")


def test_components_of_a_vector_are_no_volumes(tmp_path):
    refused(images.save(tmp_path / "warp.nii.gz", np.stack([DATA] * 3, -1)[..., None, :]), "5-D", "3-D")
