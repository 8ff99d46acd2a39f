"""Methods by name, and the Runner: no result depends on neighbours, padding, batch size or the number of devices."""

import functools
import re
import types

import images
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import collectives

from lgjax import models
from lgjax.methods import gmm, names, own_kernels, programs, volumes
from lgjax.methods import runner as runners
from lgjax.methods.queue import restore_scan
from lgjax.models import convolutions
from lgjax.models.base import BoundModel
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.slices import BACKGROUND, Grid, Slices, from_slices, to_slices
from lgjax.restoration import loop
from lgjax.runtime import devices as runtime_devices
from lgjax.runtime.devices import mesh
from lgjax.runtime.errors import InputError, UsageError

RESTORING = [f"vae_{prior}_{term}" for prior in ("elbo", "lg_est", "lg_neural") for term in ("l1", "tv")]
ALL = ["intensity", "vae_reconstruction", *RESTORING]


HALF = {"half": np.float32(0.5)}  # the parameters of `simple`


def simple(params):
    """Takes half of each slice for healthy, without networks, for tests of what the Runner does with any method."""

    def samples(x, key, count):
        return (params["half"] * x)[None] + 0.1 * jax.random.normal(key, (count, *x.shape))

    return BoundModel(reconstruct=lambda x: params["half"] * x, samples=samples, variance=jnp.ones_like)


def runner_of(method, config, params, mesh):
    """What runs a method, by its name."""
    model = models.from_config(config, config.restore.precision)
    model = model._replace(bind=simple) if params is HALF else model
    return runners.Runner(names.parse(method), runners.from_config(config), model, params, mesh)


def run(name, config, params, mesh, slices, strength=1.0):
    """Restored slices and traces of all batches, joined."""
    runner = runner_of(name, config, params, mesh)
    return join(runner(slices, np.full(len(slices.number), strength, np.float32)))


def join(batches):
    batches = list(batches)
    x = np.concatenate([x for x, _ in batches])
    if batches[0][1] is None:
        return x, None
    return x, jax.tree.map(lambda *parts: np.concatenate(parts), *(trace for _, trace in batches))


def pick(slices, chosen):
    return Slices(*(part[chosen] for part in slices))


@pytest.mark.parametrize(
    ("name", "model", "prior", "term"),
    [
        ("intensity", "", "", ""),
        ("intensity_tv3d", "", "intensity", "tv3d"),
        ("mirror_tv3d", "", "mirror", "tv3d"),
        ("gmm", "", "", ""),
        ("anogan", "anogan", "search", ""),
        ("aae_reconstruction", "aae", "reconstruction", ""),
        ("dae_reconstruction", "dae", "reconstruction", ""),
        ("vae_elbo_tv", "vae", "elbo", "tv"),
        ("vae_reconstruction", "vae", "reconstruction", ""),
        ("vae_reconstruction_tv3d", "vae", "reconstruction", "tv3d"),
        ("vae_reconstruction_mirror_tv3d", "vae", "reconstruction", "tv3d"),
        ("vae_elbo_tv3d", "vae", "elbo", "tv3d"),
        ("vae_lg_neural_tv3d", "vae", "lg_neural", "tv3d"),
        ("aae_lg_neural_mirror_tv3d", "aae", "lg_neural", "tv3d"),
        ("gmvae_lg_est_mirror_tv3d", "gmvae", "lg_est", "tv3d"),
        ("vae_lg_est_tv", "vae", "lg_est", "tv"),
        ("vae_lg_est_l1", "vae", "lg_est", "l1"),
        ("vae_lg_neural_tv", "vae", "lg_neural", "tv"),
        ("vae_lg_neural_l1", "vae", "lg_neural", "l1"),
    ],
)
def test_parse(name, model, prior, term):
    method = names.parse(name)
    assert method == (name, model, prior, term, "mirror" in name)
    assert method.restores == bool(term)
    assert method.volume == name.endswith("_tv3d")
    assert method.closed == (method.volume and prior in ("intensity", "mirror", "reconstruction"))
    assert method.iterates == (bool(prior) and prior != "reconstruction" and not method.closed)
    assert method.signed == (name == "intensity")


def listed(error):
    """The methods that a refusal offers."""
    return re.split(r", or one of a model|\.$", str(error.value).split("Choose among ")[1])[0].split(", ")


@pytest.mark.parametrize("name", ["vae", "vae_lg", "vae_lg_neural", "vae_reconstruction_tv", "vae_mirror_tv3d"])
def test_unknown_names_of_a_model_list_its_methods(name):
    with pytest.raises(UsageError, match=re.escape(repr(name))) as caught:
        names.parse(name)
    assert listed(caught) == [other for other, method in names.available().items() if method.model == "vae"]


@pytest.mark.parametrize("name", ["", "VAE_lg_est_tv", "x", "tv3d", "mirror", "mirror_tv"])
def test_unknown_names_list_what_needs_no_network_and_the_models(name):
    with pytest.raises(UsageError, match=re.escape(repr(name))) as caught:
        names.parse(name)
    assert listed(caught) == ["intensity", "gmm", "intensity_tv3d", "mirror_tv3d"]
    assert "(vae, aae, gmvae, anogan, dae" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("aae_lg_est_tv", "aae has no posterior to draw from"),
        ("aae_elbo_tv", "aae has no evidence lower bound"),
        ("dae_lg_neural_tv3d", "dae has no variance network"),
        ("vae_elbo_mirror_tv3d", "the bound is no Gaussian"),
        ("vae_lg_neural_mirror_tv", "one of a whole volume, and goes with tv3d alone"),
        ("mirror_l1", "one of a whole volume, and goes with tv3d alone"),
        ("vae_reconstruction_l1", "a reconstruction goes with tv3d alone"),
        ("gmm_tv3d", "no Gaussian to restore by"),
        ("anogan_mirror_tv3d", r"anogan is searched, and has no other prior\. Choose among anogan\.$"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(name, why):
    with pytest.raises(UsageError, match=why):
        names.parse(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *((name, "mirror_tv3d") for name in ("miror_tv3d", "mirror", "mirror_tv", "intensity_mirror_tv3d")),
        ("intensity_tv", "intensity_tv3d"),
        ("vea_lg_neural_mirror_tv3d", "vae_lg_neural_mirror_tv3d"),
        ("restorer_lg_neural_miror_tv3d", "restorer_lg_neural_mirror_tv3d"),
    ],
)
def test_a_near_name_is_offered(name, meant):
    with pytest.raises(UsageError, match=rf"Did you mean {meant}\?"):
        names.parse(name)


def test_a_method_needs_its_own_model(config):
    with pytest.raises(UsageError, match=r"gmvae_elbo_tv needs the model gmvae.*configs/gmvae.py"):
        names.check_model(names.parse("gmvae_elbo_tv"), config.model.name)
    names.check_model(names.parse("intensity"), config.model.name)


def test_gmm_sees_a_whole_volume(config, params, mesh1, slices):
    """In any batch size and order of slices, the score is the distance to the classes of all slices together."""
    strength, config.gmm.iterations = np.zeros(7, np.float32), 20
    (x, trace), *rest = runner_of("gmm", config, params, mesh1)(slices, strength)
    assert not rest
    assert trace is None
    inside = slices.y[slices.mask > 0]
    known = np.ones((config.gmm.classes, len(inside)), np.float32)
    expected = np.zeros_like(x)
    options = {"kappa": config.gmm.kappa, "iterations": config.gmm.iterations}
    expected[slices.mask > 0] = jax.jit(functools.partial(gmm.score, **options))(inside, np.ones_like(inside), known)
    np.testing.assert_allclose(slices.y - x, expected, rtol=1e-3, atol=1e-4)
    config.restore.batch_size = 2
    backwards = pick(slices, slice(None, None, -1))
    ((other, _),) = runner_of("gmm", config, params, mesh1)(backwards, strength)
    np.testing.assert_allclose(other[::-1], x, rtol=1e-3, atol=1e-4)


def test_pace_is_that_of_the_largest_batches(config, mesh1, slices, monkeypatch):
    """Seconds of a batch over its iterations, compilation left out, and no smaller batch counted."""
    monkeypatch.setitem(runners.MICRO_BATCH, "cpu", 2)
    runner = runner_of("vae_lg_neural_tv", config, HALF, mesh1)
    join(runner(slices, np.ones(7, np.float32)))
    (first, seconds), (second, other) = runner.timed
    assert (first, second) == (4, 4)  # batches of four, the last slice padded
    assert runner.pace() == (4, pytest.approx(np.median([seconds, other])))
    assert runner.pace() == (4, None)  # counted once
    runner.timed = [(4, 0.5), (2, 0.1), (4, 0.7), (4, 0.6)]
    assert runner.pace() == (4, 0.6)
    other = runner_of("vae_reconstruction", config, HALF, mesh1)
    join(other(slices, np.ones(7, np.float32)))
    assert other.pace() == (4, None)  # no iterations


def test_every_default_is_a_method(experiments):
    for variant in experiments.VARIANTS:
        assert names.parse(experiments.get_config(variant).restore.method).restores


def test_intensity_scores_the_z_score(config, params, mesh1, slices):
    x, trace = run("intensity", config, params, mesh1, slices)
    np.testing.assert_array_equal(slices.y - x, np.where(slices.mask > 0, slices.y, 0))
    assert trace is None


def test_reconstruction_has_no_loop(config, params, mesh1, slices):
    x, trace = run("vae_reconstruction", config, params, mesh1, slices)
    networks = models.from_config(config, config.restore.precision).bind(params)
    expected = jax.jit(jax.vmap(networks.reconstruct))(slices.y)
    np.testing.assert_allclose(x, np.where(slices.mask > 0, expected, slices.y), atol=1e-5)
    assert trace is None


@pytest.mark.parametrize("name", RESTORING)
def test_runner_restores_inside_the_mask_in_order(config, params, mesh1, slices, name):
    x, trace = run(name, config, params, mesh1, slices)
    assert x.shape == slices.y.shape
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x[slices.mask == 0], slices.y[slices.mask == 0])
    assert (np.abs(x - slices.y)[slices.mask > 0] > 0).mean() > 0.9
    assert all(part.shape == (7, config.restore.iterations) for part in trace)


def test_a_grid_of_lambdas_and_any_other_run_in_one_program(config, params, mesh1, slices):
    chosen = settings(config, 4, iterations=2)  # at the first one X = Y, and no lambda has a say
    runner = runner_of("vae_lg_est_l1", chosen, params, mesh1)
    grid = np.array([0.05, 1.0, 20.0], np.float32)
    tiled = Slices(*(np.concatenate([part] * 3) for part in slices))
    together, _ = join(runner(tiled, np.repeat(grid, 7)))
    (program,) = runner.programs.compiled.values()
    for x, strength in zip(np.split(together, 3), grid, strict=True):
        alone, _ = join(runner(slices, np.full(7, strength)))
        np.testing.assert_array_equal(x, alone)
    assert list(runner.programs.compiled.values()) == [program]
    assert np.abs(together[:7] - together[-7:]).max() > 1e-3


@pytest.mark.parametrize(("wanted", "one", "eight"), [(0, 24, 192), (1, 12, 96), (17, 24, 96), (100, 108, 192)])
def test_a_batch_is_whole_micro_batches(config, mesh1, mesh8, params, wanted, one, eight):
    config.restore.batch_size = wanted
    assert [runner_of("intensity", config, params, mesh).size for mesh in (mesh1, mesh8)] == [one, eight]


def test_an_empty_cohort_yields_nothing(config, params, mesh1, slices):
    runner = runner_of("intensity", config, params, mesh1)
    assert list(runner(pick(slices, slice(0)), np.zeros(0, np.float32))) == []


def settings(config, batch_size, optimizer="gradient", iterations=1, rate=0.01):
    config = config.copy_and_resolve_references()
    config.restore.batch_size = batch_size
    config.restore.optimizer = optimizer
    config.restore.iterations = iterations
    config.restore.learning_rate = rate
    config.model.variance_floor = 0.1  # keeps steps of `gradient` below one intensity unit
    return config


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("vae_elbo_tv", [(5, 1), (24, 1)]),
        pytest.param("vae_lg_neural_tv", [(5, 1), (24, 1), (16, 3)], marks=pytest.mark.as_users),
    ],
)
def test_bits_depend_on_the_slice_alone(config, params, slices, name, others):
    """Whatever the batch size, the devices, the neighbours, their lambdas and the place in the batch: equal bits.

    30 iterations of Adam: where one rounding differs, a pixel soon takes a full step the other way.
    """
    chosen = settings(config, 1, "adam", 30, 5e-3)
    many = Slices(*(np.concatenate([part] * 4) for part in slices))  # more than two micro-batches
    # That leave room to move: at 1, TV's gradient outweighs the prior's almost everywhere. Each copy has its own.
    strength = np.resize(np.float32([0.04, 0.05, 0.06]), 28)
    first = runner_of(name, chosen, params, mesh(jax.devices()[:1]))
    reference, trace = join(first(many, strength))
    assert np.abs(reference - many.y)[many.mask > 0].mean() > 0.01  # something happens
    assert (np.abs(reference[:7] - reference[7:14]).max(axis=(1, 2, 3)) > 1e-4).all()
    made = {}  # by the number of devices: one of another batch size as the first, and one of other devices
    for batch_size, devices in others:
        chosen.restore.batch_size = batch_size
        if devices not in made:
            made[devices] = runner_of(name, chosen, params, mesh(jax.devices()[:devices]))
        made[devices].wanted = batch_size
        x, other = join(made[devices](many, strength))
        np.testing.assert_array_equal(x, reference)
        jax.tree.map(np.testing.assert_array_equal, other, trace)
    loud = Slices(slices.y.copy(), slices.mask, slices.number)
    loud.y[3:] *= 50
    np.testing.assert_array_equal(join(first(loud, strength[:7]))[0][:3], reference[:3])
    backwards, _ = join(first(pick(slices, slice(None, None, -1)), strength[6::-1]))
    np.testing.assert_array_equal(backwards[::-1], reference[:7])


@pytest.mark.parametrize("name", ["vae_lg_est_tv", "vae_lg_neural_tv"])
def test_draws_belong_to_the_slice_number(config, params, mesh1, slices, name):
    """The counterpart: the same image under another slice number draws other latents."""
    same = Slices(np.stack([slices.y[0]] * 3), np.stack([slices.mask[0]] * 3), np.array([4, 4, 5], np.int32))
    x, _ = run(name, settings(config, 4), params, mesh1, same)
    np.testing.assert_array_equal(x[0], x[1])
    assert np.abs(x[0] - x[2]).max() > 1e-3


@pytest.mark.as_users
@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("name", ["vae_lg_neural_tv"])
def test_a_proximal_restoration_depends_on_its_slice_alone(config, params, mesh1, mesh8, slices, name):
    """Also where slices stop one by one, which those that pad the last batch do at once."""
    chosen, tolerance = settings(config, 24, "proximal", iterations=30), 0.1
    chosen.restore.tolerance, chosen.restore.refreshes = tolerance, 12
    together, trace = run(name, chosen, params, mesh8, slices, 0.1)
    assert all(part.shape == (7, 12) for part in trace)
    assert np.abs(together - slices.y)[slices.mask > 0].mean() > 0.05  # something happens
    assert len(set(loop.taken(trace.change, tolerance))) > 1
    runner = runner_of(name, chosen, params, mesh1)
    x, other = join(batch for i in range(7) for batch in runner(pick(slices, [i]), np.float32([0.1])))
    np.testing.assert_array_equal(x, together)
    jax.tree.map(np.testing.assert_array_equal, other, trace)


@pytest.mark.parametrize("name", ["vae_lg_neural_tv", "vae_reconstruction"])
def test_devices_tell_each_other_nothing_while_slices_are_restored(config, params, mesh8, slices, name):
    runner = runner_of(name, config, params, mesh8)
    join(runner(slices, np.ones(7, np.float32)))
    (program,) = runner.programs.compiled.values()
    assert collectives(program.as_text()) == []


@pytest.mark.parametrize(
    ("tolerance", "traced", "made"),
    [(1e3, True, 1), (0.0, False, 12)],  # everything stops after its first iteration; nothing does
)
def test_pace_counts_what_was_done(config, mesh1, slices, monkeypatch, tolerance, traced, made):
    """A batch that stops early is divided by the iterations of its slowest slice."""
    ticks = iter(range(0, 1000, 6))
    monkeypatch.setattr(runners.time, "perf_counter", lambda: next(ticks))
    config.restore.tolerance, config.restore.traced, config.restore.iterations = tolerance, traced, 12
    runner = runner_of("vae_lg_neural_tv", config, HALF, mesh1)
    _, trace = join(runner(slices, np.ones(7, np.float32)))
    taken = runner.taken(trace)
    assert (taken == made).all() if traced else taken is None
    assert runner.pace() == (12, 6.0 / made)  # seconds, over those iterations


@pytest.mark.parametrize(
    ("options", "known"),
    [
        ({"xla_gpu_enable_command_buffer": "+WHILE"}, False),  # compiler options want the whole list
        ({"xla_of_tomorrow": "1"}, False),
        ({"xla_cpu_prefer_vector_width": "256"}, True),
    ],
)
def test_a_restoration_is_a_graph_where_xla_can(config, mesh1, slices, monkeypatch, caplog, options, known):
    """XLA itself refuses two of the options: a restoration goes on without, and says so."""
    monkeypatch.setitem(runtime_devices.COMPILER_OPTIONS, ("cpu", "graph"), options)
    monkeypatch.setattr(
        runtime_devices, "compiler_options", runtime_devices.compiler_options.__wrapped__
    )  # which remembers
    config.restore.cuda_graphs = True
    runner = runner_of("intensity", config, {}, mesh1)
    assert ("XLA makes no such graphs" in caplog.text) is not known
    assert runner.programs.graphs is known  # as a benchmark's record says
    x, _ = join(runner(slices, np.ones(7, np.float32)))
    np.testing.assert_array_equal(x, np.where(slices.mask > 0, 0, slices.y))
    config.restore.cuda_graphs = False
    caplog.clear()
    runner_of("intensity", config, {}, mesh1)
    assert not caplog.text


def test_a_graph_that_the_compiler_refuses_is_left_out(config, mesh1, slices, monkeypatch, caplog):
    """The options of the graph reach the compiler, which does not know them."""
    refused = {"graph": {"xla_of_tomorrow": "1"}}
    monkeypatch.setattr(runtime_devices, "compiler_options", lambda _, program: refused.get(program, {}))
    config.restore.cuda_graphs = True
    runner = runner_of("intensity", config, {}, mesh1)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_of_tomorrow"):
        runner.programs.function.lower(runner.params, *runner.place([*slices, np.ones(7, np.float32)])).compile()
    x, _ = join(runner(slices, np.ones(7, np.float32)))
    np.testing.assert_array_equal(x, np.where(slices.mask > 0, 0, slices.y))
    assert caplog.messages == [GRAPH_REFUSED]


GRAPH_REFUSED = "warning: restore.cuda_graphs: XLA refuses the graph on this device: going on without."


@pytest.mark.parametrize(
    ("accepts", "left", "said"),
    [
        (lambda parts, graph: True, (convolutions.PARTS, True), []),
        (lambda parts, graph: not graph, (convolutions.PARTS, False), [GRAPH_REFUSED]),
        (lambda parts, graph: not parts, ((), True), [own_kernels.REFUSED]),
        (lambda parts, graph: not (parts and graph), (convolutions.PARTS, False), [GRAPH_REFUSED]),
        (lambda parts, graph: not (parts or graph), ((), False), [GRAPH_REFUSED, own_kernels.REFUSED]),
    ],
    ids=["nothing", "graph", "kernels", "both together", "each"],
)
def test_only_what_the_compiler_refuses_is_left_out(config, mesh1, monkeypatch, caplog, accepts, left, said):
    """A GPU that makes no graph keeps kernels of ours, which it has compiled alone before, and the other way round."""

    class Refusing(programs.Programs):
        def _function(self, graphs):
            def compiled():
                if not accepts(convolutions.fusion.value, graphs):
                    raise NotImplementedError
                return "a program"

            return types.SimpleNamespace(lower=lambda *_: types.SimpleNamespace(compile=compiled))

    monkeypatch.setattr(runtime_devices, "compiler_options", lambda *_: {"known": "1"})
    config.restore.cuda_graphs = True
    made = Refusing(names.parse("intensity"), runners.from_config(config), None, mesh1, 1)
    made.fused = convolutions.PARTS  # as where they are trusted
    assert [made.compile(), made.compile()] == ["a program"] * 2
    assert (made.fused, made.graphs) == left
    assert caplog.messages == said


@pytest.mark.parametrize("said", ["RESOURCE_EXHAUSTED: 1", "FAILED_PRECONDITION: DNN library initialization failed"])
def test_a_gpu_without_memory_refuses_nothing(config, mesh1, monkeypatch, caplog, said):
    """Neither kernels nor graphs are to blame, and who frees the memory has both again."""

    def full(*_):
        raise jax.errors.JaxRuntimeError(said)

    lowered = types.SimpleNamespace(lower=lambda *_: types.SimpleNamespace(compile=full))
    made = programs.Programs(names.parse("intensity"), runners.from_config(config), None, mesh1, 1)
    made.fused, made.function = convolutions.PARTS, lowered
    with pytest.raises(jax.errors.JaxRuntimeError, match=said):
        made.compile()
    monkeypatch.setattr(own_kernels, "hold", lambda _: True)
    monkeypatch.setattr(own_kernels, "_answers", lambda *_: types.SimpleNamespace(trace=lambda *_: lowered))
    with pytest.raises(jax.errors.JaxRuntimeError, match=said):
        own_kernels.trusted(None, {}, (8, 8), runners.from_config(config))
    assert (made.fused, caplog.messages) == (convolutions.PARTS, [])


def test_proximal_is_chosen_by_one_value(config):
    method = names.parse("vae_lg_neural_tv")
    assert runners.length(method, runners.from_config(config)) == "iterations"
    config.restore.optimizer = "proximal"
    assert runners.length(method, runners.from_config(config)) == "refreshes"
    assert runners.length(names.parse("vae_reconstruction"), runners.from_config(config)) == "iterations"


class Uncompiled:
    """A plain function in the place of a jitted one."""

    def __init__(self, function):
        self.function = function

    def lower(self, *_):
        return self

    def compile(self):
        return self.function


def limit_memory(runner, most, log, message="RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes."):
    """Makes the runner's function fail, as a device does, on more than `most` slices at once."""
    function = runner.programs.function

    def limited(params, y, *rest):
        log.append(len(y))
        if len(y) > most:
            raise jax.errors.JaxRuntimeError(message)
        return function(params, y, *rest)

    runner.programs.function, runner.programs.compiled = Uncompiled(limited), {}


@pytest.mark.parametrize(("most", "tried"), [(3, [12, 6, 3, 3, 3]), (1, [12, 6, 3, 2, *[1] * 7])])
def test_out_of_memory_halves_the_micro_batch(config, mesh1, slices, caplog, most, tried):
    config, log, method = settings(config, 0), [], names.parse("vae_lg_neural_tv")
    reference, _ = run(method.name, config, HALF, mesh1, slices)
    caplog.clear()
    runner = runner_of(method.name, config, HALF, mesh1)
    limit_memory(runner, most, log)
    x, trace = join(runner(slices, np.ones(7, np.float32)))
    assert sorted(log, reverse=True) == tried  # two are in flight at a time
    np.testing.assert_allclose(x, reference, rtol=1e-5, atol=1e-5)
    assert len(trace.change) == 7
    lines = caplog.messages
    assert [int(re.findall(r"\d+", line)[0]) for line in lines] == sorted(set(tried) - {12}, reverse=True)
    assert all("out of device memory" in line and "Roundings may differ" in line for line in lines)


def test_out_of_memory_in_a_later_batch(config, mesh1, slices, monkeypatch):
    monkeypatch.setitem(runners.MICRO_BATCH, "cpu", 4)
    config, method = settings(config, 4), names.parse("vae_lg_neural_tv")
    runner = runner_of(method.name, config, HALF, mesh1)
    reference, _ = join(runner(slices, np.ones(7, np.float32)))
    batches = runner(slices, np.ones(7, np.float32))
    first, _ = next(batches)
    assert len(first) == 4
    limit_memory(runner, 2, [])
    rest, _ = join(batches)
    np.testing.assert_allclose(np.concatenate([first, rest]), reference, rtol=1e-5, atol=1e-5)


def test_every_device_has_as_many_slices(config, params, mesh8, slices):
    log = []
    runner = runner_of("intensity", settings(config, 0), params, mesh8)
    limit_memory(runner, 8, log)
    join(runner(slices, np.ones(7, np.float32)))
    assert log == [96, 48, 24, 16, 8]


@pytest.mark.parametrize("message", ["RESOURCE_EXHAUSTED: Out of memory", "INTERNAL: something else"])
def test_what_halving_cannot_mend_is_raised(config, params, mesh1, slices, message):
    log = []
    runner = runner_of("intensity", settings(config, 1), params, mesh1)
    limit_memory(runner, 0, log, message)
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        join(runner(slices, np.ones(7, np.float32)))
    assert log == ([12, 6, 3, 2, 1] if message.startswith("RESOURCE") else [12])


@pytest.mark.parametrize(
    ("graphs", "message", "said"),
    [(True, "INTERNAL: no graph exec", GRAPH_REFUSED), (False, "INTERNAL: x", ""), (True, "RESOURCE_EXHAUSTED", "")],
)
@pytest.mark.parametrize("name", ["intensity", "intensity_tv3d"])
def test_a_graph_that_fails_when_it_first_runs_is_left_out(
    config, mesh1, slices, monkeypatch, caplog, name, graphs, message, said
):
    """As a driver refuses: in words of its own, when the compiled program runs. No other error is taken for that."""

    class Driven(programs.Programs):
        def compile(self, *given):
            program = super().compile(*given)

            def run(*given):
                if self.graphs == graphs:
                    raise jax.errors.JaxRuntimeError(message)
                return program(*given)

            return run

    def restored(wanted):
        config.restore.cuda_graphs = wanted
        known = volumes.Volume(*slices, np.ones(6, np.float32), None) if "tv3d" in name else None
        return join(runner_of(name, config, {}, mesh1)(slices, np.ones(7, np.float32), known))[0]

    expected = restored(False)
    monkeypatch.setattr(runtime_devices, "compiler_options", lambda *_: {})
    monkeypatch.setattr(programs.Programs, "_has_graphs", lambda _: True)
    monkeypatch.setattr(runners, "Programs", Driven)
    if said:
        np.testing.assert_array_equal(restored(graphs), expected)
    else:
        with pytest.raises(jax.errors.JaxRuntimeError, match=message):
            restored(graphs)
    assert [line for line in caplog.messages if "out of device memory" not in line] == [said] * bool(said)


@pytest.fixture
def subject():
    """A head of 20x24x16 voxels of 1 mm, ready for 16x16 slices of 2 mm."""
    image = images.volume(images.head())
    brain = image.data > 0
    slices, placement = to_slices(image.data, brain, image.affine, Grid(16, 16, 2.0))
    return Prepared(image, 0, slices, placement)


@pytest.mark.parametrize("name", ["intensity", "vae_lg_neural_tv"])
def test_change_on_the_scan_s_own_grid(config, mesh1, subject, name):
    runner = runner_of(name, config, HALF, mesh1)
    _, change, traces, *_ = restore_scan(runner, subject, 1.0)
    assert change.shape == subject.image.data.shape
    assert change.dtype == np.float32
    assert (change[subject.image.data == 0] == 0).all()
    assert np.abs(change).max() > 0
    restored, expected = join(runner(subject.slices, np.ones(len(subject.slices.number), np.float32)))
    np.testing.assert_array_equal(change, from_slices(subject.slices.y - restored, subject.placement))
    if name == "intensity":
        assert traces is None
    else:
        np.testing.assert_array_equal(traces.data_term, expected.data_term)
        assert len(traces.change) == len(subject.slices.number)


@pytest.mark.parametrize("name", ["gmm", "vae_lg_neural_tv"])
def test_a_slice_is_the_same_among_all_and_among_few(config, params, mesh1, subject, name):
    """gmm too: it fits the whole volume, whatever is looked at."""
    config.gmm.iterations = 5
    runner = runner_of(name, settings(config, 4), params, mesh1)
    whole, few = (restore_scan(runner, subject, 1.0, step) for step in (1, 2))
    slices = np.arange(16) % 2 == 0
    np.testing.assert_array_equal(few.subject.placement.brain[..., ~slices], False)
    np.testing.assert_array_equal(few.subject.placement.brain[..., slices], (subject.image.data > 0)[..., slices])
    np.testing.assert_array_equal(few.change[..., slices], whole.change[..., slices])
    assert np.abs(few.change).max() > 0
    assert not few.change[..., ~slices].any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_intensity_change_is_the_z_score_in_its_place(config, params, mesh1, axis):
    """Resampled to 2 mm and back: a smooth scan keeps its z-scores, the right way round on every axis."""
    brain = images.head() > 0
    ramp = np.where(brain, 100 + np.indices(brain.shape)[axis], 0).astype(np.float32)
    slices, placement = to_slices(ramp, brain, images.affine(), Grid(16, 16, 2.0))
    runner = runner_of("intensity", config, params, mesh1)
    change = restore_scan(runner, Prepared(images.volume(ramp), 0, slices, placement), 0.0).change
    shown = brain & (change != 0)  # slices at the poles have too little brain
    assert shown.sum() > 0.9 * brain.sum()
    assert np.corrcoef(change[shown], ramp[shown])[0, 1] > 0.97


def test_a_diverging_restoration_is_an_input_error(config, mesh1, subject):
    config = settings(config, 4, iterations=40, rate=1e30)
    runner = runner_of("vae_lg_neural_tv", config, HALF, mesh1)
    with pytest.raises(InputError, match=r"made: its restoration diverged in \d+ slices.*learning_rate"):
        restore_scan(runner, subject, 1.0)


def test_one_bad_slice_is_counted(config, params, mesh1, subject):
    runner = runner_of("intensity", config, params, mesh1)
    function = runner.programs.function

    def spoilt(params, y, mask, number, strength):
        x, trace = function(params, y, mask, number, strength)
        return np.where(np.asarray(number)[:, None, None, None] == subject.slices.number[2], np.nan, x), trace

    runner.programs.function = Uncompiled(spoilt)
    with pytest.raises(InputError, match="diverged in 1 slices"):
        restore_scan(runner, subject, 1.0)


def test_background_is_background(slices):
    """The fixture is what preprocessing makes; else the tests above say little."""
    assert (slices.y[slices.mask == 0] == BACKGROUND).all()
