"""How speed is measured: which networks and batches, how often, for how long.

    python -m lgjax.bench --config=configs/bench.py              # the paper's networks and batch; wants an accelerator
    python -m lgjax.bench --config=configs/bench.py:smoke        # half the resolution; minutes on two CPU cores

Any value can be overridden: --config.precision=bfloat16, --config.experiments.vae.restore.batch_size=16.
"""

import ml_collections

from configs import aae, anogan, dae, detection, gmvae, restorer, vae

EXPERIMENTS = {"vae": vae, "aae": aae, "gmvae": gmvae, "anogan": anogan, "dae": dae, "restorer": restorer}
UNTRAINED = {"detection": detection}  # methods without a model
OWN_SIZE = {"restorer": "detection", "detection": "standard"}  # variants that are not of the paper's size


def get_config(variant: str = "paper") -> ml_collections.ConfigDict:
    """Returns the config of a variant: paper (default) or smoke, as in the configs of the models."""
    config = ml_collections.ConfigDict()
    config.name = f"bench_{variant}"  # of the output file
    config.as_paper = True  # networks and slices are of the size of the paper's, so its seconds stand beside ours
    # Of all networks, in restoration and training, and of the device's best rate. The paper's is float32.
    config.precision = "tensorfloat32"
    config.volume_slices = 155  # of the scan whose seconds are told
    config.repeats = 9  # of every method and model, one after the other, again and again
    config.run_seconds = 2.0  # that a timed run lasts about, if the iterations of the experiment suffice
    config.short_iterations = 2  # of the shorter of the two runs that give the seconds per iteration
    config.further_solvers = ("proximal",)  # that methods of Eq. 4 are timed with beside the one of their config
    config.train_models = ("vae", "aae", "gmvae", "anogan")  # whose training is timed beside their methods
    config.train_slices = 1024  # on the device; batches are drawn from them
    config.peak_sizes = (512, 1024, 2048, 4096, 8192)  # their rows; large ones are left out where they take long
    config.peak_length = 1 << 26  # elements of the arrays whose sum gives its bandwidth, more than a cache holds
    config.experiments = ml_collections.ConfigDict()
    for name, module in (EXPERIMENTS | UNTRAINED).items():
        own = OWN_SIZE.get(name, variant) if variant == "paper" else variant
        config.experiments[name] = module.get_config(own)
        for part in (config.experiments[name].restore, config.experiments[name].get("train")):
            if part:
                part.precision = config.get_ref("precision")
        if variant == "paper":
            config.experiments[name].restore.batch_size = 64  # the authors'
    if variant == "smoke":
        config.as_paper = False
        config.repeats = 3
        config.run_seconds = 0.3
        config.train_models = ("vae",)  # which take most of the time to compile
        config.train_slices = 128
    return config
