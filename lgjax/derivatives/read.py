"""What lgjax.restore wrote, read back: one finished subject at a time, all of one experiment."""

import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lgjax.derivatives import sidecar as sidecars
from lgjax.derivatives.sidecar import Sidecar
from lgjax.runtime.errors import InputError, UsageError
from lgjax.scans import names, nifti
from lgjax.scans.volume import Volume

UNFINISHED = "Run lgjax.restore again, or remove this subject's folder"


class Prediction(NamedTuple):
    """One subject's restored outputs."""

    identifier: str
    folder: pathlib.Path  # of all subjects
    sidecar: Sidecar  # of its anomaly map

    def path(self, entities: str) -> pathlib.Path:
        """Returns the file of one of the outputs."""
        return sidecars.file(self.folder, self.identifier, entities)

    def read(self, entities: str) -> Volume:
        """Reads one of the outputs, for example "desc-restored_T2w"."""
        return nifti.read(self.path(entities), assume_ras=True, single_slice=True)  # as restore accepted it

    def mask(self, entities: str, like: Volume) -> np.ndarray:
        """Reads a mask on the grid of `like`, [X, Y, Z] bool."""
        volume = self.read(entities)
        nifti.check_same_grid(like, volume)
        if not ((volume.data == 0) | (volume.data == 1)).all():
            raise InputError(volume.source, "is no mask: it has values other than 0 and 1", "Restore it again")
        return volume.data == 1

    def detected(self, rate: str, like: Volume) -> np.ndarray:
        """Reads the detection mask at one calibrated false positive rate, [X, Y, Z] bool."""
        return self.mask(f"label-lesion_desc-{sidecars.rate_name(rate)}_mask", like)

    def promised(self, volume: str, like: Volume) -> np.ndarray:
        """Reads the mask of one promised volume of false positives, mL, [X, Y, Z] bool."""
        return self.mask(f"label-lesion_desc-{sidecars.volume_name(volume)}_mask", like)


def is_output(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds anomaly maps."""
    return any(any(place.glob(f"*_{sidecars.SPACE}_{sidecars.ANOMALY}.nii.gz")) for place in names.places(folder))


def identifiers(folder: pathlib.Path) -> list[str]:
    """Lists the scans of which a folder holds outputs, finished or not, by identifier."""
    found = set()
    for place in names.places(folder):
        marked = (path.name.partition(f"_{sidecars.SPACE}_") for path in place.iterdir())
        named = {start for start, mark, _ in marked if mark and names.place(folder, start) == place}
        found |= named or {"_".join(place.relative_to(folder).parts[:-1])}
    return sorted(found)


def check_names(folder: pathlib.Path, identifiers: Sequence[str]) -> None:
    """Raises UsageError where a folder holds results of these scans that an earlier version named without entities."""
    if old := sorted({names.squeezed(name) for name in identifiers if is_renamed(name, folder)} - set(identifiers)):
        some = ", ".join(old[:3]) + (f" and {len(old) - 3} more" if len(old) > 3 else "")
        raise UsageError(
            f"{folder} holds results of an earlier version, whose names leave out sessions and runs: {some}. Remove "
            "them, or name another output folder; scans are restored again under their full names."
        )


def is_renamed(identifier: str, folder: pathlib.Path) -> bool:
    """Returns whether a folder holds a result of a scan under the name that earlier versions gave the scan."""
    old = names.squeezed(identifier)
    return old != identifier and sidecars.file(folder, old, sidecars.ANOMALY, "json").exists()


def read_predictions(folder: pathlib.Path) -> tuple[dict[str, Prediction], dict[str, str]]:
    """Lists the finished subjects of one restore output folder, and what is wrong with the others.

    Raises:
      UsageError: there are none, one scan stands there twice, or they come from more than one experiment.
    """
    predictions: dict[str, Prediction] = {}
    failed: dict[str, str] = {}
    for name in identifiers(folder):
        try:
            predictions[name] = read_one(folder, name)
        except InputError as error:
            failed[name] = str(error)
    if not predictions and not failed:
        raise UsageError(f"{folder} holds no sub-*/anat folder. Give the output folder of lgjax.restore.")
    _check_one_experiment(folder, list(predictions.values()))
    return predictions, failed


def read_one(folder: pathlib.Path, identifier: str) -> Prediction:
    """Returns one finished scan's outputs; raises InputError where the scan is unfinished."""
    sidecar = _read_sidecar(sidecars.file(folder, identifier, sidecars.ANOMALY, "json"))
    return Prediction(identifier, folder, sidecar)


def _read_sidecar(path: pathlib.Path) -> Sidecar:
    """Reads the JSON beside an anomaly map; restore writes it last: without it the subject is unfinished."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, allow_nan=False)  # numbers that are not finite cannot stand in metrics.json either
    except FileNotFoundError as error:
        raise InputError(path, "is missing: the subject is unfinished", UNFINISHED) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(path, f"cannot be read: {error}", UNFINISHED) from error
    problem = sidecars.problem_of(content)
    if problem:
        raise InputError(path, problem, UNFINISHED)
    return sidecars.parse(content)


def _check_one_experiment(folder: pathlib.Path, predictions: Sequence[Prediction]) -> None:
    scans: dict[str, str] = {}
    for prediction in predictions:
        other = scans.setdefault(prediction.sidecar.input_sha256, prediction.identifier)
        if other != prediction.identifier:
            problem = f"{other} and {prediction.identifier} in {folder} are restorations of the same scan"
            raise UsageError(f"{problem} (equal InputSHA256). Remove one of them.")
        for key, ours in prediction.sidecar.shared.items():
            theirs = predictions[0].sidecar.shared[key]
            if ours != theirs:
                problem = f"{folder} mixes experiments: {key} is {theirs!r} for {predictions[0].identifier}"
                remedy = "Restore them again into a folder of their own."
                raise UsageError(f"{problem} and {ours!r} for {prediction.identifier}. {remedy}")
