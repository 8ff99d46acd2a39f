"""Small images that the tests make."""

import gzip
import pathlib

import nibabel as nib
import numpy as np

from lgjax.scans.volume import Volume

REAL = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
NEEDS_REAL = f"no real scans at {REAL}"


def head(shape=(20, 24, 16), seed=0) -> np.ndarray:
    """Returns an ellipsoid of random intensities around 100 on a background of 0, [X, Y, Z] float32."""
    axes = [np.linspace(-1, 1, n) for n in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    inside = (x / 0.75) ** 2 + ((y - 0.05) / 0.85) ** 2 + (z / 0.8) ** 2 < 1
    noise = np.random.default_rng(seed).normal(100, 20, shape).clip(1, 200)
    return np.where(inside, noise.round(), 0).astype(np.float32)


def disc(size: int, radius: float) -> np.ndarray:
    """Returns a round brain, [size, size, 1] float32."""
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    return (np.hypot(rows, columns) < radius)[..., None].astype(np.float32)


def affine(zooms=(1.0, 1.0, 1.0), origin=(-10.0, -12.0, -8.0)) -> np.ndarray:
    result = np.diag([*zooms, 1.0])
    result[:3, 3] = origin
    return result


def volume(data: np.ndarray, matrix: np.ndarray | None = None) -> Volume:
    """Returns a volume that never was a file."""
    return Volume(np.asarray(data, np.float32), affine() if matrix is None else matrix, None, "", "made")


def save(path: pathlib.Path, data: np.ndarray, matrix: np.ndarray | None = None, cls=nib.Nifti1Image) -> pathlib.Path:
    """Writes an image with nibabel and its folder if need be; qform and sform codes are 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    matrix = affine() if matrix is None else matrix
    image = cls(data, matrix, dtype=data.dtype)
    image.set_qform(matrix, 1)
    image.set_sform(matrix, 1)
    nib.save(image, path)
    return path


def patch(source: pathlib.Path, target: pathlib.Path, **fields) -> pathlib.Path:
    """Copies a .nii or .nii.gz with header fields overwritten, unchecked; returns `target`."""
    raw = source.read_bytes()
    raw = gzip.decompress(raw) if source.suffix == ".gz" else raw
    cls = nib.Nifti1Header if raw[:1] == b"\x5c" else nib.Nifti2Header
    header = cls(raw[: cls.sizeof_hdr], check=False)
    for name, value in fields.items():
        header[name] = value
    raw = header.binaryblock + raw[cls.sizeof_hdr :]
    target.write_bytes(gzip.compress(raw, mtime=0) if target.suffix == ".gz" else raw)
    return target
