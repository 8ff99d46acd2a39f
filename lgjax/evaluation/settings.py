"""What an evaluation decides beside what it is given: the config `configs/eval.py` as values."""

import dataclasses

from lgjax.runtime.errors import UsageError

NEIGHBOURS = {6: 1, 18: 2, 26: 3}  # of a voxel, by how many axes they may differ in


@dataclasses.dataclass(frozen=True)
class Settings:
    """The values of an evaluation; shares are between 0 and 1."""

    connectivity: int  # neighbours of a voxel in one component
    lesion_share: float  # least share of a reference lesion that true detections cover, for it to be found
    detection_share: float  # least share of a detection that lies in the reference, for it to be true
    least_subjects: int  # that an interval or a test is stated for
    family_error: float  # chance that any difference of a table is called certain by accident
    references: tuple[str, ...] = ()  # methods that are held against all others, where they are among them

    @property
    def few(self) -> str:
        """Why there is no interval."""
        return f"fewer than {self.least_subjects} subjects"


def from_config(config) -> Settings:
    """Reads the settings of an evaluation from its config.

    Raises:
      UsageError: a value makes no sense.
    """
    found = Settings(**{field.name: config[field.name] for field in dataclasses.fields(Settings)})
    if found.connectivity not in NEIGHBOURS:
        raise UsageError(f"--config.connectivity={found.connectivity}: expected 6, 18 or 26.")
    for name in ("lesion_share", "detection_share"):
        if not 0 < getattr(found, name) <= 1:
            raise UsageError(f"--config.{name}={getattr(found, name):g}: expected a number above 0, at most 1.")
    if found.least_subjects < 2:
        raise UsageError(f"--config.least_subjects={found.least_subjects}: expected 2 or more.")
    if not 0 < found.family_error < 1:
        raise UsageError(f"--config.family_error={found.family_error:g}: expected a number between 0 and 1.")
    return found
