"""The embedded data set: synthetic T2-weighted brains, healthy and with lesions.

    anatomies = load_anatomies(None)
    scan = make_subject(anatomies, seed=0, index=3, kind="glioma")

Anatomies are tissue maps: the MNI152 templates that nilearn ships, or a folder of FreeSurfer label maps
(`anatomy`). Each subject draws a contrast, a smooth deformation and a scanner from its own stream, keyed by
(seed, index): the same subject comes out in any order, in any number of workers, and a patient is its own
healthy twin outside the lesion. Single precision is used only with +, -, *, / and square roots, whose rounding
every machine shares; the rest is double precision, rounded to whole numbers at the end.
"""

from lgjax.scans.phantom.anatomy import load_anatomies
from lgjax.scans.phantom.subject import KINDS, make_subject

__all__ = ["KINDS", "load_anatomies", "make_subject"]
