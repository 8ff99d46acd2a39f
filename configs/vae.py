"""The paper's experiment: a convolutional VAE with a variance network, restored by the local Gaussian approximation.

    python -m lgjax.train --config=configs/vae.py              # the paper's values; wants an accelerator
    python -m lgjax.train --config=configs/vae.py:smoke        # the same at half resolution; minutes on two CPU cores

Any value can be overridden: --config.train.steps=1000. Variants edit only what differs from the paper.
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
    config.data.calibration_subjects = 24  # of the phantom
    config.data.height = 128  # pixels
    config.data.width = 128  # pixels
    config.data.spacing = 1.5  # mm
    config.data.workers = 2  # threads that prepare scans

    config.model = ml_collections.ConfigDict()
    config.model.name = "vae"
    config.model.channels = (8, 16, 32, 64, 128, 256)  # one residual block each, halving the image
    config.model.latent_channels = 256
    config.model.variance_channels = (8, 16, 8)
    config.model.variance_floor = 1e-3  # squared intensity units, added to every variance

    config.train = ml_collections.ConfigDict()
    config.train.batch_size = 64
    config.train.steps = 193_000
    config.train.learning_rate = 2e-5
    config.train.schedule = "constant"  # or cosine, to zero at the last step
    config.train.reconstruction_weight = 1.0  # w of the loss
    config.train.log_every = 500  # steps
    config.train.checkpoint_every = 5_000  # steps

    config.restore = ml_collections.ConfigDict()
    config.restore.method = "vae_lg_neural_tv"
    config.restore.samples_est = 10  # L of lg_est
    config.restore.samples_neural = 1  # L of lg_neural
    config.restore.optimizer = "adam"  # or gradient: Eq. 4 as printed
    config.restore.learning_rate = 5e-3
    config.restore.iterations = 800
    config.restore.score = "absolute"  # the paper's |Y - X|; or positive: max(Y - X, 0)
    config.restore.batch_size = 64  # slices

    config.calibrate = ml_collections.ConfigDict()
    config.calibrate.ssim = 0.95  # least mean SSIM of restored healthy slices
    config.calibrate.slices = 64  # healthy slices that lambda is searched on
    config.calibrate.smallest_lambda = 0.1
    config.calibrate.largest_lambda = 1000.0
    config.calibrate.lambdas = 9  # tried first, spaced evenly in log lambda
    config.calibrate.bisections = 6
    return config


def smoke() -> ml_collections.ConfigDict:
    """Half the resolution, one block less, a short schedule: minutes on two CPU cores."""
    config = paper()
    config.name = "vae_smoke"
    config.data.train_subjects = 200
    config.data.calibration_subjects = 6
    config.data.height = 64
    config.data.width = 64
    config.data.spacing = 3.0
    config.model.channels = (8, 16, 32, 64, 128)
    config.model.latent_channels = 128
    config.train.batch_size = 32
    config.train.steps = 1200
    config.train.learning_rate = 1e-3
    config.train.schedule = "cosine"
    config.train.reconstruction_weight = 4.0  # a quarter of the pixels
    config.train.log_every = 50
    config.train.checkpoint_every = 300
    # A blurry prior misses healthy detail everywhere: without this floor the detail outweighs a lesion (see README).
    config.model.variance_floor = 1.0
    config.restore.samples_est = 4
    config.restore.learning_rate = 6e-2
    config.restore.iterations = 40
    config.restore.batch_size = 24
    config.calibrate.slices = 24
    config.calibrate.smallest_lambda = 0.05
    config.calibrate.largest_lambda = 50.0
    config.calibrate.lambdas = 6
    config.calibrate.bisections = 3
    return config


def get_config(variant: str = "paper") -> ml_collections.ConfigDict:
    """Returns the config of a variant: paper (default) or smoke."""
    return {"paper": paper, "smoke": smoke}[variant]()
