"""Writes small synthetic heads as files of many forms: good ones, and bad ones in every way that files go bad.

Every `Kind` says what `lgjax restore` makes of the file: a map, or a refusal in words that the kind names.
"""

import gzip
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import nibabel as nib
import numpy as np

SHAPE = (20, 24, 16)
Make = Callable[[pathlib.Path, np.ndarray], object]


class Kind(NamedTuple):
    """A form of file."""

    ending: str  # of its name
    make: Make  # writes a head [X, Y, Z] float32 to a path
    told: str | None = None  # words of the refusal; None: the scan is restored


def head(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Returns an ellipsoid of random whole numbers around 100 on a background of 0, [X, Y, Z] float32."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = (x / 0.75) ** 2 + ((y - 0.05) / 0.85) ** 2 + (z / 0.8) ** 2 < 1
    noise = np.random.default_rng(seed).normal(100, 20, shape).clip(1, 200)
    return np.where(inside, noise.round(), 0).astype(np.float32)


def affine(*zooms: float) -> np.ndarray:
    """Returns an affine of voxels of some mm, 1 mm by default, whose origin lies in the middle of the grid."""
    result = np.diag([*(zooms or (1.0, 1.0, 1.0)), 1.0])
    result[:3, 3] = -result[:3, :3] @ np.array(SHAPE) / 2
    return result


def plain(data: np.ndarray, cls=nib.Nifti1Image, dtype: type = np.int16, endianness: str = "<") -> bytes:
    """Returns the bytes of an unpacked NIfTI file."""
    header = cls.header_class(endianness=endianness)
    header.set_data_dtype(dtype)
    return cls(data.astype(dtype), affine(), header).to_bytes()


def packed(content: bytes, level: int = 9) -> bytes:
    """Returns the content gzipped, without a time."""
    return gzip.compress(content, level, mtime=0)


def written(change: Callable[[bytes], bytes], **form) -> Make:
    """Makes files whose bytes are changed; `form` as in `plain`."""
    return lambda path, data: path.write_bytes(change(plain(data, **form)))


def headed(**fields) -> Make:
    """Makes unpacked files with fields of the header overwritten, unchecked."""

    def change(content: bytes) -> bytes:
        header = nib.Nifti1Header(content[:348], check=False)
        for name, value in fields.items():
            header[name] = value
        return header.binaryblock + content[348:]

    return written(change)


def saved(change: Callable[[np.ndarray], np.ndarray], matrix: np.ndarray | None = None, cls=nib.Nifti1Image) -> Make:
    """Makes files of changed voxels."""

    def make(path: pathlib.Path, data: np.ndarray) -> None:
        voxels = change(data)
        nib.save(cls(voxels, affine() if matrix is None else matrix, dtype=voxels.dtype), path)

    return make


def masked(mask: Callable[[np.ndarray], np.ndarray], image: Make, matrix: np.ndarray | None = None) -> Make:
    """Makes a file with a mask beside it."""

    def make(path: pathlib.Path, data: np.ndarray) -> None:
        image(path, data)
        name = path.name.replace(".nii.gz", "_mask.nii.gz")
        saved(lambda voxels: mask(voxels).astype(np.float32), matrix)(path.with_name(name), data)

    return make


def cut_pair(path: pathlib.Path, data: np.ndarray) -> None:
    """Makes a pair whose voxels end early."""
    saved(unchanged, cls=nib.Nifti1Pair)(path, data)
    voxels = path.with_suffix(".img")
    voxels.write_bytes(voxels.read_bytes()[:-1])


def unchanged(data: np.ndarray) -> np.ndarray:
    """Returns the head."""
    return data


def skulled(data: np.ndarray) -> np.ndarray:
    """Returns the head with noise all around, as before its skull is stripped."""
    return data + np.random.default_rng(0).rayleigh(5, data.shape).astype(np.float32)


def replaced(data: np.ndarray, value: float, voxels: int) -> np.ndarray:
    """Returns the head with some voxels of its brain replaced, in float64."""
    result = data.astype(np.float64)
    result[tuple(np.argwhere(data > 0)[:: (data > 0).sum() // voxels][:voxels].T)] = value
    return result


def flipped(content: bytes, byte: int) -> bytes:
    """Returns the content with the lowest bit of one byte flipped."""
    damaged = bytearray(content)
    damaged[byte] ^= 1
    return bytes(damaged)


def bomb() -> bytes:
    """Returns a megabyte that declares and unpacks to far more."""
    header = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), affine()).header
    header["dim"][:4] = 3, 32767, 32767, 3
    return packed(header.binaryblock + bytes(4)) + 1000 * packed(bytes(1 << 20))


def speck(data: np.ndarray) -> np.ndarray:
    """Returns one voxel of brain."""
    return np.pad(np.ones((1, 1, 1)), [(n // 2, n - n // 2 - 1) for n in data.shape]).astype(np.float32)


def gap(data: np.ndarray) -> np.ndarray:
    """Returns the head with a slice without brain."""
    return np.where(np.arange(data.shape[2]) == 7, 0, data).astype(np.float32)


SHEARED = affine()
SHEARED[:3, 2] = np.array([0.4, -0.2, 1]) / np.linalg.norm([0.4, -0.2, 1])
AWAY = affine()
AWAY[0, 3] += 0.5
FLAT = affine()
FLAT[1] = FLAT[0]
THICK = affine(0.9, 1.1, 5.0)

GOOD = {
    "float32 .nii.gz": Kind(".nii.gz", saved(unchanged)),
    "int16 .nii": Kind(".nii", written(bytes)),
    "big-endian": Kind(".nii.gz", written(packed, endianness=">")),
    "NIfTI-2, int64": Kind(".nii", written(bytes, cls=nib.Nifti2Image, dtype=np.int64)),
    "uint8": Kind(".nii.gz", written(packed, dtype=np.uint8)),
    "float64": Kind(".nii", written(bytes, dtype=np.float64)),
    "pair": Kind(".hdr", saved(unchanged, cls=nib.Nifti1Pair)),
    "slope 0": Kind(".nii", headed(scl_slope=0, scl_inter=5)),
    "other axes": Kind(".nii.gz", saved(lambda data: data.transpose(2, 0, 1)[:, ::-1], affine()[:, [2, 0, 1, 3]])),
    "shear": Kind(".nii.gz", saved(unchanged, SHEARED)),
    "one volume in 4-D": Kind(".nii.gz", saved(lambda data: data[..., None])),
    "thick slices": Kind(".nii.gz", saved(lambda data: data[:, :, ::3], THICK)),
    "a few NaN": Kind(".nii.gz", saved(lambda data: replaced(data, np.nan, 4))),
    "negative": Kind(".nii.gz", saved(lambda data: data - 1000)),
    "inverted": Kind(".nii.gz", saved(lambda data: -data)),
    "slice without brain": Kind(".nii.gz", saved(gap)),
    "skull and mask": Kind(".nii.gz", masked(lambda data: data > 0, saved(skulled))),
    "empty mask passed over": Kind(".nii.gz", masked(np.zeros_like, saved(unchanged))),
    "tiny mask passed over": Kind(".nii.gz", masked(speck, saved(unchanged))),
    "full mask passed over": Kind(".nii.gz", masked(np.ones_like, saved(unchanged))),
    "soft mask passed over": Kind(".nii.gz", masked(lambda data: data / 200, saved(unchanged))),
    "mask on another grid passed over": Kind(".nii.gz", masked(lambda data: data > 0, saved(unchanged), AWAY)),
}

BAD = {
    "gzip cut in half": Kind(".nii.gz", written(lambda content: packed(content)[:2000]), "is truncated"),
    "gzip cut in its header": Kind(".nii.gz", written(lambda content: packed(content)[:15]), "is truncated"),
    "voxels cut": Kind(".nii", written(lambda content: content[:-1]), "is truncated"),
    "header cut": Kind(".nii", written(lambda content: content[:200]), "header ends after 200 bytes"),
    "pair cut": Kind(".hdr", cut_pair, "is truncated"),
    "bit of the checksum": Kind(".nii.gz", written(lambda content: flipped(packed(content), -8)), "is damaged"),
    "bit of a voxel": Kind(".nii.gz", written(lambda content: flipped(packed(content, 0), -9)), "is damaged"),
    "garbage behind": Kind(".nii.gz", written(lambda content: packed(content) + b"garbage"), "data after the end"),
    "second gzip member": Kind(".nii.gz", written(lambda content: packed(content) + packed(b"more")), "data after"),
    "no bytes": Kind(".nii.gz", written(lambda _: b""), "is empty (zero bytes)"),
    "web page": Kind(".nii.gz", written(lambda _: b"<!DOCTYPE html><html>Log in</html>"), "is a web page"),
    "git-lfs pointer": Kind(
        ".nii.gz",
        written(lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        "git-lfs pointer",
    ),
    "gzip named .nii": Kind(".nii", written(packed), "holds gzip data"),
    "plain named .gz": Kind(".nii.gz", written(bytes), "holds plain NIfTI data"),
    "DICOM": Kind(".nii", written(lambda _: bytes(128) + b"DICM" + bytes(400)), "is a DICOM file"),
    "zip": Kind(".nii.gz", written(lambda _: b"PK\x03\x04" + bytes(600)), "is a zip archive"),
    "picture": Kind(".nii", written(lambda _: b"\x89PNG\r\n\x1a\n" + bytes(600)), "is a picture"),
    "text": Kind(".nii.gz", written(lambda _: packed(b"hello " * 200)), "holds no NIfTI header"),
    "gzip bomb": Kind(".nii.gz", written(lambda _: bomb()), "more than 268435456 voxels"),
    "negative size": Kind(".nii", headed(dim=[3, -20, 24, 16, 1, 1, 1, 1]), "declares the shape (-20, 24, 16)"),
    "size 0": Kind(".nii", headed(dim=[3, 20, 0, 16, 1, 1, 1, 1]), "declares the shape (20, 0, 16)"),
    "huge size": Kind(".nii", headed(dim=[7] + 7 * [32767]), "more than 268435456 voxels"),
    "nine dimensions": Kind(".nii", headed(dim=[9, 20, 24, 16, 1, 1, 1, 1]), "declares 9 dimensions"),
    "colours": Kind(".nii", headed(datatype=128, bitpix=24), "type RGB"),
    "complex": Kind(".nii", headed(datatype=32, bitpix=64), "type complex64"),
    "unknown type": Kind(".nii", headed(datatype=999), "type unknown"),
    "offset beyond the end": Kind(".nii", headed(vox_offset=1e6), "is truncated"),
    "slope NaN": Kind(".nii", headed(scl_slope=np.nan), "scaling slope nan"),
    "slope infinite": Kind(".nii", headed(scl_slope=np.inf), "scaling slope inf"),
    "affine NaN": Kind(".nii", headed(srow_x=[np.nan, 0, 0, 0], sform_code=1), "invalid or not finite"),
    "singular affine": Kind(".nii", headed(srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0], sform_code=1), "singular affine"),
    "no orientation": Kind(".nii", headed(qform_code=0, sform_code=0), "states no orientation"),
    "several volumes": Kind(".nii.gz", saved(lambda data: np.stack([data] * 3, -1)), "holds 3 volumes"),
    "2-D": Kind(".nii.gz", saved(lambda data: data[..., 8]), "is 2-D"),
    "5-D": Kind(".nii.gz", saved(lambda data: np.stack([data[..., None]] * 2, -1)), "is 5-D"),
    "many NaN": Kind(".nii.gz", saved(lambda data: replaced(data, np.nan, 60)), "NaN or infinite"),
    "zeros": Kind(".nii.gz", saved(np.zeros_like), "same value in every voxel"),
    "sevens": Kind(".nii.gz", saved(lambda data: np.full_like(data, 7)), "same value in every voxel"),
    "all NaN": Kind(".nii.gz", saved(lambda data: np.full_like(data, np.nan)), "same value in every voxel"),
    "constant brain": Kind(".nii.gz", saved(lambda data: 50 * (data > 0).astype(np.float32)), "constant inside"),
    "1e300": Kind(".nii.gz", saved(lambda data: data.astype(np.float64) * 1e300), "NaN or infinite"),
    "one voxel of brain": Kind(".nii.gz", saved(lambda data: 9 * speck(data)), "brain of"),
    "skull without mask": Kind(".nii.gz", saved(skulled), "still has its skull"),
    "skull and empty mask": Kind(".nii.gz", masked(np.zeros_like, saved(skulled)), "still has its skull"),
    "dead link": Kind(".nii.gz", lambda path, _: path.symlink_to("gone"), "link to a file that is not there"),
}


def write(folder: pathlib.Path, scans: int) -> dict[str, str]:
    """Writes scans, each of another head: every bad kind once where there is room, good kinds in turns in between.

    Args:
      folder: made.
      scans: how many; a fourth of them at most are bad.

    Returns:
      The kind of every scan, by its identifier.
    """
    folder.mkdir(parents=True)
    bad, kinds = list(BAD), {}
    for number in range(scans):
        turn, place = divmod(number, 4)
        name = bad[turn] if place == 3 and turn < len(bad) else list(GOOD)[number % len(GOOD)]
        kind = {**GOOD, **BAD}[name]
        kind.make(folder / f"s{number:03d}{kind.ending}", head(number))
        kinds[f"sub-s{number:03d}"] = name
    return kinds
