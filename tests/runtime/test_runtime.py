"""Exit codes, signals, the words for devices, and several hosts."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import PATIENCE, ROOT
from jax.experimental import multihost_utils

from lgjax.cli import app
from lgjax.runtime import devices as runtime_devices
from lgjax.runtime import files, signals
from lgjax.runtime.errors import EnvironmentFault, InputError, UsageError
from lgjax.runtime.hosts import differing, join, one_voice

PROGRAM = """
import json, os, signal, sys, time, weakref
import jax
from absl import flags
from lgjax.cli import app, commands
from lgjax.runtime import errors

def main(argv):
    what = argv[1]
    if what == "sleep":
        print("ready", flush=True)
        time.sleep(3600)
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "ignored":  # Python cannot raise what a weak reference's callback raises
        something = {1}
        reference = weakref.ref(something, lambda _: os.kill(os.getpid(), signal.SIGINT) or time.sleep(0.1))
        del something
        time.sleep(3600)
    if what == "fault":
        raise errors.InputError("scan.nii.gz", "is broken", "Copy it again")
    if what == "taken":
        raise jax.errors.JaxRuntimeError("FAILED_PRECONDITION: DNN library initialization failed. Look above.")
    if what == "bug":
        raise RuntimeError("a bug")
    return 3 if what == "some" else None

commands.define_common(flags.FLAGS)
"""
ONE = PROGRAM + "app.run(main, flags.FLAGS(sys.argv))"
EACH = (
    PROGRAM
    + """
for number, words in enumerate(json.loads(sys.argv[1])):
    if not os.fork():
        os.dup2(os.open(str(number), os.O_WRONLY | os.O_CREAT), 2)
        app.run(main, flags.FLAGS(["", *words]))
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
)
ENDS = [["fine"], ["some"], ["interrupt"], ["fault"], ["bug"], ["taken"], ["fault", "--debug"], ["ignored"]]


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> dict[str, tuple[int, str]]:
    """How programs end that are forked when all is imported: their exit codes, and what they say."""
    folder, environment = tmp_path_factory.mktemp("ended"), {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", EACH, json.dumps(ENDS)]
    options = {"cwd": folder, "env": environment, "text": True, "timeout": PATIENCE}
    codes = subprocess.run(command, stdout=subprocess.PIPE, check=True, **options).stdout.split()
    said = [(folder / str(number)).read_text() for number in range(len(ENDS))]
    return {" ".join(words): found for words, *found in zip(ENDS, map(int, codes), said, strict=True)}


POOL = """
import collections, os, pathlib
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
from lgjax.runtime import devices
devices.start("cpu")
names = [(thread / "comm").read_text().strip() for thread in pathlib.Path("/proc/self/task").iterdir()]
print(names.count("tf_XLAEigen"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="cores are taken away as Linux does")
@pytest.mark.parametrize(("wanted", "found"), [(None, runtime_devices.THREADS), ("3", 3)])
def test_threads_do_not_depend_on_the_cores(wanted, found):
    """XLA splits sums over the threads of its pool: one core has as many, unless the user says otherwise."""
    environment = {name: value for name, value in os.environ.items() if name not in ("NPROC", "XLA_FLAGS")}
    environment |= {"NPROC": wanted} if wanted else {}
    command = [sys.executable, "-c", POOL]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert int(said) == found


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ((0, 10, 2), None, "--xla_cpu_enable_concurrency_optimized_scheduler=false"),
        ((0, 11, 0), "--xla_dump_to=D", "--xla_dump_to=D --xla_cpu_enable_concurrency_optimized_scheduler=false"),
        ((0, 10, 2), "--xla_cpu_enable_concurrency_optimized_scheduler=true", None),
        ((1, 0, 0), "--xla_dump_to=D", None),  # XLA ends a process at a flag that it does not know
    ],
)
def test_flags_of_xla_are_added_to_those_of_the_user(monkeypatch, version, before, after):
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if before:
        monkeypatch.setenv("XLA_FLAGS", before)
    for _ in range(2):
        runtime_devices.prepare_cpu(None)
        assert os.environ.get("XLA_FLAGS") == (after or before)


@pytest.mark.parametrize(
    ("what", "code"), [("fine", 0), ("some", 3), ("interrupt", 130), ("fault", 3), ("bug", 1), ("taken", 4)]
)
def test_exit_codes(ended, what, code):
    found, said = ended[what]
    assert found == code
    assert ("Traceback" in said) == (what == "bug")
    if what == "fault":
        assert said.strip().splitlines()[-1] == "error: scan.nii.gz: is broken. Copy it again."
    if what == "taken":
        assert said.startswith("error: the GPU cannot be used (FAILED_PRECONDITION: DNN library initialization failed")
        assert "set XLA_PYTHON_CLIENT_PREALLOCATE=false, or XLA_CLIENT_MEM_FRACTION=.4" in said


def test_debug_shows_the_traceback_of_a_fault(ended):
    assert "Traceback" in ended["fault --debug"][1]


def test_ctrl_c_is_not_lost_in_a_callback(ended):
    code, said = ended["ignored"]
    assert code == 130
    assert said.strip() == "interrupted; run the same command again to go on"


COMPILING = """
import sys, threading, time
import jax
import jax.numpy as jnp
from lgjax.cli import app

def long(x):  # some 15 s of one core
    for number in range(400):
        x = jnp.sin(x @ x + number) if number % 2 else jnp.cumsum(x, 0) * number
    return x

def tell():
    '''Says that the main thread stays in one call.'''
    places = []
    while len(places) < 20 or len(set(places[-20:])) > 1:
        time.sleep(0.02)
        frame = sys._current_frames()[threading.main_thread().ident]
        places.append((frame.f_code.co_name, frame.f_lasti))
    print("compiles", flush=True)

def main(_):
    lowered = jax.jit(long).lower(jnp.zeros((16, 16)))
    threading.Thread(target=tell, daemon=True).start()
    lowered.compile()
    time.sleep(3600)

app.run(main)
"""


def test_ctrl_c_does_not_wait_for_a_compilation():
    """Whose threads outlive what Ctrl-C raises: Python would wait for them, and then crash."""
    command = [sys.executable, "-c", COMPILING]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "compiles\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (130, "\ninterrupted; run the same command again to go on\n")


ENDINGS = pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, signals.Terminated)]
)


@ENDINGS
def test_a_signal_waits_for_what_must_be_whole(capfd, number, raised):
    done, before = [], signal.getsignal(signal.SIGTERM)
    with pytest.raises(raised) as caught, signals.uninterrupted() as asked:  # noqa: PT012
        done.append(asked())
        signal.raise_signal(number)
        done.append(asked())
    assert raised is KeyboardInterrupt or caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert done == [False, True]
    assert "again" in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@ENDINGS
def test_a_second_signal_does_not_wait(number, raised):
    with pytest.raises(raised), signals.uninterrupted():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(number)
        pytest.fail("went on")


def test_a_fault_in_what_must_be_whole_is_the_fault():
    with pytest.raises(InputError), signals.uninterrupted():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        raise InputError("x", "y", "z")
    with signals.uninterrupted():
        pass


def test_sigterm_ends_at_once_with_143():
    command = [sys.executable, "-c", ONE, "sleep"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (InputError("x", "y", "z"), 3),
        (EnvironmentFault("x"), 4),
        (MemoryError(), 4),
        (OSError(errno.ENOSPC, "full"), 4),
        (OSError(errno.EIO, "other"), None),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), 4),
        (jax.errors.JaxRuntimeError("INTERNAL: Could not create cudnn handle: CUDNN_STATUS_INTERNAL_ERROR"), 4),
        (jax.errors.JaxRuntimeError("INTERNAL: failed to create cublas handle: the resource allocation failed"), 4),
        (jax.errors.JaxRuntimeError("INTERNAL: something else"), None),
        (RuntimeError("a bug"), None),
    ],
)
def test_the_exit_code_of_an_error(error, code):
    assert app._exit_code(error) == code


def test_a_device_that_is_not_there(monkeypatch):
    def none(*_):
        raise RuntimeError("no GPU/TPU found")

    monkeypatch.setattr(jax, "devices", none)
    with pytest.raises(EnvironmentFault, match="--device=cpu"):
        runtime_devices.start("auto")


@pytest.mark.parametrize(
    "said",
    [
        "INTERNAL: no supported devices found for platform CUDA",
        "INTERNAL: failed call to cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        "RESOURCE_EXHAUSTED: Failed to allocate 60 GB",
    ],
)
def test_a_gpu_that_another_process_has_filled_is_told_as_that(monkeypatch, said):
    def filled(*_):
        raise RuntimeError(f"Unable to initialize backend 'cuda': {said}")

    monkeypatch.setattr(jax, "devices", filled)
    with pytest.raises(EnvironmentFault) as caught:
        runtime_devices.start("auto")
    assert said in str(caught.value)
    assert runtime_devices.SHARED in str(caught.value)
    assert "Install" not in str(caught.value)


@pytest.mark.parametrize(("backend", "times"), [("gpu", 1), ("cpu", 0)])
def test_memory_that_runs_out_on_a_gpu_may_be_that_of_others(monkeypatch, backend, times):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    told = app._told(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."))
    assert told.startswith("out of memory: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes. Free some memory")
    assert told.count(runtime_devices.SHARED) == times


AMD = """
import sys
from jax.extend import backend
from jax._src import xla_bridge
from lgjax.runtime import devices, errors

def refused():
    raise RuntimeError("HIP_ERROR_NO_DEVICE")

def found():
    try:
        return devices.start("gpu").size
    except errors.EnvironmentFault as fault:
        return str(fault)

print(found())
backend.register_backend_factory("rocm", refused, priority=1)
print(found())
backend.register_backend_factory("rocm", xla_bridge.make_cpu_client, priority=1)
print(found())
"""


def test_a_gpu_of_amd_is_a_gpu():
    """JAX itself looks for the platform, whose devices are those of a CPU here; before, it has none, or a bad one."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run([sys.executable, "-c", AMD], env=environment, capture_output=True, text=True, check=True)
    absent, bad, size = done.stdout.splitlines()
    assert absent.startswith("--device=gpu: no such device can be used. Install lgjax[cuda12]")
    assert "HIP_ERROR_NO_DEVICE" in bad
    assert size == "8"


@pytest.mark.parametrize(("wanted", "threads"), [("gpu", None), ("tpu", None), ("auto", "4"), ("cpu", "4")])
def test_where_an_accelerator_is_asked_for_all_cores_compile(monkeypatch, wanted, threads):
    """No CPU restores there; where it may, the number of threads stays, on which its bits hang."""

    def none(*_):
        raise RuntimeError("no GPU/TPU found")

    monkeypatch.setenv("NPROC", "")  # so that what is set here is undone
    monkeypatch.delenv("NPROC")
    monkeypatch.setattr(jax, "devices", none)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    with pytest.raises(EnvironmentFault):
        runtime_devices.start(wanted)
    assert os.environ.get("NPROC") == threads


def test_mesh_and_words():
    mesh = runtime_devices.mesh()
    assert mesh.shape == {"data": len(jax.devices())}
    assert "cpu" in runtime_devices.describe(jax.devices()[:1])
    assert runtime_devices.describe(jax.devices()[:2]).startswith("2 x ")


def test_compiler_options_that_xla_does_not_know_are_left_out(monkeypatch):
    mesh = runtime_devices.mesh()
    for program in ("restoration", "training", "graph"):
        known = runtime_devices.compiler_options(mesh, program)
        assert jax.jit(lambda x: x + 1, compiler_options=known)(1) == 2
    assert runtime_devices.compiler_options(mesh, "another") == {}
    monkeypatch.setattr(runtime_devices, "COMPILER_OPTIONS", {("cpu", "training"): {"xla_of_tomorrow": "yes"}})
    assert runtime_devices.compiler_options.__wrapped__(mesh, "training") == {}


@pytest.fixture
def told(monkeypatch):
    """What `jax.distributed.initialize` is called with."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: calls.append(arguments))
    return calls


def test_hosts_are_joined_when_asked(told):
    join(None, None, None)
    assert told == []
    join(None, "auto", None)
    join("node7:1234", "3", 2)
    place = {"coordinator_address": "node7:1234", "num_processes": 3, "process_id": 2}
    assert told == [{}, {**place, "cluster_detection_method": "deactivate"}]


@pytest.mark.parametrize(
    "arguments",
    [
        ("node7:1234", None, None),
        (None, "2", None),
        (None, None, 0),
        (None, "2", 0),
        ("node7:1234", "2", None),
        ("node7", "2", 0),
        ("node7:", "2", 0),
        ("node7:1234", "2", 2),
        ("node7:1234", "2", -1),
        ("node7:1234", "two", 0),
        ("node7:1234", "auto", 0),
        (None, "auto", 1),
    ],
)
def test_flags_that_do_not_say_which_host_this_is(told, arguments):
    with pytest.raises(UsageError, match="--coordinator=HOST:PORT --hosts=N --host=I"):
        join(*arguments)
    assert not told


def test_hosts_that_cannot_be_joined(monkeypatch):
    def fail(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(EnvironmentFault, match=r"cannot be joined: coordinator_address should be defined\. Check"):
        join(None, "auto", None)


def test_hosts_with_unequal_devices(monkeypatch):
    devices = [SimpleNamespace(process_index=host, id=i, platform="cpu") for i, host in enumerate((0, 0, 1))]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    with pytest.raises(EnvironmentFault, match=r"\[2, 1\] devices"):
        runtime_devices.start("auto")


def test_where_hosts_differ(monkeypatch):
    digests = {"a": "00" * 32, "b": "01" * 32, "c": "ff" * 32}
    assert differing(digests) == []
    other = np.array([[0] * 32, [1] * 31 + [2], [255] * 32], np.uint8)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda mine: np.stack([mine, mine, other]))
    assert differing(digests) == ["b"]


@pytest.mark.parametrize(("host", "said"), [(0, ("out\n", "bar\n")), (1, ("", ""))])
def test_only_the_first_host_speaks(monkeypatch, capsys, host, said):
    monkeypatch.setattr(jax, "process_index", lambda: host)
    with one_voice():
        print("out")
        print("bar", file=sys.stderr)
    assert capsys.readouterr() == said


@pytest.mark.parametrize(("told", "said"), [("cpu", "The variable JAX_PLATFORMS=cpu says"), ("", "Install lgjax")])
def test_a_device_that_is_not_there_is_told_with_the_cause(monkeypatch, told, said):
    monkeypatch.setenv("JAX_PLATFORMS", told)
    with pytest.raises(EnvironmentFault, match=f"--device=tpu: no such device.*{said}"):
        runtime_devices.chosen("tpu")


@pytest.mark.parametrize("told", ["tpu", "cuda", "bogus"])
def test_a_variable_that_a_flag_has_overruled_is_no_cause(monkeypatch, told):
    monkeypatch.setenv("JAX_PLATFORMS", told)  # while JAX looks for cpu
    with pytest.raises(EnvironmentFault, match="Install lgjax"):
        runtime_devices.chosen("tpu")


HOST = """
import sys, time
import jax, numpy as np
from lgjax.cli import app
from lgjax.runtime import devices, hosts, signals

def main(argv):
    hosts.join(argv[1], "2", int(argv[2]))
    mesh = devices.start("cpu")
    x = devices.replicate({"x": np.arange(3)}, mesh)["x"]
    total = jax.jit(lambda x: x.sum(), out_shardings=devices.replicated(mesh))
    with signals.uninterrupted() as asked:  # as training does
        while not asked():
            parts = jax.make_array_from_process_local_data(devices.batch_sharding(mesh), np.ones(1))
            assert float(total(parts)) == 2
            if hosts.is_first_host():
                print(jax.device_get(x), flush=True)
            time.sleep(0.05)

app.run(main, sys.argv)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lost_host_ends_the_other(number):
    """At once, where the connection tells of it; else JAX's heartbeat would within two minutes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    hosts = [subprocess.Popen([sys.executable, "-c", HOST, address, str(i)], env=environment, **pipes) for i in (0, 1)]
    try:
        for line in hosts[0].stdout:
            if line == "[0 1 2]\n":
                break
        hosts[1].send_signal(number)
        hosts[1].communicate(timeout=PATIENCE)
        _, said = hosts[0].communicate(timeout=PATIENCE)
    finally:
        for host in hosts:
            host.kill()
    assert hosts[1].returncode == (-9 if number == signal.SIGKILL else 143)
    assert hosts[0].returncode == 4
    assert "Traceback" not in said
    assert said.strip().endswith("Another host was lost. Run the same command on all of them again to go on.")


def test_a_folder_that_the_disk_refuses_is_told_and_leaves_nothing(tmp_path):
    def make(path, other) -> None:
        with files.atomic_folder(path) as folder:
            (folder / "ours").touch()
            (path / other).mkdir(parents=True)  # by another process meanwhile

    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match="file/m: cannot be written: Not a directory"):
        make(tmp_path / "file" / "m", "theirs")
    with pytest.raises(EnvironmentFault, match="m: cannot be written: Directory not empty"):
        make(tmp_path / "m", "theirs")
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {"file", "m", "m/theirs"}
