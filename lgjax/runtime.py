"""What every binary needs around its work: flags, devices, signals, exit codes."""

import errno
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import app, flags, logging
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lgjax import __version__
from lgjax.errors import EnvironmentFault, LgjaxError

flags.DEFINE_bool("debug", False, "Show tracebacks.")
flags.DEFINE_enum("device", "auto", ["auto", "cpu", "gpu", "tpu"], "Device to run on; auto takes the fastest.")


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs a binary's main and exits with what it returns, or with the exit code of what it raised.

    0 all done, 2 usage, 3 some inputs failed, 4 environment, 130 and 143 on signals.
    """
    logging.set_verbosity(logging.WARNING)  # Orbax reports every save at INFO
    # At once: an exception raised here is lost if it meets a callback of the runtime. Whatever is being written is
    # written aside first, so nothing is half done.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))

    def guarded(argv: Sequence[str]) -> int:
        try:
            return main(argv) or 0
        except KeyboardInterrupt:
            print("\ninterrupted; run the same command again to go on", file=sys.stderr)
            return 130
        except Exception as error:
            code = _exit_code(error)
            if code is None or flags.FLAGS.debug:
                traceback.print_exc()
            print(f"error: {error}", file=sys.stderr)
            return 1 if code is None else code

    try:
        app.run(lambda argv: sys.exit(guarded(argv)), flags_parser=_parse)
    except LgjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags; a mistake ends with one line and exit code 2."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, KeyError, AttributeError, TypeError, OSError, ValueError) as error:
        if "--debug" in argv:
            traceback.print_exc()
        print(f"error: {error}\nTry --help.", file=sys.stderr)
        sys.exit(2)


def _exit_code(error: Exception) -> int | None:
    """The exit code of a fault that a user can mend; None for a bug."""
    if isinstance(error, LgjaxError):
        return error.exit_code
    if isinstance(error, MemoryError) or is_out_of_memory(error):
        return EnvironmentFault.exit_code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS):
        return EnvironmentFault.exit_code
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device said that its memory is exhausted."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def start(device: str | None = None) -> Mesh:
    """Chooses the device, says so, turns on the compilation cache and returns a 1-D mesh over all devices.

    Args:
      device: auto, cpu, gpu or tpu; None: the flag's value.

    Raises:
      EnvironmentFault: the wanted device is not there.
    """
    wanted = device or flags.FLAGS.device
    if wanted != "auto":
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(wanted, wanted))
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where jax has no plugin for the platform
        reason = f" ({error})" if str(error) else ""
        raise EnvironmentFault(
            f"--device={wanted}: no such device can be used{reason}. Install lgjax[cuda12], lgjax[cuda13] or "
            "lgjax[tpu] on a machine that has one, or use --device=cpu."
        ) from error
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "lgjax" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    note = " (no accelerator in use)" if wanted == "auto" and devices[0].platform == "cpu" else ""
    print(f"lgjax {__version__} on {describe(devices)}{note}", flush=True)
    return mesh(devices)


def describe(devices: Sequence[jax.Device]) -> str:
    """The devices in words, such as `8 x NVIDIA H100` or `cpu with 2 cores`."""
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = f"cpu with {os.cpu_count()} cores"
    return kind if len(devices) == 1 else f"{len(devices)} x {kind}"


def mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A 1-D mesh named `data` over the devices given, or all there are."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the mesh."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def versions() -> dict[str, str]:
    """Versions and device that a result was made with."""
    return {
        "lgjax": __version__,
        "jax": jax.__version__,
        "device": describe(jax.devices()),
        "date": time.strftime("%Y-%m-%d"),
    }
