"""Compiles lgjax's programs for an NVIDIA GPU that is not there, and counts the kernels that they would launch.

    pip install "jax[cuda12]==0.10.2"                # in an environment of its own, with lgjax; no GPU, no driver
    python benchmarks/cuda_programs.py --run=NAME    # adds a run to benchmarks/cuda_programs.json
    python benchmarks/cuda_tables.py                 # tables, and predicted times

XLA compiles for a description of the device (`DEVICES`, from data sheets). Nothing is executed and nothing is tuned:
cuDNN's default algorithms are taken, which change no count.
"""

import argparse
import functools
import importlib.metadata
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.experimental import topologies

from benchmarks import cuda_kernels, cuda_thunks
from benchmarks.cuda_kernels import Kernel
from configs import bench
from lgjax import models
from lgjax.methods import names, own_kernels, runner, slicewise, volumes
from lgjax.models import convolutions
from lgjax.models.precision import CHOICES
from lgjax.runtime import devices, files, places
from lgjax.speed import counts, hlo
from lgjax.training import feeding, step
from lgjax.training import settings as training_settings

RECORD = pathlib.Path(__file__).with_suffix(".json")
RELEASED = pathlib.Path(runner.__file__).parents[1] / "shipped" / "restorer" / "config.json"
TRAINING = "training of vae"
METHODS = ("vae_lg_neural_tv", "vae_lg_est_tv", "vae_elbo_tv")
TRAIN_SLICES, STEPS = 1024, 10  # on the device, and of one dispatch
SLICES = 96  # of a volume of the released model, the padding included
# What differs between the two, by NVIDIA's data sheets: memory in bytes, and bytes a second.
DEVICES = {"h200": ("NVIDIA H200", 141e9, 4.8e12), "h100": ("NVIDIA H100 80GB HBM3", 80e9, 3.35e12)}
TARGET = """
gpu_device_info {{
  name: "{name}" device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: {memory:.0f} memory_bandwidth: {bandwidth:.0f} l2_cache_size: 52428800
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_core: 233472 shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0"
}}
platform_name: "CUDA" device_description_str: "{name}" dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
"""


class Traced(NamedTuple):
    """A program before it is compiled."""

    traced: Any  # jax.stages.Traced
    units: int  # iterations or steps that it makes; 0: it is one application, and all of it counts
    purposes: tuple[str, ...]  # see `devices.compiler_options`


def mesh(device: str) -> jax.sharding.Mesh:
    """Returns the mesh of one device that is not there, a key of `DEVICES`."""
    name, memory, bandwidth = DEVICES[device]
    target = TARGET.format(name=name, memory=memory, bandwidth=bandwidth)
    return devices.mesh(
        topologies.get_topology_desc("", platform="cuda", target_config=target, topology="1x1x1").devices
    )


def shaped(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Returns the shapes of a tree of arrays or shapes, as laid out on the mesh."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def images(count: int, config) -> jax.ShapeDtypeStruct:
    """Returns the shape of slices, [N, H, W, 1]."""
    return jax.ShapeDtypeStruct((count, config.data.height, config.data.width, 1), jnp.float32)


def parameters(config, precision: str) -> Any:
    """Returns the shapes of the parameters that a restoration takes."""
    model, settings = models.from_config(config, precision), training_settings.from_config(config)
    return jax.eval_shape(models.freeze, step.state_shapes(model, settings).variables)


def settings_of(config, values: Mapping[str, Any], precision: str) -> tuple[runner.Settings, tuple[str, ...]]:
    """Returns the settings of a restoration, some values changed, and what its compiler options are for."""
    settings = runner.from_config(config)._replace(precision=precision, **values)
    return settings, ("restoration", "graph") if values.get("cuda_graphs") else ("restoration",)


def restoration(name: str, config, values: Mapping[str, Any], precision: str, on: jax.sharding.Mesh) -> Traced:
    """Traces the restoration of one micro-batch by a method of slices; `values` change its settings."""
    method, model = names.parse(name), models.from_config(config, precision)
    settings, purposes = settings_of(config, values, precision)
    count = runner.micro_batch(on)
    numbers = jax.ShapeDtypeStruct((count,), jnp.int32), jax.ShapeDtypeStruct((count,), jnp.float32)
    given = shaped((images(count, config), images(count, config), *numbers), devices.batch_sharding(on))
    function = jax.jit(devices.on_each(slicewise.restorer(method, settings, model), on))
    units = getattr(settings, runner.length(method, settings))
    with convolutions.fusion(own_kernels.wanted(settings)):  # as where a device has been asked
        traced = function.trace(shaped(parameters(config, precision), devices.replicated(on)), *given)
    return Traced(traced, units, purposes)


def training(config, precision: str, on: jax.sharding.Mesh) -> Traced:
    """Traces some training steps, as they are dispatched where slices lie on the device."""
    settings = training_settings.from_config(config)._replace(precision=precision)
    model = models.from_config(config, precision)
    rows = jax.ShapeDtypeStruct((STEPS, settings.batch_size), jnp.int32)
    data = (images(TRAIN_SLICES, config),) * 2
    given = shaped((step.state_shapes(model, settings), data, rows), devices.replicated(on))
    with jax.sharding.use_abstract_mesh(on.abstract_mesh):  # says what kind of device it is for
        return Traced(feeding.make_steps(model, settings, on).trace(*given), STEPS, ("training",))


def released(values: Mapping[str, Any], precision: str, on: jax.sharding.Mesh) -> Traced:
    """Traces the restoration of a volume by the released model."""
    config = ml_collections.ConfigDict(json.loads(RELEASED.read_text()))
    method, model = names.parse(config.restore.method), models.from_config(config, precision)
    settings, purposes = settings_of(config, values, precision)
    numbers = jax.ShapeDtypeStruct((SLICES,), jnp.int32), jax.ShapeDtypeStruct((SLICES - 1,), jnp.float32)
    image = images(SLICES, config)
    whole = volumes.Volume(image, image, *numbers, volumes.Mirror(image, image))
    given = parameters(config, precision), whole, jax.ShapeDtypeStruct((), jnp.float32)
    function = devices.on_all(volumes.restorer(method, settings, model, runner.micro_batch(on)), on)
    return Traced(jax.jit(function).trace(*shaped(given, devices.replicated(on))), 0, purposes)


def programs(values: Mapping[str, Any]) -> dict[str, Callable[[str, jax.sharding.Mesh], Traced]]:
    """Returns by name what traces each program, given a precision and a mesh; `values` are of restorations."""
    config = bench.get_config("paper").experiments.vae
    adam, proximal = ({"optimizer": name, "tolerance": 0.0, **values} for name in ("adam", "proximal"))
    return {
        **{name: functools.partial(restoration, name, config, adam) for name in METHODS},
        f"{METHODS[0]}, proximal": functools.partial(restoration, METHODS[0], config, proximal),
        TRAINING: functools.partial(training, config),
        "released restorer, a volume": functools.partial(released, values),
    }


def calls(jaxpr: Any) -> Iterator[tuple[str, float]]:
    """Yields the name and the operations of each of our own kernels (Pallas): XLA's text does not tell them."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            turns = math.prod(equation.params["grid_mapping"].grid)
            yield equation.params["name"], turns * counts.count(equation.params["jaxpr"]).flops
            continue
        for inner in counts.jaxprs(equation.params):
            yield from calls(inner)


class Text(NamedTuple):
    """What XLA tells of a compiled program."""

    hlo: str
    thunks: str


def compiled(program: Traced) -> Text:
    """Compiles a program and returns what XLA tells of it."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_gpu_autotune_level": 0, "xla_dump_to": folder}
        for purpose in program.purposes:
            options |= devices.COMPILER_OPTIONS.get(("gpu", purpose), {})
        hlo = program.traced.lower().compile(compiler_options=options).as_text()
        (thunks,) = pathlib.Path(folder).glob("*.thunk_sequence_after_thunk_passes.txt")
        return Text(hlo, thunks.read_text())


def longest(kernels: Sequence[Kernel], count: int) -> str:
    """Returns a table of the kernels that read and write most."""
    found = sorted(kernels, key=lambda one: -one.times * one.bytes)[:count]
    return "".join(
        f"  {one.times:6.3g} x {one.bytes / 1e6:8.2f} MB {one.flops / 1e9:7.3f} GFLOP {one.kind:11} {one.scope[-60:]}\n"
        for one in found
    )


def count(chosen: argparse.Namespace) -> dict[str, Any]:
    """Compiles all programs that were chosen, and returns a run of the record."""
    on, run = mesh(chosen.device), {}
    for name, trace in programs(chosen.restore).items():
        for precision in chosen.precisions if name in chosen.programs else ():
            program = trace(precision, on)
            text = compiled(program)
            if chosen.texts:
                files.atomic_write(pathlib.Path(chosen.texts) / f"{name} {precision}.hlo", text.hlo)
            found = cuda_kernels.kernels(hlo.parse(text.hlo), dict(calls(program.traced.jaxpr)))
            kernels = cuda_kernels.of_unit(found, program.units)
            total = sum(one.times for one in kernels)
            print(f"{name}, {precision}: {total:.4g} kernels\n{longest(kernels, chosen.longest)}", flush=True)
            once = sum(one.times == 1 for one in found) if program.units else 0
            captured = cuda_thunks.captured(text.thunks)
            told = {"captured": captured, "once": once, "kernels": cuda_kernels.written(kernels)}
            run.setdefault(name, {})[precision] = told
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "jax-cuda12-plugin", "flax")}
    command = places.command(["python", "benchmarks/cuda_programs.py", *sys.argv[1:]])
    asked = ["git", "-C", str(RELEASED.parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.check_output(asked, text=True).strip()  # of lgjax, which may be of another checkout
    return {"commit": commit, "command": command, "device": chosen.device, "versions": versions, "programs": run}


def main() -> None:
    """Counts, and adds what was counted to the record."""
    known = list(programs({}))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="what the run is called in the record")
    parser.add_argument("--device", choices=DEVICES, default="h200")
    parser.add_argument("--programs", nargs="+", choices=known, default=known)
    parser.add_argument("--precisions", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--restore", type=json.loads, default={}, help="values of config.restore, as JSON")
    parser.add_argument("--longest", type=int, default=0, help="kernels of each program that are printed")
    parser.add_argument("--texts", help="folder for the texts of the compiled programs")
    parser.add_argument("--output", default=RECORD, type=pathlib.Path)
    chosen = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # else JAX's plugin looks for a driver
    old = json.loads(chosen.output.read_text()) if chosen.output.exists() else {"runs": {}}
    what = "Kernels of one iteration of programs compiled for a GPU that was not there: times, kind, bytes, operations."
    record = {"what": what, "runs": {**old["runs"], chosen.run: count(chosen)}}
    files.atomic_write(chosen.output, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
