"""Every file a user may have, good and bad in one folder, through the binaries as a user runs them.

Each run is made once; the tests look at what it said and what it left behind.
"""

import functools
import gzip
import hashlib
import importlib
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import images
import nibabel as nib
import numpy as np
import pytest
import server
import SimpleITK as sitk
from conftest import ROOT

from lgjax import models
from lgjax.preparation import recipe
from lgjax.runtime import files
from lgjax.training import settings, step
from lgjax.workdir import checkpoints, experiment

HEAD, AFFINE = images.head(), images.affine()
BRAIN = HEAD > 0
N_BRAIN = int(BRAIN.sum())


def shifted(by: int) -> np.ndarray:
    """The good scan with so much more in its brain: the same z-scores, and another scan to preprocess."""
    return HEAD + by * BRAIN


PLAIN = nib.Nifti1Image(HEAD.astype(np.int16), AFFINE).to_bytes()
PACKED = gzip.compress(PLAIN, mtime=0)


class Binary(NamedTuple):
    """A binary that takes scans: what it is told beside its input and output, and its first output of a subject."""

    flags: tuple[str, ...]  # {workdir} stands for a trained work directory
    image: str  # entities
    picture: str  # what draws the picture of a subject, and takes most of the time


BINARIES = {
    "restore": Binary(
        ("--workdir={workdir}", "--method=intensity"), "space-orig_desc-anomaly_T2w", "lgjax.derivatives.write.picture"
    ),
    "preprocess": Binary(
        (
            "--config=configs/data.py:smoke",
            "--config.height=32",
            "--config.width=32",
            "--config.spacing=1.0",
            "--config.bias_field.correct=False",
            "--config.histogram.match=False",
        ),
        "desc-preproc_T2w",
        "lgjax.preparation.mosaic.mosaic",
    ),
}


class Run(NamedTuple):
    """What a binary left behind."""

    binary: str
    code: int
    stdout: str
    stderr: str
    failed: dict[str, str]  # the table of failures on stderr: message by identifier
    scans: pathlib.Path
    out: pathlib.Path

    def image(self, subject: str) -> pathlib.Path:
        return self.out / subject / "anat" / f"{subject}_{BINARIES[self.binary].image}.nii.gz"

    def scores(self, subject: str) -> np.ndarray:
        """The anomaly map; of a binary that writes none, the z-scores of its image."""
        found = nib.load(self.image(subject)).get_fdata()
        if self.binary == "restore":
            return found
        (path,) = self.image(subject).parent.glob("*_desc-brain_mask.nii.gz")
        return zscores(found, nib.load(path).get_fdata() > 0)

    def sidecar(self, subject: str) -> dict:
        path = self.image(subject)
        return json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())


def lgjax(binary: str, *arguments, without: str = "", threads: bool = True) -> subprocess.CompletedProcess:
    """Runs a binary; `without` names a function that is to draw nothing, which saves time, as threads do."""
    return server.run(binary, *arguments, before=functools.partial(strict, without, threads))


def strict(without: str, threads: bool) -> None:
    """Prints as in most people's terminals: a name that is no UTF-8 cannot be printed as it is."""
    (server.in_threads if threads else server.in_forks)()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="strict")
    if without:
        module, _, name = without.rpartition(".")
        setattr(importlib.import_module(module), name, lambda *_, **__: b"")


def run(binary: str, workdir: pathlib.Path, scans: pathlib.Path, *flags: str, **how) -> Run:
    out = scans.parent / f"{scans.name}-{binary}"
    told = [flag.format(workdir=workdir) for flag in BINARIES[binary].flags]
    result = lgjax(binary, *told, f"--input={scans}", f"--output={out}", *flags, **how)
    lines = re.split(r"^failed: (?=sub-)", result.stderr, flags=re.MULTILINE)[1:]
    failed = dict(line.split(": ", 1) for line in lines)
    return Run(binary, result.returncode, result.stdout, result.stderr, failed, scans, out)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, experiments):
    """A work directory with untrained weights; 1 mm scans keep their resolution on its slices."""
    config = experiments.smoke()
    config.data.height = config.data.width = 32
    config.data.spacing = 1.0
    config.data.calibration_subjects = 1
    config.model.channels = (4,)
    config.model.latent_channels = 4
    config.model.variance_channels = (4, 4)
    folder = tmp_path_factory.mktemp("workdir")
    experiment.record(config, folder)
    checkpoints.save(
        folder / "checkpoints",
        1,
        step.initial_state(models.from_config(config, config.train.precision), settings.from_config(config)),
    )
    recipe.write(folder / "preprocessing.json", recipe.bare(experiment.grid(config)))
    files.atomic_write(folder / "training.json", json.dumps({"TrainedOn": "nothing", "Subjects": []}))
    return folder


# What must be refused: file name, how it is made, words of the message. Files beside it (a mask) are made along.

Maker = Callable[[pathlib.Path], object]


def content(data: bytes) -> Maker:
    return lambda path: path.write_bytes(data)


def patched(shift: int = 0, **fields) -> Maker:
    """The good scan, `shifted`, with a header that says something else."""

    def make(path: pathlib.Path) -> None:
        source = path.parent.parent / "plain.nii"
        source.write_bytes(nib.Nifti1Image(shifted(shift).astype(np.int16), AFFINE).to_bytes())
        images.patch(source, path, **fields)

    return make


def saved(data: np.ndarray, matrix: np.ndarray = AFFINE, cls=nib.Nifti1Image) -> Maker:
    return lambda path: images.save(path, data, matrix, cls)


def masked(mask: np.ndarray, matrix: np.ndarray = AFFINE, number: int = 0) -> Maker:
    """The good scan, `shifted` by a number, with a mask beside it: the same scan twice would be one."""

    def make(path: pathlib.Path) -> None:
        patched(30 + number)(path)
        images.save(path.with_name(path.name.replace(".nii.gz", "_mask.nii.gz")), mask.astype(np.float32), matrix)

    return make


def flipped(data: bytes, byte: int) -> bytes:
    """The lowest bit of one byte flipped; negative numbers count from the end."""
    damaged = bytearray(data)
    damaged[byte] ^= 1
    return bytes(damaged)


def two_of_one_name(path: pathlib.Path) -> None:
    """Two different scans whose names differ in punctuation only."""
    images.save(path, HEAD)
    images.save(path.with_name(path.name.replace("_", "-")), 2 * HEAD)


def pair_without_voxels(path: pathlib.Path) -> None:
    images.save(path, HEAD, cls=nib.Nifti1Pair)
    path.with_suffix(".img").unlink()


def pair_cut_short(path: pathlib.Path) -> None:
    images.save(path, HEAD, cls=nib.Nifti1Pair)
    voxels = path.with_suffix(".img")
    voxels.write_bytes(voxels.read_bytes()[:-1])


def unmasked(path: pathlib.Path) -> None:
    """A head with an empty mask beside it."""
    masked(0 * HEAD)(path)
    images.save(path, HEAD + np.random.default_rng(1).rayleigh(5, HEAD.shape).astype(np.float32))


def mask_cut_short(path: pathlib.Path) -> None:
    path.write_bytes(PACKED)
    path.with_name(path.name.replace(".nii.gz", "_mask.nii.gz")).write_bytes(PACKED[:-30])


def replaced(value: float, share: float) -> np.ndarray:
    """The good scan with a share of its brain replaced."""
    data = HEAD.astype(np.float64)
    data[tuple(np.argwhere(BRAIN)[: round(share * N_BRAIN)].T)] = value
    return data


STORED = gzip.compress(PLAIN, 0, mtime=0)  # not compressed, so that a flipped bit of a voxel is seen by the CRC alone
ZEROS = gzip.compress(bytes(1 << 20), mtime=0)
HEADER = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), AFFINE).header
HEADER["dim"][:4] = 3, 32767, 32767, 3
BOMB = gzip.compress(HEADER.binaryblock + bytes(4), mtime=0) + 3000 * ZEROS  # 3 MB that unpack to 3 GB
TINY = np.zeros(HEAD.shape)
TINY[10, 12, 8] = 1
COPY, REWRITE, SKULL = "Copy or download the file again", "from DICOM again", "--mask"

BAD: dict[str, tuple[Maker, tuple[str, ...]]] = {
    # 1, 2
    "cutgz.nii.gz": (content(PACKED[: len(PACKED) // 2]), ("is truncated", COPY)),
    "cutgzheader.nii.gz": (content(PACKED[:15]), ("is truncated", COPY)),
    "cut.nii": (content(PLAIN[:-1]), ("is truncated", COPY)),
    "cutheader.nii": (content(PLAIN[:200]), ("header ends after 200 bytes", COPY)),
    "cutpair.hdr": (pair_cut_short, ("cutpair.hdr", "is truncated", COPY)),
    # 3, 4, 5
    "crc.nii.gz": (content(flipped(PACKED, -8)), ("is damaged", "CRC", COPY)),
    "voxelbit.nii.gz": (content(flipped(STORED, -9)), ("is damaged", "CRC", COPY)),
    "deflate.nii.gz": (content(PACKED[:10] + b"\x07" + PACKED[11:]), ("is damaged", "deflate block", COPY)),
    "few.nii.gz": (content(PACKED + b"few"), ("data after the end of its gzip stream", COPY)),
    "tail.nii.gz": (content(PACKED + b"a dozen bytes"), ("data after the end of its gzip stream", COPY)),
    "second.nii.gz": (content(PACKED + gzip.compress(b"more")), ("data after its declared content", COPY)),
    "empty.nii.gz": (content(b""), ("is empty (zero bytes)", COPY)),
    "empty.plain.nii": (content(b""), ("is empty (zero bytes)", COPY)),
    # 6, 7
    "html.nii.gz": (content(b"<!DOCTYPE html><html>Log in</html>"), ("is a web page", "Download it again")),
    "lfs.nii.gz": (
        content(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        ("is a git-lfs pointer", "git lfs pull"),
    ),
    "packed.nii": (content(PACKED), ("holds gzip data", "Rename it to end in .gz")),
    "unpacked.nii.gz": (content(PLAIN), ("holds plain NIfTI data", "Rename it without .gz")),
    "dicom.nii": (content(bytes(128) + b"DICM" + bytes(400)), ("is a DICOM file", "dcm2niix")),
    "zip.nii.gz": (content(b"PK\x03\x04" + bytes(600)), ("is a zip archive", "Unpack it")),
    "nrrd.nii": (
        content(b"NRRD0004\n" + bytes(600)),
        ("is an NRRD file", "Convert it to NIfTI"),
    ),
    "png.nii": (content(b"\x89PNG\r\n\x1a\n" + bytes(600)), ("is a picture", "Give the scan itself")),
    "text.nii.gz": (content(gzip.compress(b"hello " * 200)), ("holds no NIfTI header", COPY)),
    "analyze.hdr": (lambda path: nib.save(nib.Spm99AnalyzeImage(HEAD, AFFINE), path), ("Analyze", REWRITE)),
    # 8, 9
    "bomb.nii.gz": (content(BOMB), ("(32767, 32767, 3)", "more than 268435456 voxels", "--max_voxels")),
    "hollow.nii.gz": (patched(dim=[3, 600, 600, 600, 1, 1, 1, 1]), ("is truncated", COPY)),
    "negative.nii": (patched(dim=[3, -20, 24, 16, 1, 1, 1, 1]), ("declares the shape (-20, 24, 16)", REWRITE)),
    "zero.nii.gz": (patched(dim=[3, 20, 0, 16, 1, 1, 1, 1]), ("declares the shape (20, 0, 16)", REWRITE)),
    "huge.nii": (patched(dim=[7] + 7 * [32767]), ("more than 268435456 voxels", "--max_voxels")),
    "nine.nii": (patched(dim=[9, 20, 24, 16, 1, 1, 1, 1]), ("declares 9 dimensions", REWRITE)),
    "none.nii": (patched(dim=[0, 20, 24, 16, 1, 1, 1, 1]), ("declares 0 dimensions", REWRITE)),
    # 10, 11, 12
    "rgb.nii.gz": (patched(datatype=128, bitpix=24), ("type RGB (code 128)", "one number a voxel")),
    "complex.nii": (patched(datatype=32, bitpix=64), ("type complex64 (code 32)", "one number a voxel")),
    "quad.nii": (patched(datatype=1536, bitpix=128), ("type float128 (code 1536)", "one number a voxel")),
    "unknown.nii": (patched(datatype=999), ("type unknown (code 999)", "one number a voxel")),
    "offset.nii.gz": (patched(vox_offset=1e6), ("is truncated", COPY)),
    "offsetnan.nii": (patched(vox_offset=np.nan), ("start at byte nan", REWRITE)),
    "slope.nii": (patched(scl_slope=np.nan), ("scaling slope nan", REWRITE)),
    "slopeinf.nii": (patched(scl_slope=np.inf), ("scaling slope inf", REWRITE)),
    "intercept.nii": (patched(scl_slope=1, scl_inter=np.nan), ("intercept nan", REWRITE)),
    # 14, 16
    "affinenan.nii": (patched(srow_x=[np.nan, 0, 0, 0]), ("affine that is invalid or not finite", REWRITE)),
    "singular.nii": (patched(srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0]), ("singular affine", REWRITE)),
    "flataffine.nii": (patched(srow_x=0, srow_y=0, srow_z=0), ("voxels of 0 x 0 x 0 mm", "Correct its affine")),
    "nowhere.nii": (patched(qform_code=0, sform_code=0), ("states no orientation", "--assume_ras")),
    # 19, 20
    "several.nii.gz": (saved(np.stack([HEAD] * 3, -1)), ("holds 3 volumes", "--volume, 0 to 2")),
    "flat.nii.gz": (saved(HEAD[..., 8]), ("is 2-D", "--slice")),
    "five.nii.gz": (saved(np.stack([HEAD[..., None]] * 2, -1)), ("is 5-D", "Extract one 3-D volume")),
    # 22, 25
    "skullmasked.nii.gz": (unmasked, ("still has its skull", "the mask skullmasked_mask.nii.gz", "passed over", SKULL)),
    "maskcut.nii.gz": (mask_cut_short, ("maskcut_mask.nii.gz", "is truncated", COPY)),
    # 23, 24, 26
    "nan.nii.gz": (
        saved(replaced(np.nan, 0.02)),
        ("NaN, infinite or beyond 3.4e38, 2.0% of the brain", "Export the scan again"),
    ),
    "inf.nii.gz": (
        saved(replaced(-np.inf, 0.02)),
        ("NaN, infinite or beyond 3.4e38, 2.0% of the brain", "Export the scan again"),
    ),
    "zeros.nii.gz": (saved(0 * HEAD), ("same value in every voxel", "the right file")),
    "sevens.nii.gz": (saved(0 * HEAD + 7), ("same value in every voxel", "the right file")),
    "nans.nii.gz": (saved(np.nan * HEAD), ("is NaN in every voxel", "the right file")),
    "flatbrain.nii.gz": (saved(50 * BRAIN.astype(np.float32)), ("constant inside the brain", "the right file")),
    "1e300.nii.gz": (
        saved(HEAD.astype(np.float64) * 1e300),
        ("NaN, infinite or beyond 3.4e38, 100.0% of the brain", "Export the scan again"),
    ),
    "skull.nii.gz": (saved(HEAD + np.random.default_rng(0).rayleigh(5, HEAD.shape)), ("skull", SKULL)),
    "speck.nii.gz": (saved(TINY * 9), ("brain of", "ml", SKULL)),
    "twin_1.nii.gz": (two_of_one_name, ("two scans that would both be sub-twin1", "twin-1.nii.gz", "Keep one")),
    # what is no file at all
    "halfpair.hdr": (pair_without_voxels, ("halfpair.img", "Check the path")),
    "broken.nii.gz": (lambda path: path.symlink_to("gone"), ("link to a file that is not there", "mend the link")),
    "loop.nii.gz": (lambda path: path.symlink_to(path), ("loop.nii.gz", "Check the path")),
    "pipe.nii": (os.mkfifo, ("is not a regular file", "Give the path of a file")),
    # 40
    "<script>bad.nii.gz": (content(PACKED[:-9]), ("<script>bad.nii.gz", "is truncated")),
    "new\nline\x1b[31m.nii.gz": (content(PACKED[:-9]), ("is truncated", COPY)),
    os.fsdecode(b"latin\xe9bad.nii.gz"): (content(PACKED[:-9]), ("is truncated", COPY)),
}
NAMED_OTHERWISE = {"new\nline\x1b[31m.nii.gz": "line", os.fsdecode(b"latin\xe9bad.nii.gz"): "bad.nii.gz"}

# What is no T2 scan, and is left out: how it is made, the reason.
LEFT_OUT = {
    "20230101_T1_MPRAGE_3.nii.gz": (content(PACKED), "T1 by its name"),
    "20230101_FLAIR_6.nii.gz": (content(PACKED), "FLAIR by its name"),
    "folder.nii.gz": (lambda path: path.mkdir(), "a folder that is named like a scan"),
    "brain.mgz": (content(b"mgz"), "a FreeSurfer volume"),
}

# What must be accepted: how it is made, the expected scores in the file's axis order, and what the sidecar says.


class Good(NamedTuple):
    """A scan that must be accepted."""

    make: Maker
    scores: np.ndarray  # [X, Y, Z], z-scores inside the brain
    filled: int = 0
    warning: str = ""
    tolerance: float = 2e-6
    itk: bool = True  # whether SimpleITK can read such a file (no NIfTI-2, no shear) and sees the same in it


def zscores(data: np.ndarray, brain: np.ndarray) -> np.ndarray:
    values = data[brain].astype(np.float64)
    return np.where(brain, (data - values.mean()) / values.std(), 0)


SCORES = zscores(HEAD, BRAIN)
SHEARED = AFFINE.copy()
SHEARED[:3, 2] = np.array([0.4, -0.2, 1]) / np.linalg.norm([0.4, -0.2, 1])  # voxels stay 1 mm apart
TURN = nib.eulerangles.euler2mat(0.3, -0.2, 0.25)
OBLIQUE = nib.affines.from_matvec(TURN, (7.0, -3.0, 11.0))
PERMUTED = np.array([[2, -1], [0, 1], [1, -1]])  # nibabel: where each axis goes, and whether it is flipped
THICK = images.head((26, 30, 6))
THICK_AFFINE = images.affine((0.9, 1.1, 5.0))


def stored(data: np.ndarray, affine: np.ndarray, orientation=PERMUTED) -> tuple[np.ndarray, np.ndarray]:
    """The same scan with its voxels stored in another order."""
    moved = nib.orientations.apply_orientation(data, orientation)
    return moved, affine @ nib.orientations.inv_ornt_aff(orientation, data.shape)


def flavour(dtype: type, version: int, big: bool, paired: bool, shift: int) -> Maker:
    kinds = {1: (nib.Nifti1Image, nib.Nifti1Pair), 2: (nib.Nifti2Image, nib.Nifti2Pair)}

    def make(path: pathlib.Path) -> None:
        cls = kinds[version][paired]
        header = cls.header_class(endianness=">" if big else "<")
        header.set_data_dtype(dtype)
        image = cls(shifted(shift).astype(dtype), AFFINE, header)
        image.header.set_xyzt_units("mm", "sec")
        image.set_sform(AFFINE, 2)
        image.set_qform(AFFINE, 1)
        nib.save(image, path)

    return make


def two_orientations(path: pathlib.Path) -> None:
    """The sform tells the truth; whoever believed the qform would see other slices."""
    data, matrix = stored(HEAD, AFFINE)
    image = nib.Nifti1Image(data, matrix)
    image.set_sform(matrix, 2)
    image.set_qform(AFFINE, 1)
    nib.save(image, path)


def sheared(path: pathlib.Path) -> None:
    image = nib.Nifti1Image(HEAD, SHEARED)
    image.set_sform(SHEARED, 2)
    image.set_qform(None, 0)
    nib.save(image, path)


def in_metres(path: pathlib.Path) -> None:
    data = images.save(path, HEAD).read_bytes()
    header = nib.Nifti1Header(gzip.decompress(data)[:348])
    rows = {f"srow_{axis}": header[f"srow_{axis}"] / 1000 for axis in "xyz"}
    images.patch(path, path, xyzt_units=1, qform_code=0, **rows)


def few_bad_voxels() -> tuple[np.ndarray, np.ndarray]:
    """Four voxels of the brain that are no numbers, one beside it; and the scores with medians of neighbours there."""
    data, whole = HEAD.astype(np.float64), HEAD.copy()
    for (x, y, z), value in zip(
        ((10, 12, 8), (5, 9, 6), (12, 15, 9), (9, 6, 7)), (np.nan, np.inf, -np.inf, 1e300), strict=True
    ):
        data[x, y, z] = value
        around = HEAD[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2].copy()
        around[1, 1, 1] = np.nan
        whole[x, y, z] = np.nanmedian(np.where(around > 0, around, np.nan))
    data[0, 0, 0] = np.nan
    return data, zscores(whole, BRAIN)


def with_skull(path: pathlib.Path) -> None:
    masked(255 * BRAIN)(path)
    images.save(path, np.where(BRAIN, HEAD, np.random.default_rng(0).rayleigh(5, HEAD.shape)).astype(np.float32))


def without_slice(kept: int) -> np.ndarray:
    """The good scan with a slice in which `kept` voxels of brain are left."""
    data = HEAD.copy()
    inside = np.argwhere(BRAIN[..., 7])
    data[(*inside[kept:].T, 7)] = 0
    return data


def skipped(data: np.ndarray) -> np.ndarray:
    scores = zscores(data, data > 0)
    scores[..., 7] = 0
    return scores


def named(number: int) -> Maker:
    """The good scan, `shifted` by a number: the same scan twice would be one under two names."""
    return patched(10 + number)


def linked(path: pathlib.Path) -> None:
    """A link to a scan outside of the folder."""
    outside = path.parent.parent / "outside" / "scan.nii.gz"
    outside.parent.mkdir()
    named(0)(outside)
    path.symlink_to(outside)


_BAD_VOXELS, _FILLED = few_bad_voxels()
SECOND = images.head(seed=1)
GOOD: dict[str, Good] = {
    "good1.nii.gz": Good(saved(HEAD), SCORES),
    "good2.nii.gz": Good(saved(SECOND), zscores(SECOND, SECOND > 0)),
    # 12, 13
    "unscaled.nii": Good(patched(21, scl_slope=0, scl_inter=5), SCORES),
    "scaled.nii.gz": Good(patched(scl_slope=2, scl_inter=-3), SCORES),
    "int16big.nii.gz": Good(flavour(np.int16, 1, True, False, 22), SCORES),
    "uint8pair.hdr": Good(flavour(np.uint8, 1, False, True, 23), SCORES),
    "int64pairbig.hdr": Good(flavour(np.int64, 2, True, True, 24), SCORES, itk=False),
    "float64two.nii": Good(flavour(np.float64, 2, False, False, 25), SCORES, itk=False),
    "int64twobig.nii.gz": Good(flavour(np.int64, 2, True, False, 26), SCORES, itk=False),
    "float64.nii": Good(flavour(np.float64, 1, True, False, 27), SCORES),
    # 15, 17, 21
    "twoforms.nii.gz": Good(two_orientations, stored(SCORES, AFFINE)[0], warning="qform and sform disagree", itk=False),
    "sheared.nii.gz": Good(sheared, SCORES, itk=False),
    "oblique.nii.gz": Good(saved(HEAD, OBLIQUE), SCORES, tolerance=1e-4),
    "obliqueturned.nii.gz": Good(saved(*stored(HEAD, OBLIQUE)), stored(SCORES, OBLIQUE)[0], tolerance=1e-4),
    "metres.nii.gz": Good(in_metres, SCORES, itk=False, tolerance=1e-4),
    # 19, 23, 26, 27
    "one.nii.gz": Good(saved(HEAD[..., None]), SCORES, itk=False),
    "fewnan.nii.gz": Good(saved(_BAD_VOXELS), _FILLED, filled=4),
    "below.nii.gz": Good(saved(np.where(BRAIN, HEAD - 300.5, 0)), SCORES),
    "shifted.nii.gz": Good(saved(HEAD - 1000), SCORES),
    "inverted.nii.gz": Good(saved(-HEAD), -SCORES),
    "large.nii.gz": Good(saved(HEAD * np.float32(1e36)), SCORES),
    "small.nii.gz": Good(saved(HEAD * np.float32(1e-36)), SCORES),
    "gap.nii.gz": Good(saved(without_slice(0)), skipped(without_slice(0))),
    "almostgap.nii.gz": Good(saved(without_slice(3)), skipped(without_slice(3))),
    "headwithmask.nii.gz": Good(with_skull, SCORES),
    # 22, 25: a mask that was found by its name and is no brain mask of the scan is passed over
    "away.nii.gz": Good(
        masked(BRAIN, images.affine(origin=(-9.5, -12, -8)), 1), SCORES, warning="lies up to 0.5 mm away"
    ),
    "othershape.nii.gz": Good(masked(BRAIN[1:], AFFINE, 2), SCORES, warning="is on another grid than the scan"),
    "maskempty.nii.gz": Good(masked(0 * TINY, AFFINE, 3), SCORES, warning="has a brain of 0 ml"),
    "masktiny.nii.gz": Good(masked(TINY, AFFINE, 4), SCORES, warning="has a brain of 0.001 ml"),
    "maskfull.nii.gz": Good(masked(TINY * 0 + 1, AFFINE, 5), SCORES, warning="covers 100.0% of the volume"),
    "masksoft.nii.gz": Good(masked(HEAD / 200, AFFINE, 6), SCORES, warning="is not a binary mask"),
    "masknan.nii.gz": Good(
        masked(np.where(BRAIN, np.nan, 0), AFFINE, 7), SCORES, warning="masknan_mask.nii.gz, found by its name"
    ),
    # 40
    "a b  c.nii.gz": Good(named(1), SCORES),
    "Größe 患者.nii.gz": Good(named(2), SCORES),
    "x..%2f..%2fescape.nii.gz": Good(named(3), SCORES),
    "<script>alert(1)<script>.nii.gz": Good(named(4), SCORES),
    "$(touch pwned).nii.gz": Good(named(5), SCORES),
    "two\nlines.nii.gz": Good(named(6), SCORES),
    os.fsdecode(b"latin\xe9.nii.gz"): Good(named(7), SCORES),
    "linked.nii.gz": Good(linked, SCORES),
    "long" * 50 + ".nii.gz": Good(named(8), SCORES),
}
IDENTIFIERS = {
    "Größe 患者.nii.gz": "sub-Groe",
    "long" * 50 + ".nii.gz": "sub-" + "long" * 14 + hashlib.sha256(b"long" * 50).hexdigest()[:8],
}
LINKED_OUT = "leadsout"  # a subject whose output folder is a link out of the output


def identifier(name: str) -> str:
    """The folder of a file's outputs, said independently of the code."""
    stem = re.sub(r"\.(nii\.gz|nii|hdr)$", "", name)
    return IDENTIFIERS.get(name) or "sub-" + "".join(c for c in stem if c.isascii() and c.isalnum())


def listing(root: pathlib.Path, *left_out: pathlib.Path) -> dict[str, str]:
    """Every file under a folder, what is in it or where it points."""
    found = {}
    for path in sorted(root.rglob("*")):
        if not any(path == folder or folder in path.parents for folder in left_out):
            if path.is_symlink():
                found[str(path)] = os.readlink(path)
            elif path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[str(path)] = ""
    return found


@pytest.fixture(scope="module", params=BINARIES)
def everything(request, workdir, tmp_path_factory):
    """One run over a folder with every good and every bad file; and whether anything else was touched."""
    root = tmp_path_factory.mktemp("everything")
    scans, elsewhere = root / "scans", root / "elsewhere"
    scans.mkdir()
    elsewhere.mkdir()
    for name, (make, _) in (BAD | LEFT_OUT).items():
        make(scans / name)
    for name, good in GOOD.items():
        good.make(scans / name)
    named(-1)(scans / f"{LINKED_OUT}.nii.gz")
    out = root / f"scans-{request.param}"
    out.mkdir()
    (out / f"sub-{LINKED_OUT}").symlink_to(elsewhere)
    before = listing(root, out, elsewhere)
    result = run(request.param, workdir, scans, without=BINARIES[request.param].picture)
    return result, before == listing(root, out, elsewhere)


def test_the_batch_goes_on_and_ends_with_three(everything):
    result, _ = everything
    assert result.code == 3, result.stderr[-3000:]
    assert "Traceback" not in result.stdout + result.stderr
    assert set(result.failed) - {f"sub-{LINKED_OUT}"} == {identifier(name) for name in BAD}
    assert re.search(rf"\b{len(result.failed)} failed", result.stdout)
    done = {path.name for path in result.out.glob("sub-*") if result.image(path.name).exists()}
    assert done - {f"sub-{LINKED_OUT}"} == {identifier(name) for name in GOOD}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(everything, name):
    result, _ = everything
    said = result.failed[identifier(name)].strip()
    assert NAMED_OTHERWISE.get(name, str(result.scans / name.partition(".")[0])) in said
    for word in BAD[name][1]:
        assert word in said
    assert said.endswith(".")
    assert said.isprintable()
    assert not (result.out / identifier(name)).exists()


@pytest.mark.parametrize("name", GOOD)
def test_good_files(everything, name):
    result, _ = everything
    good, subject = GOOD[name], identifier(name)
    check_grid(result, name, subject)
    sidecar = result.sidecar(subject)
    assert len(sidecar["Warnings"]) == bool(good.warning)
    assert good.warning in "".join(sidecar["Warnings"])
    assert sidecar["FilledVoxels"] == good.filled
    found = result.scores(subject).reshape(good.scores.shape)
    scored = good.scores != 0
    np.testing.assert_allclose(found[scored], good.scores[scored], atol=good.tolerance * np.abs(good.scores).max())
    if result.binary == "restore":
        assert not found[~scored].any()


def check_grid(result: Run, name: str, subject: str) -> None:
    """All images of a subject are finite and lie where the input lies."""
    source = nib.load(result.scans / name)
    written = sorted((result.out / subject / "anat").glob("*.nii.gz"))
    assert len(written) >= 2
    for path in written:
        image = nib.load(path)
        assert np.isfinite(image.get_fdata()).all()
        assert image.shape == source.shape
        np.testing.assert_array_equal(image.affine, source.affine)
        for form in ("qform", "sform"):
            ours, theirs = (getattr(i, f"get_{form}")(coded=True) for i in (image, source))
            assert ours[1] == theirs[1]
            np.testing.assert_array_equal(ours[0], theirs[0])
        assert image.header.get_xyzt_units() == source.header.get_xyzt_units()


def test_what_is_left_out_is_told_last_and_recorded(everything):
    result, _ = everything
    last = result.stdout.splitlines()[-len(LEFT_OUT) - 1 :]
    record = (result.out / "left_out.tsv").read_text().splitlines()
    for name, (_, reason) in LEFT_OUT.items():
        assert any(f"left out, {reason}" in line and f"1 ({name})" in line for line in last)
        assert any(line.startswith(f"{name}\t{reason}") for line in record)
    assert "--any_sequence" in last[-1]


def test_nothing_half_written_is_left(everything):
    result, _ = everything
    assert not [path for path in result.out.rglob("*") if ".tmp" in path.name]


def test_nothing_outside_of_the_output_is_touched(everything):
    result, untouched = everything
    assert untouched
    assert not (ROOT / "pwned").exists()
    names = [str(path.relative_to(result.out)) for path in result.out.rglob("*")]
    assert all(re.fullmatch(r"[A-Za-z0-9_./-]+", name) for name in names)
    assert all(len(part) <= 255 for name in names for part in name.split("/"))


def test_names_are_escaped_in_every_page(everything):
    result, _ = everything
    pages = [path.read_text() for path in result.out.rglob("*.html")]
    assert len(pages) == (result.binary == "preprocess")
    for page in pages:
        assert "<script>bad" not in page
        assert "sub-scriptbad" in page
        assert "\x1b" not in page


def test_a_link_in_the_output_that_leads_out_of_it_is_not_followed(everything):
    result, _ = everything
    assert not list((result.out.parent / "elsewhere").iterdir())
    assert "link" in result.failed[f"sub-{LINKED_OUT}"]


def corners(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """The world coordinates (mm, RAS) of an image's corners, by nibabel and by SimpleITK, [8, 3] each."""
    image, other = nib.load(path), sitk.ReadImage(str(path))
    voxels = list(itertools.product(*((0, n - 1) for n in image.shape)))
    lps = [other.TransformContinuousIndexToPhysicalPoint([float(i) for i in voxel]) for voxel in voxels]
    assert other.GetSize() == image.shape
    values = sitk.GetArrayFromImage(other).transpose(2, 1, 0)
    np.testing.assert_array_equal(values, np.asanyarray(image.dataobj))
    return nib.affines.apply_affine(image.affine, voxels), np.array(lps) * [-1, -1, 1]


@pytest.mark.parametrize("name", [name for name, good in GOOD.items() if good.itk])
def test_simpleitk_and_nibabel_see_outputs_in_the_same_place(everything, name):
    result, _ = everything
    for path in sorted((result.out / identifier(name) / "anat").glob("*.nii.gz")):
        ours, theirs = corners(path)
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
        np.testing.assert_allclose(ours, corners_of_input(result.scans / name), atol=1e-3)


def corners_of_input(path: pathlib.Path) -> np.ndarray:
    image = nib.load(path)
    return nib.affines.apply_affine(image.affine, list(itertools.product(*((0, n - 1) for n in image.shape))))


# 18: orientations. One run over the scan stored in all 48 ways, with thick, anisotropic voxels (21).


ORIENTATIONS = {
    "".join(f"{axis}{'pn'[sign < 0]}" for axis, sign in zip(order, signs, strict=True)): np.array(
        list(zip(order, signs, strict=True))
    )
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
}


@pytest.fixture(scope="module", params=BINARIES)
def orientations(request, workdir, tmp_path_factory):
    scans = tmp_path_factory.mktemp("orientations") / "scans"
    for name, orientation in ORIENTATIONS.items():
        images.save(scans / f"o{name}.nii.gz", *stored(THICK, THICK_AFFINE, orientation))
    return run(request.param, workdir, scans, without=BINARIES[request.param].picture)


def test_all_48_orientations_give_the_same_map(orientations):
    assert orientations.code == 0, orientations.stderr[-3000:]
    expected = nib.load(orientations.image("sub-o0p1p2p")).get_fdata()
    assert np.ptp(expected) > 0
    for name, orientation in ORIENTATIONS.items():
        check_grid(orientations, f"o{name}.nii.gz", f"sub-o{name}")
        found = nib.load(orientations.image(f"sub-o{name}"))
        np.testing.assert_array_equal(found.get_fdata(), nib.orientations.apply_orientation(expected, orientation))
        ours, theirs = corners(orientations.image(f"sub-o{name}"))
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
        np.testing.assert_array_equal(nib.as_closest_canonical(found).get_fdata(), expected)


# Flags that let a scan in which is refused without them.

PLANES = images.head((40, 48, 3), seed=2)  # each plane as one slice of 5 mm
VOLUMES = np.stack([HEAD, SECOND, 3 * HEAD], -1)
SMALL = images.head((12, 14, 12))


def without_orientation(path: pathlib.Path) -> None:
    """Thick slices whose sizes are all that the header says; the axes are taken to point right, anterior, superior."""
    image = nib.Nifti1Image(THICK, THICK_AFFINE)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, path)


ADMITTED: dict[str, tuple[Maker, np.ndarray | None, str]] = {  # file: how, scores (None: not said here), warning
    "noforms.nii.gz": (without_orientation, None, "RAS is assumed"),
    "plane.nii.gz": (saved(PLANES[..., 1], images.affine((1, 1, 5))), None, ""),
    "volumes.nii.gz": (saved(VOLUMES), SCORES, ""),
    "good.nii.gz": (saved(shifted(1)), SCORES, ""),
    "thick.nii.gz": (saved(THICK, THICK_AFFINE), None, ""),
    # Seen by the pictures too, which are drawn here.
    **{name: (GOOD[name].make, GOOD[name].scores, "") for name in ("large.nii.gz", "small.nii.gz", "gap.nii.gz")},
}


@pytest.fixture(scope="module", params=BINARIES)
def admitted(request, workdir, tmp_path_factory):
    scans = tmp_path_factory.mktemp("admitted") / "scans"
    scans.mkdir()
    for name, (make, _, _) in ADMITTED.items():
        make(scans / name)
    saved(np.stack([HEAD[..., None]] * 2, -1))(scans / "five.nii.gz")
    return run(request.param, workdir, scans, "--assume_ras", "--slice", "--volume=0")


@pytest.mark.parametrize("name", ADMITTED)
def test_flags_let_scans_in(admitted, name):
    _, scores, warning = ADMITTED[name]
    assert admitted.code == 3, admitted.stderr[-3000:]
    assert list(admitted.failed) == ["sub-five"]
    assert "is 5-D" in admitted.failed["sub-five"]
    assert warning in "".join(admitted.sidecar(identifier(name))["Warnings"])
    found = nib.load(admitted.image(identifier(name)))
    if name == "volumes.nii.gz":
        assert found.shape == HEAD.shape
    else:
        check_grid(admitted, name, identifier(name))
    if scores is not None:
        seen = scores != 0
        np.testing.assert_allclose(admitted.scores(identifier(name))[seen], scores[seen], atol=1e-5)
    (picture,) = (admitted.out / identifier(name) / "figures").glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_scan_that_states_no_orientation_is_seen_as_ras(admitted):
    ours, same = (nib.load(admitted.image(f"sub-{name}")).get_fdata() for name in ("noforms", "thick"))
    np.testing.assert_array_equal(ours, same)
    header = nib.load(admitted.image("sub-noforms")).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 0)


def test_one_slice_is_restored_as_one_slice(admitted):
    plane = PLANES[..., 1]
    found = admitted.scores("sub-plane")
    assert found.shape == plane.shape
    assert not found[plane == 0].any()
    assert np.corrcoef(found[plane > 0], plane[plane > 0])[0, 1] > 0.5  # 1 mm pixels on a coarser grid


@pytest.mark.parametrize("binary", BINARIES)
def test_limits_and_volumes_that_are_not_there(binary, workdir, tmp_path):
    scans = tmp_path / "scans"
    big, matrix = np.zeros((30, 30, 30), np.float32), images.affine((1.5, 1.5, 1.5))
    images.save(scans / "big.nii.gz", big)
    images.save(scans / "single.nii.gz", SMALL, matrix)
    images.save(scans / "two.nii.gz", np.stack([0 * SMALL, SMALL], -1), matrix)
    result = run(binary, workdir, scans, "--volume=1", "--max_voxels=10000", threads=False)
    assert result.code == 3
    assert set(result.failed) == {"sub-big", "sub-single"}
    assert "more than 10000 voxels" in result.failed["sub-big"]
    assert "--max_voxels" in result.failed["sub-big"]
    assert "has no volume 1" in result.failed["sub-single"]
    assert nib.load(result.image("sub-two")).get_fdata().any()


# 28 to 30, and names in the report: restored, labelled, evaluated.


class Case(NamedTuple):
    """A subject of the evaluation: its scan, its reference and its kind."""

    label: np.ndarray | None  # None: there is none
    kind: str
    matrix: np.ndarray = AFFINE
    scores: np.ndarray | None = None  # what the anomaly map is made to be afterwards


SPOT = BRAIN & (np.indices(HEAD.shape)[2] == 8) & (HEAD > 100)
EVIL = "<script>alert('x')</script>|$\\bad{"
TIED = np.where(BRAIN, np.where(SPOT, 1.0, np.where(HEAD > 120, 1.0, 0.5)), 0)
CASES = {
    "lesion": Case(SPOT, EVIL),
    "values": Case(SPOT * np.where(HEAD > 110, 4, np.where(HEAD > 105, 2, 1)), "multi"),
    "nolesion": Case(0 * SPOT, "nolesion"),
    "healthy": Case(None, "healthy"),
    "all": Case(BRAIN, "all"),
    "constant": Case(SPOT, "constant", scores=np.where(BRAIN, 0.25, 0)),
    "ties": Case(SPOT, "ties", scores=TIED),
    "five": Case(SPOT * np.where(HEAD > 110, 5, 1), "five"),
    "half": Case(SPOT * np.where(HEAD > 110, 0.5, 1), "half"),
    "away": Case(SPOT, "away", images.affine(origin=(-10, -12, -7))),
    "none": Case(None, "none"),
}
EVALUATED = ("lesion", "values", "nolesion", "healthy", "all", "constant", "ties")


def write_cases(root: pathlib.Path, cases: dict[str, Case]) -> None:
    lines = ["participant_id\tlesion_kind"]
    for seed, (name, case) in enumerate(cases.items()):
        data = HEAD.copy()
        data[0, 0, 0] = seed / 100  # no two scans are the same file
        images.save(root / f"sub-{name}/anat/sub-{name}_T2w.nii.gz", data)
        if case.label is not None:
            label = case.label.astype(np.float32)
            images.save(root / f"sub-{name}/anat/sub-{name}_label-lesion_mask.nii.gz", label, case.matrix)
        lines.append(f"{name}\t{case.kind}")
    (root / "participants.tsv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def evaluated(workdir, tmp_path_factory):
    """Cases restored and evaluated: their folder, the predictions and the evaluation."""
    root = tmp_path_factory.mktemp("evaluated")
    scans, out = root / "<img src=x onerror=alert(1)>", root / "evaluation"
    write_cases(scans, CASES)
    restored = run("restore", workdir, scans, without=BINARIES["restore"].picture)
    assert restored.code == 0, restored.stderr[-3000:]
    for name, case in CASES.items():
        if case.scores is not None:
            path = restored.image(f"sub-{name}")
            nib.save(nib.Nifti1Image(case.scores.astype(np.float32), nib.load(path).affine), path)
    # Subjects of which one half is missing: a prediction without a scan, a scan without a prediction.
    (restored.out / "sub-none").rename(restored.out / "sub-gone")
    result = lgjax("eval", f"--predictions={restored.out}", f"--labels={scans}", f"--output={out}")
    return restored, result, out


def groups(evaluated) -> dict:
    return json.loads((evaluated[2] / "metrics.json").read_text())["groups"]


def test_eval_goes_on_and_says_who_is_missing(evaluated):
    _, result, out = evaluated
    assert result.returncode == 3, result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    metrics = json.loads((out / "metrics.json").read_text())
    failed = metrics["failed"]
    assert metrics["n_subjects"] == len(EVALUATED)
    words = {
        "sub-five": "label values 5;",
        "sub-half": "label values 0.5;",
        "sub-away": "mm away",
        "sub-none": "no prediction",
        "sub-gone": "is missing",
    }
    assert set(failed) == set(words)
    for name, word in words.items():
        assert word in failed[name]
        assert name in result.stderr


@pytest.mark.parametrize("kind", ["nolesion", "healthy"])
def test_no_lesion_gives_nulls_with_a_reason_and_is_left_out_of_means(evaluated, kind):
    found = groups(evaluated)[kind]
    assert (found["auc"], found["auprc"], found["dice_oracle"]) == (None, None, None)
    assert "no lesion voxel" in found["reasons"]["auc"]
    assert found["dice"]["0.01"]["mean"] is None
    assert found["reasons"]["dice/0.01/mean"] == "no subject with a lesion"
    assert found["dice"]["0.01"]["achieved_fpr"] is not None
    whole = json.loads((evaluated[2] / "metrics.json").read_text())
    assert whole["dice"]["0.01"]["n"] == len(EVALUATED) - 2
    assert whole["n_with_lesion"] == len(EVALUATED) - 2


def test_a_brain_that_is_all_lesion_has_no_auc(evaluated):
    found = groups(evaluated)["all"]
    assert found["auc"] is None
    assert "no healthy voxel" in found["reasons"]["auc"]
    assert found["dice"]["0.01"]["achieved_fpr"] is None
    assert found["reasons"]["dice/0.01/achieved_fpr"] == "no healthy voxel"
    assert found["prevalence"] == 1


def test_a_constant_score_has_no_auc(evaluated):
    found = groups(evaluated)["constant"]
    assert (found["auc"], found["auprc"]) == (None, None)
    assert found["reasons"]["auc"] == "the score is constant"


def test_tied_scores_count_one_half(evaluated):
    high = TIED[BRAIN] == 1
    healthy_below = (~high).sum() / (BRAIN & ~SPOT).sum()
    assert groups(evaluated)["ties"]["auc"] == pytest.approx(healthy_below + (1 - healthy_below) / 2)


def test_every_label_above_zero_is_lesion(evaluated):
    found = groups(evaluated)
    ours, plain = found["multi"], found[EVIL]
    assert ours["prevalence"] == plain["prevalence"] == pytest.approx(SPOT.sum() / N_BRAIN)
    assert ours["auc"] == plain["auc"]


def test_names_and_paths_are_escaped_in_the_report(evaluated):
    page = (evaluated[2] / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror" in page


def test_a_calibration_subject_among_the_tested_is_refused(evaluated, tmp_path):
    restored, _, _ = evaluated
    sidecar = restored.sidecar("sub-lesion")
    calibrated = json.loads(next(restored.out.glob("sub-lesion/anat/*anomaly_T2w.json")).read_text())
    assert calibrated["CalibrationSubjects"]
    changed = []
    for path in restored.out.glob("sub-*/anat/*anomaly_T2w.json"):
        changed.append((path, path.read_text()))
        subjects = [*calibrated["CalibrationSubjects"], sidecar["InputSHA256"]]
        path.write_text(json.dumps(json.loads(path.read_text()) | {"CalibrationSubjects": subjects}))
    try:
        result = lgjax("eval", f"--predictions={restored.out}", f"--labels={restored.scans}", f"--output={tmp_path}")
    finally:
        for path, text in changed:
            path.write_text(text)
    assert result.returncode == 2
    assert re.search(r"sub-lesion .*served to calibrate", result.stderr)
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
