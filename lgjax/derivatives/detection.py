"""What was found in one scan: maps on the scan's own grid, lesions, and what the files of a derivative say."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from lgjax.derivatives import description, occupied, sidecar, write
from lgjax.derivatives.lesions import Lesion
from lgjax.derivatives.sidecar import Quality
from lgjax.methods.runner import Traces
from lgjax.preparation.pipeline import Prepared
from lgjax.runtime.counting import counted
from lgjax.scans import scan_picture


@dataclasses.dataclass(frozen=True)
class Detection:
    """What was found in one scan; all maps lie on the scan's own grid, [X, Y, Z].

    Attributes:
      identifier: of the scan: names the outputs.
      subject: the scan as it was prepared.
      maps: what is written.
      trace: what happened at each iteration of each slice, each [N, iterations]; None for methods without a loop;
        its parts are None with `restore.traced` False.
      about: what the sidecars say, by their keys.
    """

    identifier: str
    subject: Prepared
    maps: write.Maps
    trace: Traces
    about: Mapping[str, Any]

    def __repr__(self) -> str:
        volume = sum(lesion.volume_ml for lesion in self.lesions)
        found = f"{counted(len(self.lesions), 'lesion')} of {volume:.1f} mL"
        return f"Detection({self.identifier}, {self.about['Method']}, {found})"

    @property
    def anomaly(self) -> np.ndarray:
        """The score of every voxel, float32, 0 outside the brain; mostly in standard deviations of the brain."""
        return self.maps.anomaly

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Detections, bool, by the false positive rate on healthy voxels that each threshold promises ("0.01")."""
        return self.maps.masks

    @property
    def volume_masks(self) -> dict[str, np.ndarray]:
        """Detections, bool, by the mL of false positives that a healthy scan has at most on average ("5").

        Each scan counts up to ten times that volume. Empty where calibration knows no such threshold.
        """
        return self.maps.volume_masks

    @property
    def pvalues(self) -> np.ndarray | None:
        """Share of healthy voxels of like depth and height that score as high, float32, 1 outside the brain.

        Of single voxels, without correction for their number; None where calibration knows none for the score.
        """
        return self.maps.pvalues

    @property
    def restored(self) -> np.ndarray | None:
        """The restored scan, float32, in the scan's own intensities; None for methods that restore no image."""
        return self.maps.restored

    @property
    def brain(self) -> np.ndarray:
        """Where the method looked, bool."""
        return self.maps.brain

    @property
    def affine(self) -> np.ndarray:
        """Voxel indices -> world millimetres (RAS+), [4, 4]."""
        return self.subject.image.affine

    @functools.cached_property
    def lesions(self) -> list[Lesion]:
        """Connected components of the mask at the config's `restore.mask_rate`, the largest first."""
        return write.lesions_of(self.maps, self.affine, self.about)[1]

    @property
    def quality(self) -> Quality:
        """Whether the scan is like the healthy scans of the calibration: a traffic light, reasons, measures."""
        return Quality(**self.about["Quality"])

    def figure(self) -> scan_picture.Picture:
        """Returns a matplotlib figure of the three slices with most detected anomaly, in radiological view."""
        return write.figure(self.subject, self.maps, self.about)

    def save(self, folder: str | os.PathLike) -> pathlib.Path:
        """Writes what the command `restore` writes for one scan, and returns the path of the anomaly map.

        Raises:
          InputError: a link leads out of the folder.
          UsageError: the folder holds the scan's map of another method.
          EnvironmentFault: the disk refuses.
        """
        root = pathlib.Path(folder)
        write.check_place(root, self.identifier)
        occupied.check_scan(root, self.identifier, self.about["Method"])
        description.describe(root, "restorations")
        write.write(root, self.identifier, self.subject, self.maps, dict(self.about))
        return sidecar.file(root, self.identifier, sidecar.ANOMALY)
