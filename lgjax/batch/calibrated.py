"""Detectors whose method is calibrated first, by one process for all, where nobody has done so."""

import logging
import pathlib
import time
from collections.abc import Callable

import jax

from lgjax import detector as detectors
from lgjax.calibration import procedure
from lgjax.detector import Detector
from lgjax.methods import names as methods
from lgjax.runtime import hosts, parallel
from lgjax.runtime.claims import at_work
from lgjax.runtime.waiting import Waiting
from lgjax.workdir import calibrations
from lgjax.workdir.recorded import is_released

LOG = logging.getLogger(__name__)


def from_config(config, workdir: pathlib.Path, name: str, mesh: jax.sharding.Mesh) -> Detector:
    """Loads a method, which is calibrated first if nobody has; a released model stays as it is."""
    if hosts.first_says(not calibrations.path(workdir, name).exists() and not is_released(workdir)):
        calibrate(
            calibrations.path(workdir, name), lambda: procedure.from_config(config, workdir, mesh)(methods.parse(name))
        )
    return detectors.from_config(config, workdir, name, mesh)


def calibrate(path: pathlib.Path, calibration: Callable[[], object]) -> None:
    """Makes a record of calibration: joined hosts do so together; of other processes, the first one does it for all.

    Args:
      path: of the record.
      calibration: makes the record.
    """
    with at_work(path.parent) as claims:
        item, waiting = f"the calibration of {path.stem}", Waiting(claims.holder, first=0.0)
        while jax.process_count() == 1 and not claims.take(item):
            waiting.tell([item])
            time.sleep(parallel.PAUSE)
        if jax.process_count() > 1 or not path.exists():
            LOG.info("%s is not calibrated yet: calibrating on held-out healthy scans first", path.stem)
            calibration()
