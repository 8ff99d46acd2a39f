"""What restore writes for one subject: a BIDS derivative on the scan's own grid, with the mark of completion last."""

import json
import pathlib
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

import numpy as np

from lgjax.derivatives import dicom, lesion_table, lesions, occupied, pages, sidecar
from lgjax.derivatives.lesions import Lesion
from lgjax.derivatives.sidecar import ANOMALY, DONE, PVALUE, RESTORED, SPACE, UNITS, file, rate_name, volume_name
from lgjax.preparation import midplane, pipeline
from lgjax.preparation.pipeline import Prepared
from lgjax.runtime import files
from lgjax.scans import names, nifti, pictures, scan_picture


class Maps(NamedTuple):
    """The maps of one scan, on its own grid, [X, Y, Z]."""

    restored: np.ndarray | None  # float32, in the input's intensity units; None for methods that draw none
    anomaly: np.ndarray  # float32, in the unit of the method
    masks: dict[str, np.ndarray]  # bool, score above the threshold, by false positive rate ("0.01")
    brain: np.ndarray  # bool
    volume_masks: dict[str, np.ndarray]  # bool, by the promised volume of false positives in mL ("5")
    pvalues: np.ndarray | None = None  # float32, 1 outside the brain; None where calibration knows none


def detect(
    prepared: Prepared,
    change: np.ndarray | None,
    anomaly: np.ndarray,
    thresholds: Mapping[str, float],
    volume_thresholds: Mapping[str, float] | None = None,
) -> Maps:
    """Turns a change Y - X (where a method draws X) and an anomaly map, [X, Y, Z], into what is written.

    Both are 0 outside the brain.
    """
    brain = prepared.placement.brain
    restored = None if change is None else pipeline.restored(prepared, change)
    masks, volume_masks = (
        {name: (anomaly > threshold) & brain for name, threshold in (by_name or {}).items()}
        for by_name in (thresholds, volume_thresholds)
    )
    return Maps(restored, anomaly, masks, brain, volume_masks)


def finished(folder: pathlib.Path, subject: str, provenance: dict[str, Any]) -> dict[str, Any]:
    """Returns the sidecar of a subject that was finished with the same input, weights, settings and version.

    {} where the subject was not, or is not whole.
    """
    found = occupied.told(file(folder, subject, ANOMALY, "json")) or {}
    same = "SpatialReference" in found and all(found.get(name) == provenance.get(name) for name in DONE)
    return found if same and occupied.is_whole(folder, subject, found) else {}


def retract(folder: pathlib.Path, subject: str, digest: str | None) -> None:
    """Takes the mark of completion from maps of another scan than the one of this digest, which could not be restored.

    Args:
      folder: of the outputs.
      subject: identifier of the scan.
      digest: of the scan's files now; None: they cannot be read.
    """
    path = file(folder, subject, ANOMALY, "json")
    found = occupied.told(path)
    if found is not None and (digest is None or found.get("SourceSHA256") != digest):
        path.unlink()
        pages.forget(folder, subject)


def sweep(folder: pathlib.Path, subject: str) -> None:
    """Removes what killed processes left half written of a subject; nobody else may be writing the subject now."""
    for place in (names.file, names.figure):
        files.sweep(place(folder, subject, f"{SPACE}_"))


def lesions_of(found: Maps, affine: np.ndarray, provenance: Mapping[str, Any]) -> tuple[np.ndarray, list[Lesion]]:
    """Returns the lesions of the mask at the rate `MaskRate`: an image of labels, [X, Y, Z] int32, and a list."""
    labels = lesions.label(found.masks[provenance["MaskRate"]], affine)
    plane = sidecar.midplane_of(provenance)
    listed = lesions.measure(labels, found.anomaly, found.brain, affine, plane)
    if healthy := provenance.get("LargestFalsePositives"):
        listed = [lesion._replace(p=lesions.pvalue(lesion.volume_ml, healthy)) for lesion in listed]
    return labels, listed


def check_place(folder: pathlib.Path, subject: str) -> None:
    """Raises InputError where a link leads a subject's files out of the output folder."""
    for path in (file(folder, subject, ""), sidecar.picture(folder, subject)):
        files.check_contained(folder, path.parent)


def write(folder: pathlib.Path, subject: str, prepared: Prepared, found: Maps, provenance: dict[str, Any]) -> None:
    """Writes a subject's images, their sidecars and the picture; the anomaly map's sidecar comes last.

    Raises:
      EnvironmentFault: the disk refuses.
    """
    done = file(folder, subject, ANOMALY, "json")
    done.unlink(missing_ok=True)  # while anything is replaced, the subject counts as unfinished
    dicom.forget(folder, subject)
    pages.forget(folder, subject)
    images: dict[str, tuple[np.ndarray, type, str]] = {
        "desc-brain_mask": (found.brain, np.uint8, UNITS["mask"]),
        ANOMALY: (found.anomaly, np.float32, provenance["AnomalyUnits"]),
    }
    for entities, data, units in ((RESTORED, found.restored, "restored"), (PVALUE, found.pvalues, "pvalue")):
        if data is not None:
            images[entities] = (data, np.float32, UNITS[units])
    named = {rate_name(rate): mask for rate, mask in found.masks.items()}
    named |= {volume_name(volume): mask for volume, mask in found.volume_masks.items()}
    for name, mask in named.items():
        images[f"label-lesion_desc-{name}_mask"] = (mask, np.uint8, UNITS["mask"])
    _clear(folder, subject, images)
    labels, listed = lesions_of(found, prepared.image.affine, provenance)
    name = sidecar.lesions(provenance["MaskRate"])
    images[name] = (labels, np.int32, UNITS["lesions"])
    for earlier in done.parent.glob(file(folder, subject, sidecar.ANY_LESIONS, "*").name):  # of another rate
        earlier.unlink()
    files.atomic_write(file(folder, subject, name, "tsv"), lesion_table.table(listed))
    for entities, (data, dtype, _) in images.items():
        nifti.write(file(folder, subject, entities), data, prepared.image, dtype)
    file(folder, subject, ANOMALY, "png").unlink(missing_ok=True)  # where earlier versions drew it
    files.atomic_write(sidecar.picture(folder, subject), picture(prepared, found, provenance))
    for entities in sorted(images, key=lambda name: name == ANOMALY):
        about = {**provenance, **_of_image(entities, provenance), "Units": images[entities][2]}
        files.atomic_write(file(folder, subject, entities, "json"), json.dumps(about, indent=2) + "\n")


def _clear(folder: pathlib.Path, subject: str, kept: Container[str]) -> None:
    """Removes the images that another method, or another calibration, left and that are not about to be replaced."""
    for entities in (RESTORED, PVALUE, "label-lesion_desc-*_mask"):
        for extension in ("json", "nii.gz"):
            pattern = file(folder, subject, entities, extension)
            for path in pattern.parent.glob(pattern.name):
                if path.name.removesuffix(f".{extension}").partition(f"_{SPACE}_")[2] not in kept:
                    path.unlink()


def _of_image(entities: str, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what BIDS asks of one image's sidecar: what it shows, a mask's type or a table's columns, the skull."""
    if entities == "desc-brain_mask":
        return {"Description": "Where the method looked", "Type": "Brain"}
    if entities.endswith("_mask"):
        return {"Description": "Detected anomaly: the score lies above a threshold", "Type": "Lesion"}
    if entities.endswith("_dseg"):
        columns = lesion_table.dictionary(provenance["AnomalyUnits"])
        return {"Description": "Detected lesions, numbered; the table of the same name lists them", **columns}
    if entities == ANOMALY:
        return {"Description": "Score of every voxel: how far it is from healthy", "SkullStripped": True}
    if entities == PVALUE:
        what = "Share of healthy voxels of like depth and height that score as high, of single voxels: no correction"
        return {"Description": what, "SkullStripped": True}
    stripped = provenance["BrainFrom"] == "background"
    return {"Description": "The scan, restored towards healthy brains", "SkullStripped": stripped}


def picture(prepared: Prepared, found: Maps, provenance: Mapping[str, Any]) -> bytes:
    """Encodes `figure` as PNG."""
    return scan_picture.encode(figure(prepared, found, provenance))


def figure(prepared: Prepared, found: Maps, provenance: Mapping[str, Any]) -> scan_picture.Picture:
    """Draws the three slices with most detected anomaly, at least a tenth of the brain apart, in radiological view."""
    affine = prepared.image.affine

    def seen(volume: np.ndarray) -> np.ndarray:
        return pictures.radiological(volume, affine)

    def line(index: int) -> tuple[float, float, float] | None:
        plane = provenance.get("MidsagittalPlane")
        if not plane or not midplane.fits(plane["score"]):
            return None
        return pictures.midline(plane["normal"], plane["offset_mm"], affine, found.anomaly.shape, index)

    rate = provenance["MaskRate"]
    image, anomaly, detected = seen(prepared.image.data), seen(found.anomaly), seen(found.masks[rate])
    brain = seen(found.brain)
    restored = None if found.restored is None else seen(found.restored)
    depth = range(anomaly.shape[2])
    weight = np.array([(np.abs(anomaly[..., k]) * (detected[..., k] + 1e-6)).sum() for k in depth])
    apart = max(1, int((weight > 0).sum() / 10))
    chosen: list[int] = []
    for index in np.argsort(-weight):
        if len(chosen) < 3 and all(abs(index - other) >= apart for other in chosen):
            chosen.append(int(index))
    aspect = pictures.pixel_aspect(affine)
    threshold = provenance["Thresholds"][rate]
    rows, unit = {}, sidecar.short_unit(provenance["Score"])
    for k in sorted(chosen, reverse=True):
        drawn = None if restored is None else restored[..., k]
        cut = (image[..., k], drawn, anomaly[..., k], detected[..., k], None, brain[..., k])
        rows[f"slice {k}"] = pictures.Panels(*cut, aspect, rate, threshold, line(k), unit)
    title = f"{provenance['Method']}, score {provenance['Score']}. Research use only, not for diagnosis."
    quality = sidecar.quality_of(provenance)
    if quality and quality.unlike:
        title += f"\n{quality.light}: this scan is unlike the healthy scans of the calibration; the sidecar says why."
    return scan_picture.scan_figure(rows, title)
