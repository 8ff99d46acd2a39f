"""Files that are no NIfTI images: what each is, by its name or its first bytes, and what to do about it."""

import pathlib
import re

from lgjax.runtime import files
from lgjax.runtime.errors import InputError

_Said = tuple[str, str]  # what the file is, what to do
_UNPACK = "Unpack it first"
_EXPORT = "Convert it to NIfTI, for example with 3D Slicer"
_PICTURE = ("is a picture, not a scan", "Give the scan itself, converted from DICOM, for example with dcm2niix")
_FREESURFER = ("is a FreeSurfer volume", "Convert it with `mri_convert X.mgz X.nii.gz`")
_MINC = ("is a MINC file", "Convert it with `mnc2nii`")
_NRRD = ("is an NRRD file", _EXPORT)
_META = ("is a MetaImage file", _EXPORT)
DICOM = ("is a DICOM file", "Give the folder of its series, or convert the series to NIfTI, for example with dcm2niix")
_AFNI = ("is an AFNI data set", "Convert it with `3dAFNItoNIFTI`")
_PHILIPS = ("is a Philips PAR/REC file", "Convert it to NIfTI, for example with dcm2niix")
_SURFACE = ("is a surface, not a volume", "Give the scan that it was made from")
_ARRAY = ("is an array without the place of its voxels", "Save it as NIfTI, with the affine of its scan")
_ANNEX = (
    "is a git-annex pointer, not the scan itself",
    "Fetch the scan with `datalad get` or `git annex get`",
)

_BY_NAME = {  # the end of a name -> what the file is
    r"\.mg[hz]|\.mgh\.gz": _FREESURFER,
    r"\.(dcm|dicom|ima)": DICOM,
    r"\.mnc2?(\.gz)?": _MINC,
    r"\.(nrrd|nhdr)": _NRRD,
    r"\.(mha|mhd)": _META,
    r"\.(brik|head)(\.gz)?": _AFNI,
    r"\.(par|rec)": _PHILIPS,
    r"\.gii(\.gz)?": _SURFACE,
    r"\.(npy|npz|mat|h5|hdf5)": _ARRAY,
    r"\.(png|jpe?g|tiff?|gif|bmp|pdf)": _PICTURE,
    r"\.nii(\.gz)?\.(xz|bz2|zst|z|lz4)": ("is a packed NIfTI file, not by gzip", "Unpack it, then give the .nii"),
    r"\.(zip|rar|7z|tar|tgz|tar\.\w+)": ("is an archive", f"{_UNPACK}, and give the folder"),
    r"\.(nii|nii\.gz)\.(part|crdownload|download|tmp)": ("is an unfinished download", "Download it again"),
}

_BY_START = {  # a pattern of the first bytes -> what the file is
    rb"version https://git-lfs": ("is a git-lfs pointer, not the scan itself", "Fetch it with `git lfs pull`"),
    rb"/annex/objects/|\S*\.git/annex/objects/": _ANNEX,
    rb"PK\x03\x04": ("is a zip archive", _UNPACK),
    rb"Rar!": ("is a rar archive", _UNPACK),
    rb"7z\xbc\xaf\x27\x1c": ("is a 7z archive", _UNPACK),
    rb"\xfd7zXZ": ("is packed by xz", "Unpack it with `xz -d`"),
    rb"BZh": ("is packed by bzip2", "Unpack it with `bzip2 -d`"),
    rb"\x28\xb5\x2f\xfd": ("is packed by zstd", "Unpack it with `zstd -d`"),
    rb"(?s).{257}ustar": ("is a tar archive", _UNPACK),
    rb"(?s).{128}DICM": DICOM,
    rb"\x08\x00[\x00-\x18]\x00": DICOM,  # without the preamble
    rb"NRRD": _NRRD,
    rb"(?s)(ObjectType|NDims) *=": _META,
    rb"CDF[\x01\x02]": _MINC,
    rb"\x89HDF\r\n\x1a\n": ("is an HDF5 file, as MINC and MATLAB write", "Convert it to NIfTI, MINC with `mnc2nii`"),
    rb"MATLAB 5": _ARRAY,
    rb"\x93NUMPY": _ARRAY,
    rb"\x00\x00\x00\x01\x00\x00": _FREESURFER,
    rb"\x89PNG|\xff\xd8\xff|GIF8|II\*\x00|MM\x00\*|%PDF": _PICTURE,
    rb"\x00\x05\x16\x07": ("is a companion file that macOS makes", "Give the file without ._ before its name"),
    rb"# === DATA DESCRIPTION FILE": _PHILIPS,
    rb"\s*<": ("is a web page, not a scan", "Download it again; a login page may have been saved instead"),
    rb"\s*[{[]": ("is a JSON text, not a scan", "Download it again; an error message may have been saved instead"),
    rb"\x00{300}": ("holds only zeros at its start, as an unfinished copy does", files.COPY_AGAIN),
}


def named(name: str) -> _Said | None:
    """Returns what a file is by the end of its name, and what to do; None where the name tells nothing."""
    return next((said for end, said in _BY_NAME.items() if re.search(f"(?:{end})$", name, re.IGNORECASE)), None)


def scan_named(path: pathlib.Path, dicom: dict[pathlib.Path, bool] | None = None) -> _Said | None:
    """Returns what a file in a folder of scans is that seems to be a scan in another format; None: no scan.

    Args:
      path: the file; whether it is DICOM is told from its content, where its name has no ending.
      dicom: folders of which that is known from another file; gets the file's own.
    """
    known = {} if dicom is None else dicom
    said = named(path.name)
    if re.search(r"\.img(\.gz)?$", path.name, re.IGNORECASE):
        return ("holds the voxels of a pair whose .hdr is missing", "Copy the .hdr too")
    if said is None and not re.search(r"\.[A-Za-z]\w*$", path.name):
        if path.parent not in known:
            known[path.parent] = is_dicom(path)
        return DICOM if known[path.parent] else None
    return None if said in (_PICTURE, _SURFACE, _ARRAY) else said


def error(path: pathlib.Path, start: bytes) -> InputError:
    """Says what a file seems to be that ought to be a NIfTI file and is none.

    Args:
      start: the first bytes, of a gzip file the unpacked ones.
    """
    if not start:
        return InputError(path, "is empty (zero bytes)", files.COPY_AGAIN)
    if start.startswith(b"\x1f\x8b"):
        if path.name.lower().endswith(".gz"):
            return InputError(path, "is packed twice", "Unpack it once with `gunzip`")
        return InputError(path, "holds gzip data although its name does not end in .gz", "Rename it to end in .gz")
    content = start.removeprefix(b"\xef\xbb\xbf")
    said = next((said for magic, said in _BY_START.items() if re.match(magic, content)), None)
    return InputError(path, *(said or ("holds no NIfTI header", f"{files.COPY_AGAIN}, or convert it to NIfTI")))


def not_named(path: pathlib.Path) -> InputError:
    """Says why a file is not read that is not named like a NIfTI file."""
    said = named(path.name)
    remedy = "Give a .nii, .nii.gz, .hdr or .img file"
    return InputError(path, *(said or ("is not named like a NIfTI file", remedy)))


def is_dicom(path: pathlib.Path) -> bool:
    """Tells whether a file is DICOM by its content: exports often have names without an end."""
    if not path.is_file():  # a pipe would block
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
