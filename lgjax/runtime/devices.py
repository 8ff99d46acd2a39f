"""Devices: which one is used, arrays laid over all of them, what XLA is told about them."""

import collections
import functools
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lgjax import __version__
from lgjax.runtime import files
from lgjax.runtime.errors import EnvironmentFault

# On CPU convolutions and products are left to Eigen: at those of our networks it is faster than YNNPACK, at the image
# gradient of an upsampled convolution ten times. YNNPACK's reductions pay where normalisation is trained.
_YNN = "xla_cpu_experimental_ynn_fusion_type"
# XLA captures kernels in CUDA graphs by default, but neither loops nor cuDNN's convolutions. With both, a restoration
# is one graph. The list is whole, since compiler options, unlike XLA_FLAGS, take no +WHILE (jax 0.10.2 and 0.11.2).
_CAPTURED = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,WHILE,CONVOLUTION"
COMPILER_OPTIONS = {
    ("cpu", "restoration"): {_YNN: ""},
    ("cpu", "training"): {_YNN: "LIBRARY_FUSION_TYPE_REDUCE"},
    ("gpu", "graph"): {"xla_gpu_enable_command_buffer": _CAPTURED, "xla_gpu_graph_min_graph_size": "1"},
}


# On CPU, XLA splits sums over the threads of its pool, so the number of threads decides the last bits of a restoration.
# The pool has as many on every machine. On two cores of an AMD EPYC, 2, 4 and 8 threads take .44, .51 and .57 ms a
# slice and iteration, and one core gives the bits of two (benchmarks/threads_cpu.json).
THREADS = 4
# The schedule that lets operations of one program run at once costs two cores a tenth of a training step. XLA reads it
# from XLA_FLAGS alone, and ends at flags that it does not know: these versions of jax know it.
_IN_TURN, _KNOWN_BY = "--xla_cpu_enable_concurrency_optimized_scheduler=false", ((0, 10), (0, 11))

PLATFORMS = {"gpu": ("cuda", "rocm")}  # by JAX's names; of its alias gpu, JAX wants every platform to be there
_UNKNOWN = "not in the list of known backends"  # what JAX says of a platform without a plugin
# What XLA says of a GPU that it cannot begin with. Where another process holds the memory, the libraries find no room.
_TAKEN = (
    "DNN library initialization failed",
    "Could not create cudnn handle",
    "failed to create cublas handle",
    "no supported devices found for platform",
    "CUDA_ERROR_OUT_OF_MEMORY",
)
SHARED = (
    "Another process may hold the memory of the GPU, as nvidia-smi tells: JAX takes three quarters when it starts. Run "
    "one process a GPU, or set XLA_PYTHON_CLIENT_PREALLOCATE=false, or XLA_CLIENT_MEM_FRACTION=.4, for each process."
)


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether a device said that its memory is exhausted."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def is_taken(error: Exception) -> bool:
    """Returns whether a GPU could not be begun with, as where another process holds its memory."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _TAKEN)


def lacks_memory(error: Exception) -> bool:
    """Returns whether the memory of a device is exhausted or another process's, for which no program is to blame."""
    return is_out_of_memory(error) or is_taken(error)


def start(wanted: str = "auto", threads: int | None = THREADS) -> Mesh:
    """Chooses the device, turns on the compilation cache and returns a 1-D mesh over all devices.

    Of several hosts, each holds as many devices as the others, one after the other.

    Args:
      wanted: auto (the fastest), cpu, gpu or tpu.
      threads: see `prepare_cpu`; as many as there are cores where a gpu or tpu is wanted, which a CPU's bits do not
        hang on.

    Raises:
      EnvironmentFault: the wanted device is not there, or not on every host.
    """
    prepare_cpu(threads if wanted in ("auto", "cpu") else None)  # else fewer threads would compile for an accelerator
    devices = _found(wanted)
    jax.config.update("jax_compilation_cache_dir", str(files.cache_folder("xla")))
    counts = collections.Counter(device.process_index for device in devices)
    if len(set(counts.values())) > 1:
        raise EnvironmentFault(
            f"the hosts have {list(counts.values())} devices. Give each of them as many as the others."
        )
    return mesh(sorted(devices, key=lambda device: (device.process_index, device.id)))


def _found(wanted: str) -> list[jax.Device]:
    """Returns all devices of a kind, of whichever maker; raises EnvironmentFault where there is none."""
    faults: list[Exception] = []
    for platform in PLATFORMS.get(wanted, (wanted,)):
        if wanted != "auto":
            jax.config.update("jax_platforms", platform)
        try:
            return jax.devices()
        except (RuntimeError, AssertionError) as error:  # the latter where jax has no plugin for the platform
            faults.append(error)
    cause = next((fault for fault in faults if str(fault) and _UNKNOWN not in str(fault)), faults[0])
    raise _absent(wanted, cause) from cause


def chosen(wanted: str) -> Mesh:
    """Returns a 1-D mesh over this process's devices of one kind; a JAX that runs already is left as it is.

    Args:
      wanted: auto (the fastest), cpu, gpu or tpu.

    Raises:
      EnvironmentFault: there is no such device.
    """
    prepare_cpu(THREADS)
    try:
        return mesh(jax.local_devices(backend=None if wanted == "auto" else wanted))
    except (RuntimeError, AssertionError) as error:
        raise _absent(wanted, error) from error


def prepare_cpu(threads: int | None) -> None:
    """Tells XLA how to use a CPU, unless the user's environment does; too late once JAX has looked for devices.

    Args:
      threads: of XLA's pool; None: as many as there are cores.
    """
    if threads:
        os.environ.setdefault("NPROC", str(threads))  # XLA's own variable
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.__version_info__[:2] in _KNOWN_BY and _IN_TURN.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_IN_TURN}".strip()


def _absent(wanted: str, error: Exception) -> EnvironmentFault:
    """Makes the error for a device that cannot be used."""
    reason = f" ({error})" if str(error) else ""
    if is_taken(error) or "RESOURCE_EXHAUSTED" in str(error):
        return EnvironmentFault(f"--device={wanted}: no such device can be used{reason}. {SHARED}")
    told = os.environ.get("JAX_PLATFORMS")
    if told and told == getattr(jax.config, "jax_platforms", told):  # nothing has overruled it
        remedy = (
            f"The variable JAX_PLATFORMS={told} says what JAX may look for: unset it, set it right, or use --device=cpu"
        )
        return EnvironmentFault(f"--device={wanted}: no such device can be used{reason}. {remedy}.")
    return EnvironmentFault(
        f"--device={wanted}: no such device can be used{reason}. Install lgjax[cuda12], lgjax[cuda13] or "
        "lgjax[tpu], or for a GPU of AMD jax's plugin for ROCm, on a machine that has one, or use --device=cpu."
    )


def describe(devices: Sequence[jax.Device]) -> str:
    """Describes the devices in words, such as `8 x NVIDIA H100` or `cpu with 2 cores`."""
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = f"cpu with {os.cpu_count()} cores"
    return kind if len(devices) == 1 else f"{len(devices)} x {kind}"


def rounds_products(device: jax.Device) -> bool:
    """Returns whether a device has TensorFloat-32, as NVIDIA's GPUs have from Ampere (compute capability 8.0) on."""
    found = re.fullmatch(r"(\d+)\.\d", getattr(device, "compute_capability", ""))  # gfx90a and the like are AMD's
    return device.platform == "gpu" and found is not None and int(found[1]) >= 8


def mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes a 1-D mesh named `data` over the devices given, or all there are."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def own(every: Mesh) -> Mesh:
    """Returns the mesh of this host's devices among those of all hosts: what runs there needs no other host."""
    return mesh(every.local_devices)


@functools.cache
def compiler_options(mesh: Mesh, program: str) -> dict[str, str]:
    """Returns the options of XLA for a `restoration`, for `training`, or for one `graph` of all kernels.

    None where XLA does not know them.
    """
    options = COMPILER_OPTIONS.get((mesh.devices.flat[0].platform, program))
    if not options:
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # another version of XLA
        return {}
    return options


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the leading axis over the mesh."""
    return NamedSharding(mesh, PartitionSpec("data"))


def on_each(function: Callable, mesh: Mesh) -> Callable:
    """Makes a function of (the same for all, *arrays) that every device of a mesh applies to its part of the arrays.

    The program of a device is that of a mesh of one device, whatever the number of devices: none knows of the others.
    """

    def split(common, *arrays):
        specs = (PartitionSpec(), *(PartitionSpec("data") for _ in arrays))
        each = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("data"), check_vma=False)
        return each(common, *arrays)

    return split


def on_all(function: Callable, mesh: Mesh) -> Callable:
    """Makes a function that every device of a mesh applies to the same arrays, with the mesh's axis `data` in reach.

    All devices return the same, unless the function forgets to gather what it has shared out among them.
    """
    everywhere = PartitionSpec()
    return jax.shard_map(function, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts the same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts arrays that every host has, the same on each, on every device of the mesh."""
    sharding = replicated(mesh)
    arrays = jax.device_get(tree)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda _: x), arrays)


def versions() -> dict[str, str]:
    """Returns the versions, the device and the date that a result is made with."""
    return {
        "lgjax": __version__,
        "jax": jax.__version__,
        "device": describe(jax.devices()),
        "date": time.strftime("%Y-%m-%d"),
    }
