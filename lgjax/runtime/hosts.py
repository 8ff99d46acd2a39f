"""Several hosts that run one program: how they join, who speaks, where they wait for each other."""

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lgjax.runtime.errors import EnvironmentFault, UsageError

LOG = logging.getLogger(__name__)
_LAST = 2.0  # seconds that the first host outlives the others, to whom JAX tells its end as a fault


def is_lost(error: Exception) -> bool:
    """Returns whether JAX said that another host cannot be reached."""
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
        LOG.info("waiting for %s hosts at %s", hosts, coordinator)
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        problem = f"the hosts cannot be joined: {error}".rstrip(".")
        raise EnvironmentFault(
            f"{problem}. Check --coordinator, --hosts and --host, and that the port is free."
        ) from error


def is_first_host() -> bool:
    """Returns whether this is the host that writes and speaks for all."""
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
    """Names the digests, hex SHA-256, that are not the same on all hosts; each host waits here for the others."""
    mine = np.array([list(bytes.fromhex(digest)) for digest in digests.values()], np.uint8)
    found = multihost_utils.process_allgather(mine)  # [hosts, names, 32]
    return [name for name, same in zip(digests, (found == found[0]).all((0, 2)), strict=True) if not same]


def check_alike(digests: dict[str, str]) -> None:
    """Raises UsageError where digests, hex SHA-256, are not the same on all hosts; each waits here for the others."""
    if names := differing(digests):
        raise UsageError(
            f"the hosts differ in their {' and '.join(names)}. Start all of them with the same command; the folders "
            "of --workdir and --config.data.source must be shared by them."
        )


def first_says(answer: bool) -> bool:
    """Returns what the first host says, on all hosts; each waits here for the others, which may see files later."""
    if jax.process_count() == 1:
        return answer
    return bool(multihost_utils.process_allgather(np.array([answer]))[0, 0])


def wait_for_hosts(name: str) -> None:
    """Returns when all hosts have called it."""
    multihost_utils.sync_global_devices(name)


def part() -> None:
    """Returns when all hosts have come to the end of their work, on the first host a little later.

    JAX's own farewell ends a host now and then with a fault: its coordinator leaves before all have heard of the end.
    """
    if jax.distributed.is_initialized():
        wait_for_hosts("end")
        time.sleep(_LAST if is_first_host() else 0)


def first_alone(function: Callable[..., Any], *arguments: Any) -> None:
    """Calls a function on the first host; the others wait here until the function has returned."""
    if is_first_host():
        function(*arguments)
    if jax.process_count() > 1:
        wait_for_hosts(function.__name__)


def _place(coordinator: str | None, hosts: str | None, host: int | None) -> dict[str, Any]:
    """Returns what JAX is told of a host's place; raises UsageError where the flags do not say the place."""
    named = re.fullmatch(r".+:\d+", coordinator or "") and re.fullmatch(r"\d+", hosts or "")
    if not named or host is None or not 0 <= host < int(hosts or 0):
        expected = "--coordinator=HOST:PORT --hosts=N --host=I, with I from 0 to N - 1, or --hosts=auto alone"
        raise UsageError(f"the flags do not say which host this is: expected {expected}.")
    place = {"coordinator_address": coordinator, "num_processes": int(hosts or 0), "process_id": host}
    return {**place, "cluster_detection_method": "deactivate"}  # which under SLURM would hide all GPUs but one
