"""Which form a convolution has on a kind of device: the table forms.json, with the seconds that chose each entry.

`python benchmarks/convolutions.py --tune` measures and writes the table.
"""

import functools
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

FORWARD, IMAGE, KERNEL = USES = ("forward", "image gradient", "kernel gradient")
_SHIPPED = pathlib.Path(__file__).with_name("forms.json")

# Block of pixels by the most features it is for. So, restorations by the paper's networks take 0.36 (lg_neural,
# lg_est) and 0.13 (elbo) of the time with Flax's convolutions, two CPU cores: benchmarks/convolutions_cpu.json.
BLOCKS = ((1, (4, 4)), (8, (2, 2)), (16, (1, 2)))
FEW = BLOCKS[-1][0]  # features that leave a product of patches and kernel too narrow to be fast


class Layer(NamedTuple):
    """A convolution of one image, whose form is to be chosen."""

    size: tuple[int, int]  # of the image, in pixels
    channels: int
    features: int
    kernel: tuple[int, int]  # taps
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]  # pixels before and after
    dtype: str

    @classmethod
    def of(cls, x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[Sequence[int]]) -> "Layer":
        """Describes the convolution of x, [N, H, W, C], with kernel, [K, K, C, features]."""
        (_, *size, channels), (*taps, _, features) = x.shape, kernel.shape
        found = size, channels, features, taps, strides, padding, str(x.dtype)
        return cls(*_hashable(found))

    @property
    def result(self) -> tuple[int, int]:
        """The size of the result, in pixels."""
        sizes = zip(self.size, self.kernel, self.strides, self.padding, strict=True)
        rows, columns = ((n + sum(pads) - k) // s + 1 for n, k, s, pads in sizes)
        return rows, columns


class Entry(NamedTuple):
    """What was measured of one convolution, and the form that was chosen for it."""

    use: str  # of `USES`
    layer: Layer
    form: str
    seconds: dict[str, float]  # of an iteration, by form
    iterations: dict[str, int]  # of a run that was timed, by form; older tables do not say


class Record(NamedTuple):
    """What was measured on one kind of device."""

    about: dict[str, Any]  # versions, device, date, command
    entries: list[Entry]


Table = dict[str, Record]  # by kind of device


def read(path: pathlib.Path = _SHIPPED) -> Table:
    """Reads a table."""
    kinds = json.loads(path.read_text(encoding="utf-8"))
    return {kind: Record(found["about"], [_entry(**line) for line in found["layers"]]) for kind, found in kinds.items()}


def text(table: Table) -> str:
    """Returns a table as JSON, an entry a line."""
    return "{" + ",".join(f"\n{json.dumps(kind)}: {_section(record)}" for kind, record in table.items()) + "\n}\n"


def chosen(kind: str, use: str, layer: Layer) -> str:
    """Returns the form of a convolution: on CPU by a rule, elsewhere what was measured on that kind of device."""
    return by_rule(use, layer) if kind == "cpu" else _forms().get((kind, use, layer)) or _rule(kind, use, layer)


def possible(use: str, layer: Layer) -> list[str]:
    """Returns the forms that a convolution can have, and that a measurement should compare."""
    single, forms = layer.strides == (1, 1), ["plain"]
    if use != FORWARD:
        forms += ["formed"] * (len(possible(FORWARD, layer)) > 1)
        return forms + (["turned"] if use == IMAGE else ["products"] * single)
    if min(layer.result) < 1 or min(low for pads in layer.padding for low in pads) < 0:
        return forms
    forms += ["dense", "wide"] * (single and _covers(layer)) + ["shifted"] * (single and layer.channels == 1)
    if layer.features <= FEW and layer.kernel != (1, 1):
        fits = (block for _, block in BLOCKS if all(n % b == 0 for n, b in zip(layer.result, block, strict=True)))
        forms += [blocks(block) for block in fits]
    return forms


def _rule(kind: str, use: str, layer: Layer) -> str:
    """Returns XLA's form and XLA's gradients; on few pixels, the form that launches the fewest kernels on a GPU."""
    if use != FORWARD:
        return "formed"
    return "wide" if kind != "plain" and "wide" in possible(use, layer) else "plain"


def by_rule(use: str, layer: Layer) -> str:
    """Returns the form that is fast on CPU, where XLA's convolutions are up to twenty times slower.

    They are slow with a kernel larger than the image, where XLA takes the one for the other, and with few channels.
    """
    if use == IMAGE:
        return "turned"
    if use == KERNEL:
        grown = layer.strides == (1, 1) and layer.result[0] > layer.size[0]
        few = 1 < layer.features <= FEW and layer.channels > 1 and by_rule(FORWARD, layer) != "plain"
        return "products" if grown else "formed" if few else "plain"
    block = next((blocks(block) for most, block in BLOCKS if layer.features <= most), "")
    return next(form for form in ("dense", "shifted", block, "plain") if form in possible(use, layer))


def _covers(layer: Layer) -> bool:
    """Returns whether a kernel is larger than the image."""
    return max(layer.kernel) > min(layer.size) and math.prod(layer.kernel) >= math.prod(layer.size)


def blocks(block: tuple[int, int]) -> str:
    """Names the form that convolves a block of rows x columns of the result's pixels at a time."""
    return "blocks of {}x{}".format(*block)


@functools.cache
def _forms() -> dict[tuple[str, str, Layer], str]:
    """Returns the shipped table as forms by kind of device, use and layer."""
    return {(kind, entry.use, entry.layer): entry.form for kind, found in read().items() for entry in found.entries}


def _section(record: Record) -> str:
    lines = [
        json.dumps(
            {"use": e.use, **e.layer._asdict(), "form": e.form, "seconds": e.seconds, "iterations": e.iterations}
        )
        for e in record.entries
    ]
    return f'{{"about": {json.dumps(record.about)}, "layers": [\n' + ",\n".join(lines) + "\n]}"


def _entry(
    use: str, form: str, seconds: dict[str, float], iterations: dict[str, int] | None = None, **layer: Any
) -> Entry:
    described = Layer(**{name: _hashable(value) for name, value in layer.items()})
    return Entry(use, described, form, seconds, iterations or {})


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, (list, tuple)) else value
