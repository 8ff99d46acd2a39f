"""Compares, on the device at hand, what is fast with what is exact: float32 with plain forms of everything.

    python benchmarks/gpu_maps.py --output=F.json

The networks of configs/vae.py with random weights: what they say of a batch of slices, and how slices are restored in a
few steps by `vae_lg_neural_tv`, by each variant of precision, form and program. No two pixels that may change are
neighbours: else rounding decides the sign of TV's gradient, and maps of equal worth differ. Exits with 1, after the
record is written, where a difference is more than rounding.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from configs import vae as experiment
from lgjax import models
from lgjax.methods import names, own_kernels
from lgjax.methods import runner as runners
from lgjax.models import convolutions, precision
from lgjax.preparation.slices import Slices
from lgjax.runtime import devices, files, places
from lgjax.speed.synthetic import brain_like, random_state
from lgjax.training import settings

PLAIN = {"variance_form": "plain", "decoder_form": "plain"}  # no kernel of ours, which a compiler may refuse
EXACT = {"precision": "float32", **PLAIN}
VARIANTS = {  # values of config.restore
    "tensorfloat32": {"precision": "tensorfloat32"},
    "tensorfloat32, plain forms": {"precision": "tensorfloat32", **PLAIN},
    "tensorfloat32, one graph": {"precision": "tensorfloat32", "cuda_graphs": True, "traced": False},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, plain forms": {"precision": "bfloat16", **PLAIN},
}
NETWORKS = ("reconstruct", "variance")  # what networks say
METHOD, STEPS = "vae_lg_neural_tv", 3
RANGE = {"low": -25.0, "high": 25.0}  # of log variances
# Median differences, in standard deviations. bfloat16 on a CPU at the paper's size: .015, .003 and 4e-6 of the three.
LARGEST = {"tensorfloat32": 0.01, "bfloat16": 0.05}
OF_MAPS = 1e-3  # of restored slices, in standard deviations of the brain


def parameters(config) -> Any:
    """Frozen random parameters, whose log variances are bound to a wide range."""
    model = models.from_config(config, config.restore.precision)
    params = models.freeze(random_state(model, settings.from_config(config)).variables)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: np.float32(RANGE.get(path[-1].key, leaf)), params)


def isolated(config, count: int) -> Slices:
    """Slices of noise in which no pixel that may change touches another one."""
    found = brain_like(0, count, config.data.height, config.data.width)
    rows, columns = np.indices(found.mask.shape[1:3])
    return found._replace(mask=found.mask * ((rows + columns) % 2 == 0)[..., None])


def results(config, values: dict, params, slices: Slices, mesh) -> dict[str, np.ndarray]:
    """What a variant says of slices: reconstructions and variances, [N, H, W, 1], and restored slices.

    As one graph, the restored slices alone: networks by themselves are those of the variant without the graph.
    """
    config = config.copy_and_resolve_references()
    config.restore.update(values)
    model, restoration, said = models.from_config(config, config.restore.precision), runners.from_config(config), {}

    def ask(params, x):
        networks = model.bind(params)
        with precision.matmul_precision(config.restore.precision):
            return {part: jax.vmap(getattr(networks, part))(x) for part in NETWORKS}

    if not restoration.cuda_graphs:
        with convolutions.fusion(own_kernels.wanted(restoration)):  # our kernels themselves, where a variant has them
            said = jax.device_get(jax.jit(ask)(params, slices.y))
    runner = runners.Runner(names.parse(METHOD), restoration, model, params, mesh)
    batches = runner(slices, np.ones(len(slices.y), np.float32))
    return {**said, "restored": np.concatenate([x for x, _ in batches])}


def differences(exact: dict, found: dict, mask: np.ndarray) -> dict[str, float]:
    """Median differences: of the networks' results in their standard deviations, of restored slices in the brain's."""
    inside, scale = mask > 0, {part: float(exact[part].std()) for part in NETWORKS}
    return {part: float(np.median(np.abs(found[part] - exact[part])[inside])) / scale.get(part, 1.0) for part in found}


def faults(name: str, found: dict[str, float], kind: str) -> list[str]:
    """What of a variant differs by more than rounding, in words."""
    limits = {part: OF_MAPS if part == "restored" else LARGEST[kind] for part in found}
    return [
        f"{name}: {part} differs by {d:.2g}, more than {limits[part]:g}"
        for part, d in found.items()
        if not d <= limits[part]
    ]


def main(words: list[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="gpu")
    parser.add_argument("--smoke", action="store_true", help="tiny networks and slices")
    options = parser.parse_args(words)
    config, mesh = experiment.paper(), devices.start(options.device)
    config.restore.batch_size, config.restore.iterations = 64, STEPS
    if options.smoke:
        config.data.height = config.data.width = 16
        config.model.channels, config.model.latent_channels, config.restore.batch_size = (4,), 2, 2
    params, slices = parameters(config), isolated(config, config.restore.batch_size)
    exact = results(config, EXACT, params, slices, mesh)
    found, told = {}, []
    record = {
        "what": __doc__.splitlines()[0],
        "command": places.command(["python", *sys.argv]),
        "versions": devices.versions(),
        "slices": list(slices.y.shape),
        "differences": found,
        "faults": told,
    }
    for name, values in VARIANTS.items():
        try:
            found[name] = differences(exact, results(config, values, params, slices, mesh), slices.mask)
        except Exception as error:  # a compiler refuses in its own words
            told.append(f"{name}: {type(error).__name__}: {error}")
        else:
            told += faults(name, found[name], values["precision"])
            print(name, {part: f"{value:.1e}" for part, value in found[name].items()}, flush=True)
        files.atomic_write(options.output, json.dumps(record, indent=1) + "\n")
    for text in told:
        print(f"error: {text}")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
