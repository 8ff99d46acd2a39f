"""How restorations are judged: what finds a lesion, and from how many subjects on, and how often, a difference may err.

    python -m lgjax.eval --config=configs/eval.py --predictions=D --labels=BRATS_FOLDER --output=E

Any value can be overridden: --config.least_subjects=12.
"""

import ml_collections

from configs import common


def standard() -> ml_collections.ConfigDict:
    """The rule of the MSSEG challenge (Commowick et al. 2018, alpha and beta), and levels of 5 %."""
    config = ml_collections.ConfigDict()
    config.name = "eval"  # of these settings
    config.connectivity = 26  # neighbours of a voxel in one lesion or detection: 6, 18 or 26
    config.lesion_share = 0.1  # least share of a reference lesion that true detections cover, for it to be found
    config.detection_share = 0.3  # least share of a detection that lies in the reference, for it to be true
    config.least_subjects = 6  # that a 95 % interval or a test is stated for
    config.family_error = 0.05  # chance that any difference of a table is called certain by accident
    # Methods that every other one is compared with, where they are there: what needs no training, and the paper's best.
    config.references = ("mirror_tv3d", "vae_lg_neural_tv")
    return config


VARIANTS = {"standard": standard}


def get_config(variant: str = "standard") -> ml_collections.ConfigDict:
    """Returns the config; there is one variant."""
    common.check_variant(variant, VARIANTS)
    return VARIANTS[variant]()
