"""What every binary needs around its work: flags, devices, hosts, signals, exit codes."""

import collections
import contextlib
import errno
import functools
import os
import pathlib
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lgjax import __version__
from lgjax.errors import EnvironmentFault, LgjaxError, UsageError

flags.DEFINE_bool("debug", False, "Show tracebacks.")
_LOST = "Another host was lost. Run the same command on all of them again to go on."
# On CPU convolutions and products are left to Eigen: at those of our networks it is faster than YNNPACK, at the image
# gradient of an upsampled convolution ten times. YNNPACK's reductions pay where normalisation is trained.
_YNN = "xla_cpu_experimental_ynn_fusion_type"
COMPILER_OPTIONS = {
    ("cpu", "restoration"): {_YNN: ""},
    ("cpu", "training"): {_YNN: "LIBRARY_FUSION_TYPE_REDUCE"},
}
flags.DEFINE_enum("device", "auto", ["auto", "cpu", "gpu", "tpu"], "Device to run on; auto takes the fastest.")


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs a binary's main and exits with what it returns, or with the exit code of what it raised.

    0 all done, 2 usage, 3 some inputs failed, 4 environment, 130 and 143 on signals.
    """
    logging.set_verbosity(logging.WARNING)  # Orbax reports every save at INFO
    # At once: an exception raised here is lost if it meets a callback of the runtime. Whatever is being written is
    # written aside first, so nothing is half done.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    sys.unraisablehook = _unraisable

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
            remedy = f" {_LOST}" if _is_lost_host(error) else ""
            print(f"error: {error}{remedy}", file=sys.stderr)
            return 1 if code is None else code

    try:
        app.run(lambda argv: _leave(guarded(argv)), flags_parser=_parse)
    except LgjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@contextlib.contextmanager
def uninterrupted() -> Iterator[Callable[[], bool]]:
    """Lets Ctrl-C wait for the end of a block, for the sake of what other threads and processes do for it.

    A second one does not wait. Only for the main thread.

    Yields:
      Whether Ctrl-C was pressed, for a block that can end early.
    """
    asked = False

    def handle(*_) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        os.write(2, b"\ninterrupting; press Ctrl-C again not to wait\n")  # print may be what it interrupts

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


def _unraisable(what) -> None:
    """Python's `sys.unraisablehook`, but a Ctrl-C that met a callback comes again a moment later."""
    if what.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(what)


def _leave(code: int) -> None:
    """Ends the process; among several hosts a fault ends it at once, since a farewell would wait for the others."""
    if code and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


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
    if isinstance(error, MemoryError) or is_out_of_memory(error) or _is_lost_host(error):
        return EnvironmentFault.exit_code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS):
        return EnvironmentFault.exit_code
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device said that its memory is exhausted."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def _is_lost_host(error: Exception) -> bool:
    """Whether JAX said that another host cannot be reached."""
    raised = isinstance(error, (jax.errors.JaxRuntimeError, ValueError)) and jax.distributed.is_initialized()
    return raised and re.search("Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED", str(error)) is not None


def join(coordinator: str | None, hosts: str | None, host: int | None) -> None:
    """Joins this process to those of other hosts, so that all their devices are one mesh; to be called before `start`.

    Args:
      coordinator: HOST:PORT where host 0 listens.
      hosts: how many there are; auto: JAX finds all three (TPU pods, SLURM, Open MPI); None: this process is alone.
      host: which one this is, from 0.

    Raises:
      UsageError: the arguments do not say which host this is.
      EnvironmentFault: the hosts cannot be joined; JAX itself ends a process whose others do not come in five minutes.
    """
    if (coordinator, hosts, host) == (None, None, None):
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    arguments = {} if (coordinator, hosts, host) == (None, "auto", None) else _place(coordinator, hosts, host)
    if host == 0:
        print(f"waiting for {hosts} hosts at {coordinator}", flush=True)
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        problem = f"the hosts cannot be joined: {error}".rstrip(".")
        raise EnvironmentFault(
            f"{problem}. Check --coordinator, --hosts and --host, and that the port is free."
        ) from error


def start(device: str | None = None) -> Mesh:
    """Chooses the device, says so, turns on the compilation cache and returns a 1-D mesh over all devices.

    Of several hosts, each holds as many devices as the others, one after the other.

    Args:
      device: auto, cpu, gpu or tpu; None: the flag's value.

    Raises:
      EnvironmentFault: the wanted device is not there, or not on every host.
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
    counts = collections.Counter(device.process_index for device in devices)
    if len(set(counts.values())) > 1:
        raise EnvironmentFault(
            f"the hosts have {list(counts.values())} devices. Give each of them as many as the others."
        )
    note = " (no accelerator in use)" if wanted == "auto" and devices[0].platform == "cpu" else ""
    if is_first_host():
        print(f"lgjax {__version__} on {describe(devices)}{note}", flush=True)
    return mesh(sorted(devices, key=lambda device: (device.process_index, device.id)))


def is_first_host() -> bool:
    """Whether this is the host that writes and speaks for all."""
    return jax.process_index() == 0


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Silences print and progress bars on all hosts but the first; what they raise is told all the same."""
    with contextlib.ExitStack() as stack:
        if not is_first_host():
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def differing(digests: dict[str, str]) -> list[str]:
    """Names of the digests, hex SHA-256, that are not the same on all hosts; each host waits here for the others."""
    mine = np.array([list(bytes.fromhex(digest)) for digest in digests.values()], np.uint8)
    found = multihost_utils.process_allgather(mine)  # [hosts, names, 32]
    return [name for name, same in zip(digests, (found == found[0]).all((0, 2)), strict=True) if not same]


def wait_for_hosts(name: str) -> None:
    """Returns when all hosts have called it."""
    multihost_utils.sync_global_devices(name)


def _place(coordinator: str | None, hosts: str | None, host: int | None) -> dict[str, Any]:
    """What JAX is told of a host's place; raises UsageError where the flags do not say it."""
    named = re.fullmatch(r".+:\d+", coordinator or "") and re.fullmatch(r"\d+", hosts or "")
    if not named or host is None or not 0 <= host < int(hosts or 0):
        expected = "--coordinator=HOST:PORT --hosts=N --host=I, with I from 0 to N - 1, or --hosts=auto alone"
        raise UsageError(f"the flags do not say which host this is: expected {expected}.")
    place = {"coordinator_address": coordinator, "num_processes": int(hosts or 0), "process_id": host}
    return {**place, "cluster_detection_method": "deactivate"}  # which under SLURM would hide all GPUs but one


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


@functools.cache
def compiler_options(mesh: Mesh, program: str) -> dict[str, str]:
    """What XLA is told to compile a `restoration` or `training` with; nothing where it does not know the option."""
    options = COMPILER_OPTIONS.get((mesh.devices.flat[0].platform, program))
    if not options:
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # another version of XLA
        return {}
    return options


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the mesh."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Arrays that every host has, the same on each, on every device of the mesh."""
    sharding = replicated(mesh)
    arrays = jax.device_get(tree)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda _: x), arrays)


def versions() -> dict[str, str]:
    """Versions and device that a result was made with."""
    return {
        "lgjax": __version__,
        "jax": jax.__version__,
        "device": describe(jax.devices()),
        "date": time.strftime("%Y-%m-%d"),
    }
