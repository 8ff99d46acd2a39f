"""The paper's experiment: a convolutional VAE with a variance network, restored by the local Gaussian approximation.

    python -m lgjax.train --config=configs/vae.py              # the paper's values; wants an accelerator
    python -m lgjax.train --config=configs/vae.py:smoke        # the same at half resolution; minutes on two CPU cores
    python -m lgjax.train --config=configs/vae.py:authors      # what the authors' published code did, where it differs
    python -m lgjax.train --config=configs/vae.py:smoke_authors

Any value can be overridden: --config.train.steps=1000. Variants edit only what differs from the paper; the configs of
other models edit these.
"""

import ml_collections


def paper() -> ml_collections.ConfigDict:
    """The values of Chen et al. 2019 (method.md), with synthetic brains in place of access-gated Cam-CAN."""
    config = ml_collections.ConfigDict()
    config.name = "vae"
    config.seed = 0

    config.data = ml_collections.ConfigDict()
    config.data.source = "phantom"  # healthy scans: phantom, phantom:LABEL_MAPS_FOLDER, or a folder, split by subject
    config.data.train_subjects = 652  # of the phantom; the paper has 652 Cam-CAN subjects
    config.data.calibration_subjects = 24  # at most, since whole scans of them are kept in memory
    config.data.height = 128  # pixels
    config.data.width = 128  # pixels
    config.data.spacing = 1.5  # mm
    config.data.workers = 2  # threads that prepare scans and read slices
    config.data.resident = "auto"  # keep all training slices on the device: if they fit, always or never (stream them)
    config.data.read_processes = 0  # that read streamed slices of a prepared data set; 0: the threads of this one

    config.model = ml_collections.ConfigDict()
    config.model.name = "vae"
    config.model.channels = (8, 16, 32, 64, 128, 256)  # one residual block each, halving the image
    config.model.latent_channels = 256
    config.model.reconstruction_weight = 1.0  # w of the loss: 1 / (2 sigma^2) of the decoder's noise
    config.model.variance_channels = (8, 16, 8)
    config.model.variance_target = "likelihood"  # or absolute: the network learns |X - g(z)| by squared error
    config.model.variance_floor = 1e-3  # squared intensity units, added to every variance

    config.train = ml_collections.ConfigDict()
    config.train.batch_size = 64
    config.train.steps = 193_000
    config.train.learning_rate = 2e-5
    config.train.momentum = 0.9  # Adam's b1
    config.train.schedule = "constant"  # or cosine, to zero at the last step
    config.train.precision = "tensorfloat32"  # of networks: float32 (the paper), tensorfloat32 or bfloat16
    # Steps that one program takes where slices are on the device; 0: as suits it, 1 on CPU, where loops are slower.
    config.train.steps_per_dispatch = 0
    config.train.log_every = 500  # steps
    config.train.checkpoint_every = 5_000  # steps

    config.restore = ml_collections.ConfigDict()
    config.restore.method = "vae_lg_neural_tv"
    config.restore.samples_est = 10  # L of lg_est
    config.restore.samples_neural = 1  # L of lg_neural
    config.restore.variance_at = "restored"  # lg_neural: sigma2 at every X^i; or observed: at Y, once
    config.restore.deviation_limit = 0.0  # lg_neural: |mu - X| / sigma above which a pixel feels no prior; 0: none
    config.restore.optimizer = "adam"  # or gradient: Eq. 4 as printed; or proximal: as far as adam in fewer steps
    config.restore.learning_rate = 5e-3
    config.restore.iterations = 800
    config.restore.refreshes = 20  # of the prior: the steps of proximal, in place of `iterations`
    config.restore.dual_steps = 20  # of proximal with tv, within each of them
    config.restore.tolerance = 0.0  # a slice stops where its mean |X^{i+1} - X^i| in the brain is below; 0: never
    config.restore.score = "absolute"  # the paper's |Y - X|; or positive: max(Y - X, 0)
    config.restore.slice_step = 1  # restore and judge every k-th axial slice only
    config.restore.precision = "tensorfloat32"  # of networks: float32 (the paper), tensorfloat32 or bfloat16
    config.restore.batch_size = 0  # slices restored at a time, which changes no result; 0: as suits the device

    config.gmm = ml_collections.ConfigDict()  # of the baseline gmm (Van Leemput et al. 2001)
    config.gmm.classes = 3  # tissues
    config.gmm.kappa = 3.0  # standard deviations from its class at which a voxel counts half
    config.gmm.iterations = 100  # of EM

    config.calibrate = ml_collections.ConfigDict()
    config.calibrate.ssim = 0.95  # least mean SSIM of restored healthy slices
    config.calibrate.slices = 64  # healthy slices that lambda is searched on
    config.calibrate.smallest_lambda = 0.1
    config.calibrate.largest_lambda = 1000.0
    config.calibrate.lambdas = 9  # tried first, spaced evenly in log lambda
    config.calibrate.bisections = 6
    return config


def shorten(config: ml_collections.ConfigDict) -> None:
    """Half the resolution and a short schedule, for any model: minutes on two CPU cores."""
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
    config.restore.learning_rate = 6e-2
    config.restore.iterations = 40
    config.restore.batch_size = 24


def smoke() -> ml_collections.ConfigDict:
    """Half the resolution, one block less, a short schedule."""
    config = paper()
    shorten(config)
    config.model.channels = (8, 16, 32, 64, 128)
    config.model.latent_channels = 128
    config.model.reconstruction_weight = 4.0  # a quarter of the pixels
    # A blurry prior misses healthy detail everywhere: without this floor the detail outweighs a lesion (see README).
    config.model.variance_floor = 1.0
    config.restore.samples_est = 4
    config.calibrate.slices = 24
    config.calibrate.smallest_lambda = 0.05
    config.calibrate.largest_lambda = 50.0
    config.calibrate.lambdas = 6
    config.calibrate.bisections = 3
    return config


def without_autoencoder(config: ml_collections.ConfigDict) -> None:
    """Removes what only a restoration by gradient ascent reads: for models that have no prior to climb."""
    del config.calibrate
    for name in ("latent_channels", "reconstruction_weight", "variance_channels", "variance_target", "variance_floor"):
        del config.model[name]
    ascent = ("optimizer", "refreshes", "dual_steps", "tolerance")
    for name in ("samples_est", "samples_neural", "variance_at", "deviation_limit", *ascent):
        del config.restore[name]


def authors(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """What the authors' published code does otherwise than their text (method.md), as values of the same config.

    Their BatchNorm ran in training mode during restoration, so that a slice's result depended on its batch; that is
    not reproduced.
    """
    config.name += "_authors"
    config.model.reconstruction_weight *= 5.0
    config.model.variance_target = "absolute"
    config.restore.variance_at = "observed"
    config.restore.deviation_limit = 70.7
    return config


VARIANTS = {
    "paper": paper,
    "smoke": smoke,
    "authors": lambda: authors(paper()),
    "smoke_authors": lambda: authors(smoke()),
}


def get_config(variant: str = "paper") -> ml_collections.ConfigDict:
    """Returns the config of a variant: paper (default), smoke, authors or smoke_authors."""
    return VARIANTS[variant]()
