"""The front entrance: a trained and calibrated method, and what it finds in a scan."""

import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lgjax import __version__
from lgjax.calibration import null, scores, tails
from lgjax.calibration.tails import Tails
from lgjax.derivatives import description, occupied, provenance, sidecar, write
from lgjax.derivatives.lesions import Lesion
from lgjax.derivatives.sidecar import Quality
from lgjax.methods import names as methods
from lgjax.methods import own_kernels, volumes
from lgjax.methods import runner as runners
from lgjax.methods import scan as scans
from lgjax.methods.names import Method
from lgjax.methods.queue import restore_scan
from lgjax.methods.runner import Runner, Traces
from lgjax.methods.scan import Answer, Plan, Restored
from lgjax.preparation import cohort, likeness, measures, midplane, pipeline
from lgjax.preparation.pipeline import Prepared
from lgjax.runtime import devices, places
from lgjax.runtime.counting import counted
from lgjax.runtime.errors import UsageError
from lgjax.scans import orientation, scan_picture, sources
from lgjax.scans.memory import read as read
from lgjax.scans.sources import Subject
from lgjax.scans.sources import find as find
from lgjax.workdir import calibrations, experiment, weights
from lgjax.workdir.recorded import RELEASED, SHIPPED
from lgjax.workdir.weights import Trained

LOG = logging.getLogger(__name__)
RELATIVE = "medians of |Y - X| in the scan's brain"  # unit of the score of this name
NOTICE = "Research use only. Not a medical device."


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


class Detector:
    """A method with its weights, lambda and thresholds: a function from a scan to a `Detection`."""

    def __init__(
        self,
        method: Method,
        trained: Trained,
        runner: Runner,
        strength: float,
        step: int,
        about: Mapping[str, Any],
        workdir: pathlib.Path | None = None,
        tails: Tails = Tails(),  # noqa: B008
        healthy: Mapping[str, Sequence[float]] | None = None,
    ):
        """Keeps what `load` and `from_config` put together.

        Args:
          method: by name.
          trained: weights, and the recipe that scans are prepared by.
          runner: the compiled method.
          strength: lambda; 0 where the method has none.
          step: every how many axial slices are looked at.
          about: what the sidecars of all scans say.
          workdir: that all this was loaded from; None: from nowhere.
          tails: of the healthy scores.
          healthy: measures of the healthy scans of the calibration; None: nobody measured them.
        """
        self.method, self.trained, self.runner = method, trained, runner
        self.strength, self.step, self.about, self.workdir = strength, step, about, workdir
        self.tails, self.healthy = tails, healthy

    def __repr__(self) -> str:
        names = {None: "", SHIPPED: "shipped, ", RELEASED: "released, "}
        place = names.get(self.workdir, f"{self.workdir}, ")
        thresholds = f"thresholds from {counted(len(self.about['CalibrationSubjects']), 'healthy scan')}"
        return f"Detector({self.method.name}, {place}trained on {self.about['TrainedOn']}, {thresholds})"

    def __call__(self, subject: Subject) -> Detection:
        """Prepares and restores one scan and maps what changed.

        Args:
          subject: from `read` or `find`.

        Raises:
          UsageError: it is no scan from `read` or `find`.
          InputError: the scan cannot be used, or its restoration diverged.
        """
        if not isinstance(subject, Subject):
            given = type(subject).__name__
            raise UsageError(f"a detector takes one scan, no {given}. Read it first: detector(lgjax.read(image)).")
        return self.detect(subject, self.prepare(subject), sources.digest(subject))

    def prepare(self, subject: Subject) -> Prepared:
        """Prepares one scan as the training scans were; errors as in `pipeline.prepare`."""
        return pipeline.prepare(subject, self.trained.recipe)

    def plan(self, prepared: Prepared) -> Plan:
        """Plans the restoration of one prepared scan; errors as in `methods.scan.plan`."""
        return scans.plan(self.method, self.runner.settings, prepared, self.strength, self.step)

    def detect(self, subject: Subject, prepared: Prepared, digest: str) -> Detection:
        """Restores one prepared scan and maps what changed; arguments as in `found`.

        Raises:
          InputError: no slice is looked at, or the restoration diverged.
        """
        restored = restore_scan(self.runner, prepared, self.strength, self.step)
        return self._found(subject, prepared, digest, restored)

    def found(self, subject: Subject, prepared: Prepared, digest: str, planned: Plan, answer: Answer) -> Detection:
        """Maps what the restoration of one scan changed; needs no device.

        Args:
          subject: whose scan it is.
          prepared: from `prepare`.
          digest: of the subject's files, from `sources.digest`.
          planned: from `plan`.
          answer: of the runner to the plan.

        Raises:
          InputError: the restoration diverged.
        """
        restored = scans.finish(planned, answer, self.runner.taken(answer.traces))
        return self._found(subject, prepared, digest, restored)

    def _found(self, subject: Subject, prepared: Prepared, digest: str, restored: Restored) -> Detection:
        anomaly = scores.anomaly(restored.change, self.about["Score"], restored.subject.placement.brain)
        change = restored.change if self.method.pictures else None
        promised = self.about.get("VolumeThresholds")
        maps = write.detect(restored.subject, change, anomaly, self.about["Thresholds"], promised)
        maps = maps._replace(pvalues=self.pvalues(anomaly, restored.subject, prepared))
        used = bool(self.method.model) and prepared.image.sha256 in self.trained.subjects
        plane = provenance.midplane_of(restored.plane, prepared)
        calibrated = own_kernels.warnings(self.about.get("CalibrationKernels"), restored.kernels)
        notes = (*midplane.warnings(restored.plane), *volumes.warnings(self.method, prepared), *calibrated)
        for note in notes:
            LOG.warning("%s: %s", subject.identifier, note)
        quality = self.quality(prepared, restored)
        if quality.unlike:
            reasons = "; ".join(quality.reasons)
            LOG.warning("%s: %s, unlike healthy scans: %s", subject.identifier, quality.light, reasons)
        common = {
            **self.about,
            "SourceSHA256": digest,
            "UsedInTraining": used,
            "MidsagittalPlane": plane,
            "Quality": dataclasses.asdict(quality),
            "Warnings": [places.told(warning) for warning in (*prepared.image.warnings, *notes)],
        }
        return Detection(
            subject.identifier, restored.subject, maps, restored.traces, provenance.of(subject, common, restored)
        )

    def pvalues(self, anomaly: np.ndarray, looked_at: Prepared, prepared: Prepared) -> np.ndarray | None:
        """Returns the p-values of an anomaly map, [X, Y, Z]; None where calibration knows none."""
        if self.tails.null is None:
            return None
        whole = prepared.placement.brain
        return null.mapped(self.tails.null, anomaly, looked_at.placement.brain, whole, prepared.image.affine)

    def quality(self, prepared: Prepared, restored: Restored) -> Quality:
        """Says whether a prepared scan, restored, is like the healthy scans of the calibration."""
        placement = restored.subject.placement
        errors = orientation.within(restored.change, placement.brain, placement.orientation)
        found = measures.measure(prepared, errors, restored.plane)
        light, reasons = likeness.judge(found, self.healthy)
        return Quality(light, list(reasons), found)


def load(workdir: str | os.PathLike | None = None, *, method: str | None = None, device: str = "auto") -> Detector:
    """Loads a trained and calibrated method.

    Args:
      workdir: folder that `lgjax train` or `lgjax export` wrote; None: what travels with lgjax and needs no training,
        whatever lies in the current folder.
      method: by name; None: the one that the recorded config names.
      device: auto (the fastest), cpu, gpu or tpu.

    Raises:
      InputError: the folder holds no trained weights, a released model is not whole, or the method is not calibrated.
      UsageError: there is no such method, or the calibration belongs to other weights or settings.
      EnvironmentFault: there is no such device.
    """
    weightless = method is not None and not methods.parse(method).model
    folder = (SHIPPED if weightless else RELEASED) if workdir is None else pathlib.Path(workdir).expanduser()
    config = experiment.get_config(str(folder / "config.json"))
    return from_config(config, folder, method or config.restore.method, devices.chosen(device))


def from_config(config, workdir: pathlib.Path, name: str, mesh: jax.sharding.Mesh) -> Detector:
    """Puts a detector together from a config and its work directory; errors as in `load`."""
    method = methods.parse(name)
    methods.check_model(method, config.model.name)
    trained = weights.load(config, workdir)
    calibration = calibrations.load(config, workdir, method.name, trained.digest, trained.recipe.digest)
    rates = methods.rate_names(config.restore.false_positive_rates)
    score = method.scored(config.restore.score)
    rate = methods.mask_rate(config.restore.mask_rate, rates)
    found = tails.read(calibration, score)
    if why := tails.missing(calibration, score):
        LOG.warning("%s: %s", method.name, why)
    about = {
        "Method": method.name,
        "Score": score,
        "Lambda": calibration.strength,
        "Thresholds": {rate: calibration.thresholds[score][rate] for rate in rates},
        "VolumeThresholds": tails.thresholds(found.promise, config.restore.false_positive_volumes),
        "PValues": tails.about(found.null, len(calibration.subjects)),
        "MaskRate": rate,
        "LargestFalsePositives": tails.largest(found.largest, rate),
        "TrainedOn": trained.describe(method.model),
        "CalibrationSubjects": calibration.subjects,
        "CalibratedOn": cohort.kind(config.data.source),
        "CalibrationKernels": calibration.kernels,
        "ConfigSHA256": calibration.config_digest,
        "WeightsSHA256": trained.digest,
        "RecipeSHA256": trained.recipe.digest,
        "Preparation": trained.recipe.describe(),
        "Version": __version__,
        "Search": calibration.search,
        "SliceStep": config.restore.slice_step,
        "AnomalyUnits": RELATIVE if score == "relative" else method.unit,
        "MirrorVariance": calibration.mirror_variance,
        "Grid": [config.data.height, config.data.width],
        "Seed": config.seed,
        "Device": devices.describe(list(mesh.devices.flat)),
        "JaxVersion": jax.__version__,
        "Notice": NOTICE,
    }
    settings = runners.from_config(config)
    if calibration.mirror_variance is not None:
        settings = settings._replace(mirror_variance=calibration.mirror_variance)
    runner = Runner(method, settings, weights.model(config), trained.params, mesh)
    lambda_, step, healthy = calibration.strength or 0.0, config.restore.slice_step, calibration.healthy_scans
    return Detector(method, trained, runner, lambda_, step, about, workdir, found, healthy)
