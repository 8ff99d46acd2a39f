"""What all tests share: eight CPU devices, strict JAX, a config that compiles in seconds and random networks for it."""

import gc
import importlib.metadata
import os

# Before NumPy is imported: threads of OpenBLAS wait for work by turning, which takes the cores from the other worker.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Before jax is imported: meshes of one and of eight devices on any machine. Small programs are compiled sooner in one
# piece. jax 0.10 compiles for CPUs in half the time with the emitters of before; later versions have no choice. Where
# LGJAX_TESTS_AS_USERS is set, programs are compiled as users compile.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "" if "LGJAX_TESTS_AS_USERS" in os.environ else "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_use_fusion_emitters=false"
        if importlib.metadata.version("jax").startswith("0.10.") and "LGJAX_TESTS_AS_USERS" not in os.environ
        else "",
    ]
)

import pathlib
import time
import types

import jax
import numpy as np
import pytest

from configs import vae
from lgjax import models
from lgjax.preparation.slices import BACKGROUND, Slices
from lgjax.runtime.counting import counted
from lgjax.runtime.devices import mesh
from lgjax.training import settings
from lgjax.workdir import experiment

jax.config.update("jax_numpy_rank_promotion", "raise")

NO_CHROMIUM = "no Chromium can be started"  # why tests that look at pages in a browser are skipped
AS_USERS = "LGJAX_TESTS_AS_USERS"
ONE_DEVICE = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")  # XLA's flags for commands
ROOT = pathlib.Path(__file__).resolve().parents[1]
PATIENCE = 300.0  # seconds that a test waits for what comes at once on an idle machine; many tests may share a core
TINY = [  # flags of a model that is trained, calibrated and used in seconds
    "--config.data.train_subjects=3",
    "--config.data.calibration_subjects=2",
    "--config.data.height=32",
    "--config.data.width=32",
    "--config.data.spacing=6.0",
    "--config.model.channels=(4,)",
    "--config.model.latent_channels=4",
    "--config.model.variance_channels=(4,4)",
    "--config.train.batch_size=8",
    "--config.train.steps=4",
    "--config.train.log_every=2",
    "--config.train.checkpoint_every=2",
    "--config.restore.iterations=3",
    "--config.restore.samples_est=2",
    "--config.calibrate.slices=4",
    "--config.calibrate.lambdas=2",
    "--config.calibrate.tolerance=10.0",
]


def pytest_collection_modifyitems(config, items):
    """Leaves what is to be compiled as users compile to tests/methods/test_as_users.py."""
    if AS_USERS not in os.environ:
        left = [item for item in items if item.get_closest_marker("as_users")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Has garbage collected seldom, and not among what is imported: a quarter of the time of tracing went there."""
    gc.disable()
    collected = yield
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    gc.enable()
    return collected


def pytest_terminal_summary(terminalreporter):
    """Says at the end how many tests nobody ran for want of a browser; a count of all skipped tests hides them."""
    skipped = [report for report in terminalreporter.stats.get("skipped", ()) if NO_CHROMIUM in str(report.longrepr)]
    if skipped:
        remedy = "Debian: apt install chromium; else: python -m playwright install --with-deps chromium"
        told = f"browser tests were skipped: {NO_CHROMIUM}; {counted(len(skipped), 'test')} looked at no page. {remedy}"
        terminalreporter.write_line(told, yellow=True)


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
    """A program that several tests build anew is compiled by the first of them only; no test reads a user's cache."""
    parallel = "PYTEST_XDIST_WORKER" in os.environ  # whose workers share what commands keep
    folder = tmp_path_factory.getbasetemp()
    os.environ["XDG_CACHE_HOME"] = str((folder.parent if parallel else folder) / "cache")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if AS_USERS in os.environ:
        return
    # Most time of the suite is XLA's, and most tests are about what is computed, not about how it is rounded.
    jax.config.update("jax_disable_most_optimizations", True)
    # The same for commands, which keep their programs in a folder of their own.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"


@pytest.fixture
def optimised():
    """Programs as users have them, for what hangs on rounding."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def experiments():
    """The module configs/vae.py."""
    return vae


@pytest.fixture
def config():
    """The smoke experiment, shrunk to 16x16 slices and one residual block, which compiles in half the time of two."""
    config = vae.smoke()
    config.name = "tiny"
    config.seed = 3
    config.data.height = config.data.width = 16
    config.data.workers = 1
    config.model.channels = (4,)
    config.model.latent_channels = 4
    config.model.variance_channels = (4, 4)
    config.train.batch_size = 8
    config.train.steps = 6
    config.train.log_every = 1
    config.train.checkpoint_every = 3
    config.restore.samples_est = 3
    config.restore.samples_neural = 2
    config.restore.iterations = 4
    config.restore.batch_size = 4
    return config


@pytest.fixture
def deep(config):
    """Two residual blocks in `config`, for what lies between blocks."""
    config.model.channels, config.model.variance_channels = (4, 8), (4, 8, 4)


def random_variables(config, seed: int = 0):
    """{"params", "batch_stats"} of untrained networks in which normalisation is far from the identity."""
    return drawn(models.from_config(config, config.train.precision).init, seed)


def drawn(init, seed: int = 0):
    """Random variables in place of those that `init` would make of a key."""
    shapes, rng = jax.eval_shape(init, jax.random.key(seed)), np.random.default_rng(seed)

    def draw(path, leaf):
        if (name := path[-1].key) == "kernel":
            values = rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            ranges = {"scale": (0.5, 1.5), "bias": (-0.3, 0.3), "mean": (-0.5, 0.5), "var": (0.3, 2.0)}
            ranges |= {"low": (-30, -20), "high": (20, 30)}  # log variances are what the networks say
            low, high = ranges[name]
            values = rng.uniform(low, high, leaf.shape)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture
def variables(config):
    """Variables of random networks for `config`."""
    return random_variables(config)


@pytest.fixture
def params(variables):
    """The same networks frozen for restoration."""
    return models.freeze(variables)


@pytest.fixture
def slices():
    """Seven slices 16x16 with round brains of different sizes; identities neither sorted nor contiguous."""
    rng = np.random.default_rng(11)
    rows, columns = np.mgrid[:16, :16] - 7.5
    mask = np.stack([np.hypot(rows, columns) < radius for radius in (7, 6.5, 6, 5.5, 5, 4, 3)])
    y = np.where(mask, rng.normal(size=mask.shape), BACKGROUND)
    index = np.array([9, 2, 14, 5, 0, 31, 8], np.int32)
    return Slices(y[..., None].astype(np.float32), mask[..., None].astype(np.float32), index)


@pytest.fixture(scope="session")
def mesh1():
    """A mesh of one device."""
    return mesh(jax.devices()[:1])


@pytest.fixture(scope="session")
def mesh8():
    """A mesh of eight devices."""
    devices = jax.devices()
    assert len(devices) == 8, "jax was imported before conftest.py could ask for eight devices"
    return mesh(devices)


def shrunk(name):
    """The smoke config of a model at 16x16 with one level."""
    config = importlib.import_module(f"configs.{name}").get_config("smoke")
    config.data.height = config.data.width = 16
    config.model.channels = (4,)
    for part, field, value in (
        ("model", "latent_channels", 4),
        ("model", "w_channels", 2),
        ("model", "prior_channels", 4),
        ("model", "variance_channels", (4, 4)),
        ("model", "latent_size", 4),
        ("model", "discriminator_features", (8,)),
        ("train", "noise_cells", 4),
        ("restore", "iterations", 3),
    ):
        if field in config[part]:
            config[part][field] = value
    config.train.batch_size, config.train.steps, config.train.checkpoint_every = 4, 3, 3
    config.restore.batch_size = 4
    return config


def both(config):
    """The model of a config, and the settings of its training."""
    return models.from_config(config, config.train.precision), settings.from_config(config)


def until(condition) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited for {PATIENCE:.0f} seconds"
        time.sleep(0.01)


def subject(sha256: str, slices: Slices) -> types.SimpleNamespace:
    """What a training asks of a healthy subject, and of the scan of the subject once it is prepared."""
    image = types.SimpleNamespace(sha256=sha256)
    return types.SimpleNamespace(identifier=f"sub-{sha256}", participant=f"sub-{sha256}", image=image, slices=slices)


@pytest.fixture
def trained_into():
    """Makes a folder look like the work directory of a training: its config, and the mark of a whole checkpoint."""

    def make(config, folder: pathlib.Path) -> None:
        experiment.record(config, folder)
        (folder / "checkpoints" / "4").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints" / "4" / "manifest.json").touch()

    return make
