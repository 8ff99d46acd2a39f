"""How raw scans are prepared: bias field, brain, histogram, z-score, slices.

    python -m lgjax.preprocess --config=configs/data.py --input=COHORT --output=prepared/cohort          # as the paper
    python -m lgjax.preprocess --config=configs/data.py:smoke --input=COHORT --output=prepared/cohort    # for :smoke

Any value can be overridden: --config.bias_field.correct=False.
"""

import ml_collections

from configs import common


def paper() -> ml_collections.ConfigDict:
    """The steps of Chen et al. 2019: N4, histogram matching, z-score in the brain, 128x128 slices."""
    config = ml_collections.ConfigDict()
    config.name = "data"  # of the output folder
    config.height = 128  # pixels
    config.width = 128  # pixels
    config.spacing = 1.5  # mm
    config.saturation = ()  # z-scores are clipped to these two, as (-2.0, 1.5); (): not at all, as in the paper
    config.workers = 2  # processes that prepare subjects

    config.brain = ml_collections.ConfigDict()
    config.brain.stripper = "auto"  # for heads without a mask: hd-bet or mri_synthstrip (auto: what is there), or none

    config.bias_field = ml_collections.ConfigDict()
    config.bias_field.correct = True  # N4
    config.bias_field.spacing = 4.0  # mm; the field is estimated on voxels of about this size
    config.bias_field.levels = 3  # of the spline mesh, 1, 2 and 4 elements a scan: finer ones follow the anatomy
    config.bias_field.iterations = 50  # at most, at each level
    config.bias_field.threshold = 1e-3  # of convergence

    config.histogram = ml_collections.ConfigDict()
    config.histogram.match = True  # of all scans, to the mean one of the training scans
    # Landmarks of the histogram, ascending.
    config.histogram.percentiles = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)
    return config


def smoke() -> ml_collections.ConfigDict:
    """Half the resolution, for the smoke variants of the models."""
    config = paper()
    config.name += "_smoke"
    config.height = 64
    config.width = 64
    config.spacing = 3.0
    return config


VARIANTS = {"paper": paper, "smoke": smoke}


def get_config(variant: str = "paper") -> ml_collections.ConfigDict:
    """Returns the config of a variant: paper (default) or smoke."""
    common.check_variant(variant, VARIANTS)
    return VARIANTS[variant]()
