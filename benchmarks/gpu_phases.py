"""What a GPU is asked, in order of importance: a table of phases, each a process of its own (see benchmarks/gpu.py).

What the goals of speed are about comes first. A limit is seconds, about twice what an H100 should need: counted are the
programs that a phase compiles, in 8 seconds each where they hold kernels of ours; no GPU was asked yet. Words go to
Python; a phase writes the file OUTPUT, and comparisons with PyTorch share the file AGREEMENT.
"""

from typing import NamedTuple

from benchmarks.gpu_summary import DEFAULT, ROUNDED

OUTPUT, AGREEMENT = "{output}", "{agreement}"
CAPTURED = "--xla_gpu_enable_command_buffer=+WHILE,+CONVOLUTION --xla_gpu_graph_min_graph_size=1"
GRAPH, UNTRACED = (f"--config.experiments.vae.restore.{value}" for value in ("cuda_graphs=True", "traced=False"))
BFLOAT16 = "--config.precision=bfloat16"
LEVERS = {  # flags of XLA, whose names may be unknown to another jaxlib: then the phase fails by itself; and values
    "graph_untraced": ("", GRAPH, UNTRACED),
    "graph_untraced_bfloat16": ("", GRAPH, UNTRACED, BFLOAT16),
    "graph": ("", GRAPH),
    "plain_variance": ("", "--config.experiments.vae.restore.variance_form=plain"),
    "plain_decoder": ("", "--config.experiments.vae.restore.decoder_form=plain"),
    "graphs_unrolled": (f"{CAPTURED} --xla_gpu_command_buffer_unroll_loops=true",),
    "graphs_concurrent": (f"{CAPTURED} --xla_gpu_command_buffer_scheduling_mode=CONCURRENT",),
    "convolution_fusion": ("--xla_gpu_experimental_enable_conv_fusion=true",),
    "fast_min_max": ("--xla_gpu_enable_fast_min_max=true",),
    "default": ("",),  # against DEFAULT: how far two measurements of the same are apart
}
FIRST = 2  # levers that the goals of speed are about
PAPER = ("--config=configs/bench.py", "--config.repeats=5", "--config.run_seconds=0.5")
SMALL = (
    "--config=configs/bench.py:smoke",
    "--config.repeats=1",
    "--config.run_seconds=0.01",
    "--config.peak_sizes=(64,)",
    "--config.peak_length=4096",
    "--config.train_slices=8",
    "--config.experiments.vae.data.height=16",
    "--config.experiments.vae.data.width=16",
    "--config.experiments.vae.model.channels=(4,)",
    "--config.experiments.vae.model.latent_channels=2",
    "--config.experiments.vae.model.variance_channels=(4,)",
    "--config.experiments.vae.restore.batch_size=2",
    "--config.experiments.vae.restore.iterations=8",
    "--config.experiments.vae.train.batch_size=4",
    "--config.volume_slices=4",
)
NEURAL = "vae_lg_neural_tv"
CHEAP = "vae_reconstruction"  # beside a training, which is timed where a method of its model is
DETECTION = "mirror_tv3d,restorer_reconstruction_mirror_tv3d"  # its U-Net compiled for more than 100 s once
RESTORING = "--modes=eager_channels_last,eager_channels_last_graph"  # of PyTorch
COMPILED = "--modes=compile_channels_last_graph"  # by a compiler whose time nobody knows
AUTOTUNED = "--modes=max_autotune_channels_last_graph"
TRAINING = "--modes=eager_channels_last,compile_channels_last"
ROUNDINGS = ("tensorfloat32", "bfloat16")


class Phase(NamedTuple):
    """One question to a GPU."""

    name: str  # of its files
    limit: int  # seconds
    words: tuple[str, ...]  # of Python
    flags: str = ""  # of XLA
    needs: str = ""  # a module that Python must have


def phases(device: str, smoke: bool) -> list[Phase]:
    """All phases, for `cpu` or `gpu`, at the paper's size or a tiny one."""
    bench = ("-m", "lgjax.bench", *(SMALL if smoke else PAPER), f"--device={device}", f"--output={OUTPUT}")
    untrained, trained = "--config.train_models=()", "--config.train_models=('vae',)"
    adam, one, cheap = "--config.further_solvers=()", f"--method={NEURAL}", f"--method={CHEAP}"
    whole = () if smoke else ("--config.run_seconds=1.5",)  # so that all iterations fit, and 155 slices are measured
    others = "--method=vae_elbo_tv" if smoke else "--method=vae_lg_est_tv,vae_elbo_tv"
    quick = (
        (adam,) if smoke else (adam, "--config.repeats=3", "--config.run_seconds=0.3", "--config.peak_sizes=(8192,)")
    )
    files = (f"--output={OUTPUT}", f"--agreement={AGREEMENT}")
    compare = ("benchmarks/peers/compare.py", f"--device={device}", *files)
    tiny = ("--smoke", "--repeats=1", "--modes=eager_channels_last") if smoke else ()
    slices = ("--slices=2", "--smoke", "--repeats=1") if smoke else ("--slices=64",)
    convolutions = ("benchmarks/convolutions.py", f"--device={device}", f"--output={OUTPUT}", *slices)
    forms, programs = "--seconds=1" if smoke else "--seconds=45", "--longer=1" if smoke else "--longer=20"
    maps = ("benchmarks/gpu_maps.py", f"--device={device}", f"--output={OUTPUT}", *["--smoke"] * smoke)
    levers = [
        Phase(f"lever_{name}", 70, (*bench, one, untrained, *quick, *value), flags)
        for name, (flags, *value) in LEVERS.items()
    ]

    def peers(name: str, method: str, modes: str, limit: int = 120) -> list[Phase]:
        words = (*compare, f"--methods={method}", modes, *tiny)
        return [Phase(f"{name}_{each}", limit, (*words, f"--precisions={each}"), needs="torch") for each in ROUNDINGS]

    return [
        Phase(DEFAULT, 130, (*bench, one, untrained, *whole)),
        Phase(ROUNDED, 130, (*bench, one, untrained, *whole, BFLOAT16)),
        Phase("training_tensorfloat32", 100, (*bench, cheap, trained, *quick)),
        Phase("training_bfloat16", 100, (*bench, cheap, trained, *quick, BFLOAT16)),
        Phase("maps", 150, maps),
        *levers[:FIRST],
        *peers("peers", NEURAL, RESTORING, 90),
        *peers("peers_compiled", NEURAL, COMPILED),
        Phase("profile", 70, (*bench, one, untrained, *quick, "--profile")),
        Phase("others_tensorfloat32", 200, (*bench, others, untrained)),
        Phase("others_bfloat16", 200, (*bench, others, untrained, BFLOAT16)),
        Phase("forms", 70, (*convolutions, "--tune", forms)),
        *levers[FIRST:],
        *peers("peers_autotuned", NEURAL, AUTOTUNED),
        *peers("peers_training", "vae_train", TRAINING),
        Phase("convolutions", 150, (*convolutions, "--precision=tensorfloat32", programs)),
        Phase("detection", 150, (*bench, f"--method={DETECTION}", untrained)),
    ]
