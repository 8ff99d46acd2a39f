"""The embedded data set: synthetic T2-weighted brains, healthy and with lesions.

    anatomies = load_anatomies(None)
    scan = make_subject(anatomies, seed=0, index=3, kind="glioma")

Anatomies are tissue maps: the MNI152 templates that nilearn ships, or a folder of FreeSurfer label maps
(`anatomy`). Each subject draws a contrast, a smooth deformation and a scanner from its own stream, keyed by
(seed, index): the same subject comes out in any order, in any number of workers. A patient equals the healthy twin
outside the lesion and its soft border. A glioma also pushes the brain around it aside: where the push changes a voxel
by more than a tenth of the brain's standard deviation, the voxel is marked as displaced, which is neither lesion nor
healthy. HARD are the kinds of patients that a detector finds less easily. `get_subject` keeps subjects in the user's
cache folder. Single precision is used only with +, -, *, / and square roots, whose rounding every machine shares; the
rest is double precision, rounded to whole numbers at the end.
"""

from lgjax.scans.phantom.anatomy import load_anatomies
from lgjax.scans.phantom.heads import describe
from lgjax.scans.phantom.kept import Request, digest, get_subject
from lgjax.scans.phantom.subject import HARD, KINDS, make_subject

__all__ = ["HARD", "KINDS", "Request", "describe", "digest", "get_subject", "load_anatomies", "make_subject"]
