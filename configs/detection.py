"""Detection without training: the mirror image, saturation and total variation in three dimensions (docs/method.md).

    python -m lgjax.calibrate --config=detection --workdir=runs/detection --method=intensity_tv3d,mirror_tv3d
    python -m lgjax.calibrate --config=detection --workdir=runs/mine --config.data.source=FOLDER   # of healthy scans

The first command made what travels with lgjax, and what `lgjax restore --method=mirror_tv3d` takes without --workdir.
Any value can be overridden, as --config.data.calibration_subjects=24. What is not said here is as in
configs/common.py.
"""

import ml_collections

from configs import common


def standard() -> ml_collections.ConfigDict:
    """Makes the preset: slices of 96x96 pixels of 2 mm, saturated; thresholds from synthetic healthy brains."""
    config = common.untrained("detection", "mirror_tv3d")
    config.data.source = "phantom@2"  # slices of 2 mm, as differences between slices want
    config.data.calibration_subjects = 16
    common.set_detection(config)
    config.restore.score = "positive"  # absolute would show a lesion's negative on the healthy side of the head
    config.calibrate = common.calibrate()
    config.calibrate.strength = 5.0  # lambda, see docs/results.md
    return config


def smoke() -> ml_collections.ConfigDict:
    """Coarser slices and fewer subjects: seconds on two CPU cores."""
    config = standard()
    config.name += "_smoke"
    config.data.source = "phantom"
    config.data.calibration_subjects = 6
    config.data.height = config.data.width = 64
    config.data.spacing = 3.0
    config.calibrate.slices = 24
    return config


VARIANTS = {"standard": standard, "smoke": smoke}


def get_config(variant: str = "standard") -> ml_collections.ConfigDict:
    """Returns the config of a variant: standard (default) or smoke."""
    common.check_variant(variant, VARIANTS)
    return VARIANTS[variant]()
