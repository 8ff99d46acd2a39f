"""The front entrance: a trained and calibrated method, and what it finds in a scan."""

import dataclasses
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
from lgjax.derivatives import provenance, write
from lgjax.derivatives.detection import Detection as Detection
from lgjax.derivatives.sidecar import Quality
from lgjax.methods import names as methods
from lgjax.methods import own_kernels, volumes
from lgjax.methods import runner as runners
from lgjax.methods import scan as scans
from lgjax.methods.names import Method
from lgjax.methods.queue import restore_scan
from lgjax.methods.runner import Runner
from lgjax.methods.scan import Answer, Plan, Restored
from lgjax.preparation import cohort, likeness, measures, midplane, pipeline
from lgjax.preparation.pipeline import Prepared
from lgjax.runtime import devices, places
from lgjax.runtime.counting import counted
from lgjax.runtime.errors import UsageError
from lgjax.scans import orientation, sources
from lgjax.scans.memory import read as read
from lgjax.scans.sources import Subject
from lgjax.scans.sources import find as find
from lgjax.workdir import calibrations, experiment, weights
from lgjax.workdir.recorded import RELEASED, SHIPPED
from lgjax.workdir.weights import Trained

LOG = logging.getLogger(__name__)
RELATIVE = "medians of |Y - X| in the scan's brain"  # unit of the score of this name
NOTICE = "Research use only. Not a medical device."


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
        self._told: set[str] = set()  # warnings

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
        self._tell_once(own_kernels.warning(self.about.get("CalibrationKernels"), restored.kernels))
        notes = (*midplane.warnings(restored.plane), *volumes.warnings(self.method, prepared))
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

    def _tell_once(self, warning: str | None) -> None:
        """Logs what holds for all scans, with the first of them."""
        if warning and warning not in self._told:
            self._told.add(warning)
            LOG.warning("%s: %s", self.method.name, warning)

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
