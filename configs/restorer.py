"""A restorer of synthetic anomalies: a U-Net that learns what restoring means (docs/method.md).

    python -m lgjax.train --config=configs/restorer.py              # 96x96 pixels of 2 mm; an hour on two CPU cores
    python -m lgjax.train --config=configs/restorer.py:paper        # at the paper's resolution; wants an accelerator
    python -m lgjax.train --config=configs/restorer.py:smoke        # minutes on two CPU cores

What is not said here is as in configs/common.py.
"""

from configs import common


def get_config(variant: str = "detection"):
    """Returns the config of a variant: detection (default), paper (its resolution) or smoke."""
    common.check_variant(variant, ("detection", "paper", "smoke"))
    config = common.experiment("restorer", "restorer", "restorer_reconstruction_mirror_tv3d")
    common.add_ascent(config)
    config.data.train_subjects = 240
    config.data.calibration_subjects = 12
    common.set_detection(config)
    config.model.channels = (16, 32, 64, 96, 128)  # of the U-Net, from full resolution down
    config.model.variance_floor = 1e-3  # squared standard deviations of the brain, added to every variance
    config.train.batch_size = 16
    config.train.steps = 6000
    config.train.learning_rate = 1e-3
    config.train.schedule = "cosine"
    config.train.flip = 0.5
    config.train.intensity = 0.1
    config.train.log_every = 100
    config.train.checkpoint_every = 500
    config.restore.score = "relative"  # thresholds of synthetic brains hold on real ones better, see docs/results.md
    config.restore.optimizer = "proximal"
    config.restore.refreshes = 5  # of the prior: its mean hardly moves
    config.restore.reconstruction_variance = 0.5  # of Y - D(Y) beside the mirror's and the mean's
    config.calibrate.strength = 6.0  # lambda: healthy slices that nothing smooths are like themselves already
    if variant == "paper":
        config.name += "_paper"
        config.data.train_subjects = 652
        config.data.height = config.data.width = 128
        config.data.spacing = 1.5
        config.model.channels = (32, 64, 128, 256, 256)
        config.train.batch_size = 64
        config.train.steps = 30_000
        config.train.checkpoint_every = 2_000
    if variant == "smoke":
        common.shorten(config)
        config.train.batch_size = 16
        config.train.steps = 1000
    return config
