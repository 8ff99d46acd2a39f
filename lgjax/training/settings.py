"""What a training is told beside its model and its slices."""

from typing import NamedTuple


class Settings(NamedTuple):
    """The values that training reads."""

    seed: int  # of the first weights, of the order of slices and of all draws
    batch_size: int  # slices
    steps: int  # the last one's number
    learning_rate: float
    momentum: float  # Adam's b1
    schedule: str  # of the learning rate: constant or cosine, to zero at the last step
    precision: str  # of networks, see `models.precision`
    flip: float  # probability that a slice is mirrored left to right, see `step.augment`
    intensity: float  # standard deviation of a slice's scale and shift, see `step.augment`
    steps_per_dispatch: int  # that one program takes where slices are on the device; 0: as suits it
    log_every: int  # steps
    checkpoint_every: int  # steps
    resident: str  # whether slices are kept on the device: auto (if they fit), always or never
    workers: int  # threads that read slices
    read_processes: int  # that read streamed slices; 0: the threads of this one


def from_config(config) -> Settings:
    """Reads the settings of training from the whole config of an experiment."""
    parts = {**config.data, **config.train, "seed": config.seed}
    return Settings(**{name: parts[name] for name in Settings._fields})
