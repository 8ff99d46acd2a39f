"""The record of one scan that can be read: what every room above works on."""

import dataclasses
import pathlib
from collections.abc import Callable

from lgjax.scans.names import participant
from lgjax.scans.volume import Volume


@dataclasses.dataclass(frozen=True)
class Subject:
    """One scan and what belongs to it; nothing is read before it is asked for, and each part fails by itself.

    Attributes:
      identifier: "sub-", letters and digits, and the entities that BIDS gave the scan: safe in any path or page.
      original: the name as found.
      image: reads the scan.
      mask: reads the brain mask, where there is one.
      lesion: reads the reference segmentation, where a name tells which file that is.
      guess: where none tells: reads the reference of a scan, on whose grid it must lie, by what images hold.
      mask_found: whether the mask was found by its name: one that does not fit is passed over.
      displaced: reads the mask, 0 or 1, of what the lesion changed outside itself, of synthetic subjects: neither
        lesion nor healthy.
      kind: group shown in tables, for example "glioma"; "" if unknown.
      paths: the files that determine the prepared result: the image's, then the mask's; () for the phantom.
      slices: how many of the paths, the first ones, are the files of one DICOM series: their names and their order say
        nothing.
      reading: the options that the files are read with, as JSON; of the phantom, the digest of all it is made from.
      bias_field: None for a raw scan; for one that lgjax.preprocess wrote, the canonical JSON of the settings of
        the bias field that it removed ("null": none).
      person: of such a scan, who was scanned, as was noted then.
      private: whole paths on the way to a DICOM series that no output may name: they may tell who was scanned.
      earlier: the identifier that earlier versions gave the scan, where that was another one.
      source: what outputs say of where a file comes from: a BIDS URI in which `raw` is the data set or folder.
    """

    identifier: str
    original: str
    image: Callable[[], Volume]
    mask: Callable[[], Volume] | None = None
    lesion: Callable[[], Volume] | None = None
    displaced: Callable[[], Volume] | None = None
    kind: str = ""
    paths: tuple[pathlib.Path, ...] = ()
    reading: str = ""
    bias_field: str | None = None
    person: str = ""
    guess: Callable[[Volume], Volume] | None = None
    mask_found: bool = False
    source: str = ""
    slices: int = 0
    private: frozenset[pathlib.Path] = frozenset()
    earlier: str = ""

    def __repr__(self) -> str:
        return f"Subject({self.identifier})"

    @property
    def said(self) -> str:
        """What a message calls the scan: its file, where there is one; the files of a series may name the patient."""
        return str(self.paths[0]) if self.paths and not self.slices else self.source

    @property
    def participant(self) -> str:
        """Who was scanned, see `names.participant`."""
        return self.person or participant(self.original)
