"""The parts that configs are made of: each config adds those it needs and states what is its own.

The values are those of Chen et al. 2019 (docs/method.md), with synthetic brains in place of access-gated Cam-CAN;
`smoke` edits what halves the resolution and shortens the schedule.
"""

from collections.abc import Iterable

import ml_collections


def check_variant(variant: str, known: Iterable[str]) -> None:
    """Raises ValueError where a config has no such variant; the message lists those that exist."""
    known = list(known)
    if variant not in known:
        raise ValueError(f"there is no variant {variant!r}. Choose among {', '.join(known)}.")


def experiment(name: str, model: str, method: str) -> ml_collections.ConfigDict:
    """Makes what every experiment with a model has: data, training, the restoration's batches, the baseline gmm.

    Args:
      name: of the experiment, and of its work directory.
      model: its name in `lgjax.models.MODELS`.
      method: that restores where none is named.
    """
    config = untrained(name, method)
    config.model.name = model
    config.data.train_subjects = 652  # of the phantom; the paper has 652 Cam-CAN subjects
    config.data.resident = "auto"  # keep all training slices on the device: if they fit, always or never (stream them)
    config.data.read_processes = 0  # that read streamed slices of a prepared data set; 0: the threads of this one
    config.train = train()
    config.restore.reconstruction_variance = 1.0  # of Y - D(Y) in <model>_reconstruction_tv3d, squared intensity units
    return config


def untrained(name: str, method: str) -> ml_collections.ConfigDict:
    """Makes what every experiment has, with a model or without; arguments as in `experiment`."""
    config = ml_collections.ConfigDict()
    config.name = name  # of the work directory
    config.seed = 0  # of the first weights, the order of slices and all draws
    config.data = data()
    config.model = ml_collections.ConfigDict()
    config.model.name = "none"  # which networks
    config.restore = restore(method)
    config.gmm = gmm()
    return config


def data() -> ml_collections.ConfigDict:
    """Makes the part about scans and slices."""
    config = ml_collections.ConfigDict()
    config.source = "phantom"  # healthy scans: phantom[@MM[+MM]][:LABEL_MAPS], or a folder, split by subject
    config.calibration_subjects = 24  # at most, since whole scans of them are kept in memory
    config.height = 128  # pixels
    config.width = 128  # pixels
    config.spacing = 1.5  # mm
    config.saturation = ()  # z-scores are clipped to these two, as (-2.0, 1.5); (): not at all, as in the paper
    config.workers = 2  # threads that prepare scans and read slices
    return config


def train() -> ml_collections.ConfigDict:
    """Makes the part about training."""
    config = ml_collections.ConfigDict()
    config.batch_size = 64  # slices a step, over all devices
    config.steps = 193_000  # of Adam
    config.learning_rate = 2e-5  # of Adam
    config.momentum = 0.9  # Adam's b1
    config.schedule = "constant"  # or cosine, to zero at the last step
    # Of networks: float32, the paper's; a GPU is faster with tensorfloat32 or bfloat16, on its tensor cores.
    config.precision = "float32"
    # Changes of the training slices, drawn anew at every step. The paper has none.
    config.flip = 0.0  # probability of mirroring a slice left to right: 0 or 0.5
    config.intensity = 0.0  # of a slice's random scale (about 1) and shift, in standard deviations; 0: none
    # Steps that one program takes where slices are on the device; 0: as suits it, 1 on CPU, where loops are slower.
    config.steps_per_dispatch = 0
    config.log_every = 500  # steps
    config.checkpoint_every = 5_000  # steps; each is validated on held-out slices
    return config


def restore(method: str) -> ml_collections.ConfigDict:
    """Makes the part about restoration that every method reads."""
    config = ml_collections.ConfigDict()
    config.method = method  # that restores where --method names none
    config.score = "absolute"  # the paper's |Y - X|; or positive: max(Y - X, 0)
    # Thresholds and masks are made for these, on healthy voxels; the paper calls it "a user-defined parameter".
    config.false_positive_rates = (0.001, 0.005, 0.01, 0.05)
    # mL of false positives that a healthy scan has at most on average: thresholds and masks that promise it; (): none.
    config.false_positive_volumes = (1.0, 5.0)
    config.mask_rate = 0.01  # the one of them whose mask is shown, and whose lesions are counted
    config.slice_step = 1  # restore and judge every k-th axial slice only
    config.precision = "float32"  # of networks, as in training
    config.checkpoint = "best"  # whose weights restore: best on held-out slices, or last
    config.closed_steps = 200  # of the dual, in the one proximal step of mirror_tv3d and its like
    config.cuda_graphs = False  # GPU: all kernels of a restoration in one graph; never tried on a GPU
    config.batch_size = 0  # slices restored at a time, which changes no result; 0: as suits the device
    return config


def gmm() -> ml_collections.ConfigDict:
    """Makes the part about the baseline gmm (Van Leemput et al. 2001)."""
    config = ml_collections.ConfigDict()
    config.atlas = "mni152"  # how likely white matter, grey matter and CSF are at each place; or none
    config.classes = 3  # tissues; other numbers without an atlas only
    config.kappa = 3.0  # standard deviations from its class at which a voxel counts half
    config.iterations = 100  # of EM
    return config


def add_autoencoder(model: ml_collections.ConfigDict) -> None:
    """Adds the paper's auto-encoder with its variance network."""
    model.channels = (8, 16, 32, 64, 128, 256)  # one residual block each, halving the image
    model.latent_channels = 256  # of the code, at each of its places
    model.reconstruction_weight = 1.0  # w of the loss: 1 / (2 sigma^2) of the decoder's noise
    model.variance_channels = (8, 16, 8)  # hidden layers of the variance network
    model.variance_target = "likelihood"  # or absolute: the network learns |X - g(z)| by squared error
    model.variance_floor = 1e-3  # squared intensity units, added to every variance


def add_ascent(config: ml_collections.ConfigDict) -> None:
    """Adds what a restoration by gradient ascent of a prior reads, and its calibration."""
    settings = config.restore
    settings.variance_at = "restored"  # lg_neural: sigma2 at every X^i; or observed: at Y, once
    settings.deviation_limit = 0.0  # lg_neural: |mu - X| / sigma above which a pixel feels no prior; 0: none
    settings.optimizer = "adam"  # or gradient: Eq. 4 as printed; or proximal: as far as adam in fewer steps
    settings.learning_rate = 5e-3  # standard deviations of the brain, a step
    settings.iterations = 800  # steps of adam or gradient
    settings.refreshes = 20  # of the prior: the steps of proximal, in place of `iterations`
    settings.dual_steps = 20  # of proximal with tv, within each of them
    settings.tolerance = 0.0  # a slice stops where its mean |X^{i+1} - X^i| in the brain is below; 0: never
    settings.traced = True  # sidecars and reports say how scans converged; False: it costs some kernels an iteration
    config.calibrate = calibrate()


def add_forms(settings: ml_collections.ConfigDict) -> None:
    """Adds how a restoration computes parts of the paper's auto-encoder.

    auto: one kernel on NVIDIA GPUs, except in float32; or plain: XLA's convolutions.
    """
    settings.variance_form = "auto"  # of the variance network
    settings.decoder_form = "auto"  # of the end of the decoder


def add_draws(settings: ml_collections.ConfigDict) -> None:
    """Adds how many samples of a posterior a restoration draws."""
    settings.samples_est = 10  # L of lg_est
    settings.samples_neural = 1  # L of lg_neural


def calibrate() -> ml_collections.ConfigDict:
    """Makes the part about the search of lambda."""
    config = ml_collections.ConfigDict()
    config.strength = 0.0  # lambda; 0: searched by what follows
    config.ssim = 0.95  # least mean SSIM of restored healthy slices
    config.slices = 64  # healthy slices that lambda is searched on
    config.smallest_lambda = 0.1  # that is tried first
    config.largest_lambda = 1000.0  # that is tried first
    config.lambdas = 9  # tried first, spaced evenly in log lambda; then between two of them, or beyond
    config.tolerance = 0.02  # share by which lambda may be larger than one that misses the SSIM
    return config


def set_detection(config: ml_collections.ConfigDict) -> None:
    """Sets what the rows beyond the paper share: saturated slices of 96x96 pixels of 2 mm, and their closed step."""
    config.data.height = 96
    config.data.width = 96
    config.data.spacing = 2.0
    config.data.saturation = (-2.0, 1.5)
    config.restore.closed_steps = 30  # see docs/results.md: more of them flatten lesions of other sizes


def shorten(config: ml_collections.ConfigDict) -> None:
    """Halves the resolution and shortens the schedule, for any model: minutes on two CPU cores."""
    config.name += "_smoke"
    config.data.train_subjects = 200
    config.data.calibration_subjects = 6
    config.data.height = 64
    config.data.width = 64
    config.data.spacing = 3.0
    config.train.batch_size = 32
    config.train.steps = 1200
    config.train.learning_rate = 1e-3
    config.train.schedule = "cosine"
    config.train.log_every = 50
    config.train.checkpoint_every = 300
    config.restore.batch_size = 24


def shorten_autoencoder(config: ml_collections.ConfigDict) -> None:
    """Takes one block off the auto-encoder, and shortens its restoration and calibration."""
    config.model.channels = (8, 16, 32, 64, 128)
    config.model.latent_channels = 128
    config.model.reconstruction_weight = 4.0  # a quarter of the pixels
    # A blurry prior misses healthy detail everywhere: without this floor the detail outweighs a lesion (see README).
    config.model.variance_floor = 1.0
    config.restore.learning_rate = 6e-2
    config.restore.iterations = 40
    config.calibrate.slices = 24
    config.calibrate.smallest_lambda = 0.05
    config.calibrate.largest_lambda = 50.0
    config.calibrate.lambdas = 6
