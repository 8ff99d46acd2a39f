"""Whether both sides compute the same: outputs, steps and restored slices, all in float32.

In TensorFloat-32 and in bfloat16 this cannot be asked: the sign in TV's gradient makes of rounding, in some hundred
iterations, other maps of equal worth.
"""

import copy
import functools
import sys

import numpy as np

METHODS = ("vae_lg_neural_tv", "vae_lg_est_tv", "vae_elbo_tv", "vae_train")
SILENT = -60.0  # log variance of the latents: noise is drawn, and scaled to nothing, so that both sides can be compared
BACKGROUND = -3.5
CHECKED_MODES = ("eager", "eager_channels_last")  # of restoration and of training
CHECKED_SLICES, CHECKED_ITERATIONS = 2, 3
OUTPUT_TOLERANCE, RESTORED_TOLERANCE, LOSS_TOLERANCE = 1e-4, 1e-3, 5e-3


def at(config, precision: str):
    """The config with another precision of restoration and training, a copy."""
    config = config.copy_and_resolve_references()
    config.train.precision = config.restore.precision = precision
    return config


def make_slices(config, count: int, isolated: bool = False):
    """Noise in a disc: slices and masks, [N, H, W, 1], and lambdas, [N].

    Args:
      config: of the experiment.
      count: N.
      isolated: no pixel that may change touches another one.
    """
    rows, columns = np.indices((config.data.height, config.data.width))
    radius = np.hypot(rows / config.data.height - 0.5, columns / config.data.width - 0.5)
    inside = (radius < 0.4) & ((rows + columns) % 2 <= (not isolated))
    mask = np.broadcast_to(inside[None, ..., None], (count, *inside.shape, 1)).astype(np.float32)
    noise = np.random.default_rng(config.seed).standard_normal(mask.shape, np.float32)
    return np.where(mask > 0, noise, np.float32(BACKGROUND)), mask, np.ones(count, np.float32)


def silence(variables: dict) -> dict:
    """Variables with which the latents' standard deviation is nothing, and their range reaches down to that."""
    variables = copy.deepcopy(variables)
    for name in ("params", "frozen"):
        head = variables[name]["autoencoder"]["log_variance_head"]
        head["bias"] = head["bias"] + SILENT
    ends = variables["frozen"]["autoencoder"]["log_variance_range"]
    ends["low"] = ends["low"] + SILENT
    return variables


def typical_difference(ours, theirs, mask) -> float:
    """The median over pixels in the mask of how far restored slices are apart, in standard deviations of the brain."""
    return float(np.median(np.abs(theirs - ours)[mask > 0]))


def agree(name: str, ours, theirs, tolerance: float, found: dict) -> None:
    """Notes the largest difference under a name; exits if it is more than the tolerance."""
    found[name] = float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())
    if not found[name] <= tolerance:
        sys.exit(f"error: {name}: lgjax and PyTorch differ by {found[name]:.2g}, more than {tolerance:.0e}")


def checked(config):
    """The config in which both sides are compared: float32, few slices and iterations; a copy."""
    config = at(config, "float32")
    config.restore.batch_size, config.restore.iterations = CHECKED_SLICES, CHECKED_ITERATIONS
    config.train.learning_rate = 1e-4  # halves the loss in three steps; faster, rounding counts
    return config


def check(config, variables: dict, ours, theirs, methods, part) -> dict[str, float]:
    """Compares outputs, and three iterations of methods or three training steps (`vae_train`), all in float32.

    Args:
      config: of the experiment.
      variables: of both sides.
      ours, theirs: the sides.
      methods: of restoration, and `vae_train`.
      part: takes the name of a part and the function that finds its figures, and returns the figures: see `Kept`.

    Returns:
      The largest differences, by what was compared: absolute ones, of training losses relative ones.
    """
    config, silent = checked(config), silence(variables)
    parts = {
        "networks": functools.partial(_networks, config, variables["frozen"], ours, theirs),
        "gradient of tv": functools.partial(_gradient, config, ours, theirs),
    }
    for method in methods:
        parts[method] = functools.partial(_restoration, config, silent["frozen"], ours, theirs, method)
        if method == "vae_train":
            parts[method] = functools.partial(_training, config, silent, ours, theirs)
    return {name: value for key, find in parts.items() for name, value in part(key, find).items()}


def _networks(config, frozen, ours, theirs) -> dict[str, float]:
    """Encoder, decoder and variance network."""
    x, found = make_slices(config, CHECKED_SLICES)[0], {}
    factor = 2 ** len(config.model.channels)
    size = (config.data.height // factor, config.data.width // factor)
    z = np.random.default_rng(1).standard_normal((len(x), *size, config.model.latent_channels), np.float32)
    expected = ours.outputs(config, frozen, x, z)
    for mode in CHECKED_MODES:
        outputs = theirs.outputs(config, frozen, x, z, mode)
        for name, value in expected.items():
            agree(f"{name}, {mode}", value, outputs[name], OUTPUT_TOLERANCE, found)
    return found


def _gradient(config, ours, theirs) -> dict[str, float]:
    """The gradient of TV by itself."""
    shape, found = (CHECKED_SLICES, config.data.height, config.data.width, 1), {}
    change = np.random.default_rng(2).integers(-2, 3, shape).astype(np.float32)
    agree("gradient of tv", ours.tv_gradient(change), theirs.tv_gradient(change), 0.0, found)
    return found


def _restoration(config, frozen, ours, theirs, method: str) -> dict[str, float]:
    """Restored slices in which no neighbours change.

    Adam's first steps are all of one length: where neighbours take the same, rounding decides the sign of TV's
    gradient.
    """
    slices, found = make_slices(config, CHECKED_SLICES, isolated=True), {}
    expected = ours.restored(config, frozen, method, slices)
    for mode in CHECKED_MODES:
        restored = theirs.restored(config, frozen, method, mode, slices)
        agree(f"{method}, {mode}", expected, restored, RESTORED_TOLERANCE, found)
    return found


def _training(config, variables, ours, theirs) -> dict[str, float]:
    """The terms of the loss, of which the later ones show the steps before them."""
    x, mask, _ = make_slices(config, 4 * CHECKED_SLICES)
    expected, found = ours.trained(config, variables, x, mask, CHECKED_ITERATIONS), {}
    for mode in CHECKED_MODES:
        terms = theirs.trained(config, variables, mode, x, mask, CHECKED_ITERATIONS)
        relative = [b[name] / a[name] for a, b in zip(expected, terms, strict=True) for name in b]
        agree(f"vae_train, {mode}", np.ones(len(relative)), relative, LOSS_TOLERANCE, found)
    return found
