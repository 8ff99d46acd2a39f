"""Methods of volumes by the Runner: bits depend on the volume alone, networks see slices, the term sees the volume."""

import images
import jax
import numpy as np
import pytest
from programs import collectives

from lgjax import models
from lgjax.methods import mirror, names, volumes
from lgjax.methods import runner as runners
from lgjax.methods.queue import restore_scan
from lgjax.preparation.midplane import Mirror, Plane
from lgjax.preparation.pipeline import Prepared
from lgjax.preparation.slices import Grid, Slices, from_slices, to_slices
from lgjax.restoration import operators
from lgjax.runtime.devices import mesh

NETWORKS = ("vae_lg_neural_mirror_tv3d", "vae_reconstruction_mirror_tv3d")


@pytest.fixture
def quick(config):
    """Few steps of the proximal solver, and the lambdas of these tests within its reach."""
    config.restore.optimizer, config.restore.refreshes, config.restore.iterations = "proximal", 3, 30
    config.restore.dual_steps, config.restore.closed_steps = 5, 30
    return config


@pytest.fixture
def joined(slices):
    """Seven slices as a volume, beside a mirror image that is unseen in places."""
    rng = np.random.default_rng(3)
    mirrored = np.where(slices.mask > 0, np.float32(0.5) * slices.y + rng.normal(size=slices.y.shape), 0)
    spread = np.where(rng.random(slices.y.shape) < 0.3, np.inf, rng.uniform(1, 2, slices.y.shape))
    across = np.float32([1, 2, 0.5, 0, 1, 1])
    return volumes.Volume(*slices, across, Mirror(mirrored.astype(np.float32), spread.astype(np.float32)))


def runner_of(name, config, params, mesh):
    settings = runners.from_config(config)._replace(mirror_variance=0.7)
    model = models.from_config(config, config.restore.precision)
    return runners.Runner(names.parse(name), settings, model, params, mesh)


def run(name, config, params, mesh, whole, micro=None):
    """The restored volume and its trace."""
    runner = runner_of(name, config, params, mesh)
    if micro:
        runner.micro = micro
        runner.programs.restart(micro)
    return restored(runner, whole)


def restored(runner, whole):
    """The restored volume and its trace."""
    ((x, trace),) = runner(Slices(*whole[:3]), np.full(len(whole.number), 0.1, np.float32), whole)
    return x, trace


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize(("name", "others"), [(NETWORKS[0], (8,)), (NETWORKS[1], (2, 8))], ids=NETWORKS)
def test_bits_depend_on_the_volume_alone(quick, params, joined, name, others):
    """Whatever the devices, of which the first has 12, 24 or 36 of 28 slices to ask networks about."""
    many = jax.tree.map(lambda part: np.concatenate([part] * 4), joined)._replace(across=np.ones(27, np.float32))
    reference, trace = run(name, quick, params, mesh(jax.devices()[:1]), many)
    assert np.abs(reference - many.y)[many.mask > 0].mean() > 0.01  # something happens
    np.testing.assert_array_equal(reference[many.mask == 0], many.y[many.mask == 0])
    for devices in others:
        x, other = run(name, quick, params, mesh(jax.devices()[:devices]), many)
        np.testing.assert_array_equal(x, reference)
        jax.tree.map(np.testing.assert_array_equal, other, trace)


@pytest.mark.parametrize(
    ("name", "told"), [("mirror_tv3d", set()), ("intensity_tv3d", set()), ("vae_reconstruction_tv3d", {"all-gather"})]
)
def test_devices_tell_each_other_what_networks_say_of_their_slices_and_nothing_else(
    quick, params, mesh8, joined, name, told
):
    runner = runner_of(name, quick, params, mesh8)
    restored(runner, joined)
    (program,) = runner.programs.compiled.values()
    assert {kind for kind, _ in collectives(program.as_text())} == told


@pytest.mark.parametrize("term", ["adam", "proximal"])
def test_without_weights_a_volume_is_its_slices(quick, params, mesh1, slices, term):
    """Priors, draws and solver are those of the slices' own method."""
    quick.restore.optimizer, quick.restore.iterations = term, 3
    ((expected, _),) = runner_of("vae_lg_neural_tv", quick, params, mesh1)(slices, np.full(7, 0.1, np.float32))
    whole = volumes.Volume(*slices, np.zeros(6, np.float32), None)
    runner = runner_of("vae_lg_neural_tv3d", quick, params, mesh1)
    x, trace = restored(runner, whole)
    np.testing.assert_allclose(x, expected, atol=1e-4)
    assert all(part.shape == (1, 3) for part in trace)
    x, _ = restored(runner, whole._replace(across=np.full(6, 2, np.float32)))
    assert np.abs(x - expected).max() > 1e-3


def test_a_volume_is_restored_in_micro_batches(quick, params, mesh1, joined):
    """Networks see no more slices at a time than asked: the result is the same but for roundings."""
    reference, _ = run(NETWORKS[0], quick, params, mesh1, joined)
    x, _ = run(NETWORKS[0], quick, params, mesh1, joined, micro=5)
    np.testing.assert_allclose(x, reference, atol=1e-4)


def total_variation(b, sigma2, strength, across, steps=30):
    """The operator itself, on the slices that there are."""
    operator = operators.of_total_variation(steps, across)
    return np.asarray(jax.jit(operator.apply)(b, sigma2, np.float32(strength), operator.init(b))[0])


def reconstructed(config, params, y):
    """What the networks make of slices."""
    return np.asarray(jax.jit(jax.vmap(models.from_config(config, "float32").bind(params).reconstruct))(y))


def test_mirror_alone(quick, mesh1, joined):
    """D = Y - X is the denoised Y - mY where the mirror image is seen; elsewhere its neighbours decide."""
    x, trace = run("mirror_tv3d", quick, {}, mesh1, joined)
    seen = joined.mask * np.isfinite(joined.mirror.spread)
    sigma2 = np.where(seen > 0, 0.7 * joined.mirror.spread, 1e3 * joined.mask).astype(np.float32)
    expected = total_variation((joined.y - joined.mirror.mirrored) * seen, sigma2, 0.1, joined.across)
    np.testing.assert_allclose(joined.y - x, expected, atol=5e-5)  # jax 0.11 rounds otherwise
    assert np.abs(expected[seen > 0]).mean() > 0.1
    assert trace is None


def test_intensity_in_three_dimensions(quick, mesh1, joined):
    """The denoised z-score."""
    x, _ = run("intensity_tv3d", quick, {}, mesh1, joined)
    expected = total_variation(joined.y * joined.mask, joined.mask, 0.1, joined.across)
    np.testing.assert_allclose(joined.y - x, expected, atol=1e-5)


def test_reconstruction_in_three_dimensions(quick, params, mesh1, joined):
    """Y - D(Y), denoised with the config's variance."""
    quick.restore.reconstruction_variance = 0.4
    x, trace = run("vae_reconstruction_tv3d", quick, params, mesh1, joined)
    difference = (joined.y - reconstructed(quick, params, joined.y)) * joined.mask
    expected = total_variation(difference, 0.4 * joined.mask, 0.1, joined.across)
    np.testing.assert_allclose(joined.y - x, expected, atol=1e-4)
    assert trace is None


def test_a_product_of_three_experts(quick, params, mesh1, joined):
    """D(Y), the mirror image and the brain's mean, each by its inverse variance; the mirror says nothing unseen."""
    quick.restore.reconstruction_variance = 0.4
    x, _ = run("vae_reconstruction_mirror_tv3d", quick, params, mesh1, joined)
    mean = reconstructed(quick, params, joined.y)
    mirrored, spread = joined.mirror
    weights = np.stack(
        [np.full_like(mean, 1 / 0.4), 1 / np.maximum(0.7 * spread, (mirrored - mean) ** 2 / 4), np.ones_like(mean)]
    )
    expected = (weights * np.stack([mean, mirrored, np.zeros_like(mean)])).sum(axis=0) / weights.sum(axis=0)
    sigma2 = joined.mask / weights.sum(axis=0)
    denoised = total_variation((joined.y - expected) * joined.mask, sigma2, 0.1, joined.across)
    np.testing.assert_allclose(joined.y - x, denoised, atol=1e-4)


def test_out_of_memory_halves_the_micro_batch(quick, params, mesh1, joined, monkeypatch, caplog):
    """The networks are asked about fewer slices at a time."""
    method, settings = names.parse("vae_reconstruction_tv3d"), runners.from_config(quick)
    tried = []

    def limited(method, settings, model, micro):
        tried.append(micro)

        def restore(params, whole, strength):
            if micro > 3:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
            return whole.y, None

        return restore

    monkeypatch.setattr(volumes, "restorer", limited)
    runner = runners.Runner(method, settings, None, params, mesh1)
    ((x, _),) = runner(Slices(*joined[:3]), np.ones(7, np.float32), joined)
    np.testing.assert_array_equal(x, joined.y)
    assert tried == [12, 6, 3]
    assert sum("out of device memory" in line for line in caplog.messages) == 2


@pytest.fixture
def subject():
    """A head of 20x24x16 voxels of 1x1x3 mm, ready for 16x16 slices of 2 mm."""
    image = images.volume(images.head(), images.affine((1.0, 1.0, 3.0)))
    slices, placement = to_slices(image.data, image.data > 0, image.affine, Grid(16, 16, 2.0))
    return Prepared(image, 0, slices, placement)


def test_weights_go_by_spacing_and_gaps(subject):
    """Pixels of 2 mm, slices of 3 mm: differences weigh 2 / 3, and half of that across a gap of two slices."""
    whole = volumes.volume(subject, None)
    np.testing.assert_allclose(whole.across, 2 / 3, rtol=1e-6)
    some = subject._replace(slices=Slices(*(part[[0, 1, 3]] for part in subject.slices)))
    np.testing.assert_allclose(volumes.volume(some, None).across, [2 / 3, 1 / 3], rtol=1e-6)


def test_fillers_are_joined_to_nothing(joined):
    filled = volumes.padded(joined)
    assert len(filled.number) == len(filled.across) + 1 == volumes.SLICES
    np.testing.assert_array_equal(filled.across[:6], joined.across)
    assert not filled.across[6:].any()
    assert not filled.mask[7:].any()
    assert np.isinf(filled.mirror.spread[7:]).all()


def test_the_mirror_is_made_of_all_slices(quick, mesh1, subject, monkeypatch):
    """Also where every second slice is looked at, whose parts of the mirror image are then taken; the plane is told."""
    asked = []

    def of(given):
        asked.append(len(given.slices.number))
        number = given.slices.number.reshape(-1, 1, 1, 1).astype(np.float32)
        fake = Mirror(np.broadcast_to(number, given.slices.y.shape), np.ones(given.slices.y.shape, np.float32))
        return mirror.Seen(Plane((1.0, 0.0, 0.0), 0.0, 0.5, 0.4), fake)

    monkeypatch.setattr(mirror, "of", of)
    runner = runners.Runner(names.parse("mirror_tv3d"), runners.from_config(quick), None, {}, mesh1)
    restored = restore_scan(runner, subject, 0.0, 2)
    assert asked == [len(subject.slices.number)]
    assert restored.plane == Plane((1.0, 0.0, 0.0), 0.0, 0.5, 0.4)
    assert restored.pace == (None, None)
    kept = restored.subject.slices
    expected = from_slices((kept.y - kept.number.reshape(-1, 1, 1, 1)) * kept.mask, restored.subject.placement)
    np.testing.assert_allclose(restored.change, expected, rtol=1e-5, atol=1e-5)  # lambda 0: Y - mY as it is
    restore_scan(runner, subject, 0.0, seen=of(subject))
    assert len(asked) == 2  # by this test


def test_mirror_variance_by_numpy(subject):
    rng = np.random.default_rng(0)
    seen = np.where(rng.random(subject.slices.y.shape) < 0.5, np.inf, 1.5) * np.where(
        subject.slices.mask > 0, 1, np.inf
    )
    mirrored = rng.normal(size=seen.shape).astype(np.float32)
    whole = mirror.Seen(Plane((1.0, 0.0, 0.0), 0.0, 0.5, 0.4), Mirror(mirrored, seen.astype(np.float32)))
    known = np.isfinite(seen)
    expected = ((subject.slices.y - mirrored)[known] ** 2).mean()
    assert mirror.variance([mirror.differences(subject, whole)] * 2) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("method", "count"), [("mirror_tv3d", 1), ("intensity_tv3d", 7)])
def test_few_slices_are_warned_about_where_the_method_wants_a_volume(subject, method, count):
    few = subject._replace(slices=Slices(*(np.resize(part, (count, *part.shape[1:])) for part in subject.slices)))
    enough = subject._replace(slices=Slices(*(np.resize(part, (8, *part.shape[1:])) for part in subject.slices)))
    (note,) = volumes.warnings(names.parse(method), few)
    assert note.startswith(f"{count} slice")
    assert "may not hold on fewer than 8" in note
    assert volumes.warnings(names.parse(method), enough) == volumes.warnings(names.parse("intensity"), few) == ()
