"""The restoration loop against closed forms in NumPy, and what it promises about masks, randomness and its trace."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lgjax import models
from lgjax.models.base import BoundModel
from lgjax.restoration import loop, priors, solvers
from lgjax.restoration.data_terms import DATA_TERMS, l1, tv

KEY = jax.random.key(7)
SHAPE = (4, 4, 1)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def quadratic(x, y):
    return 0.5 * ((x - y) ** 2).sum()


def fixed(mu, sigma2) -> priors.Prior:
    """The local Gaussian prior of networks that answer mu and sigma2 to everything: log P = log N(mu, sigma2)."""
    networks = BoundModel(
        samples=lambda x, key, count: jnp.broadcast_to(mu, (count, *mu.shape)),
        variance=lambda x: jnp.broadcast_to(sigma2, x.shape),
    )
    return priors.local_gaussian_neural(networks, samples=1)


POOLING = np.kron(np.eye(2), np.full((2, 2), 0.5))  # [4, 4]: means of neighbouring pairs
MATRIX = 0.9 * np.kron(POOLING, POOLING)  # A of mu = A x, on 4x4 images as vectors: symmetric, neither 0 nor I


def linear(sigma2) -> priors.Prior:
    """Networks with a linear encoder (2x2 means) and decoder (0.9 nearest neighbour), so that mu = A x."""

    def reconstruct(x):
        z = x.reshape(2, 2, 2, 2, 1).mean(axis=(1, 3))
        return 0.9 * jnp.repeat(jnp.repeat(z, 2, axis=0), 2, axis=1)

    networks = BoundModel(
        samples=lambda x, key, count: jnp.stack([reconstruct(x)] * count),
        variance=lambda x: jnp.full_like(x, sigma2),
    )
    return priors.local_gaussian_neural(networks, samples=2)


def restore(
    y, mask=None, key=KEY, *, prior, data_term=quadratic, name="gradient", rate=0.1, strength=1.0, iterations=5, **more
):
    options = {"data_term": data_term, "solver": solver(name, data_term, rate, iterations), "iterations": iterations}
    run = jax.jit(functools.partial(loop.restore, prior=prior, **options, **more))
    return jax.device_get(run(y, np.ones_like(y) if mask is None else mask, key, strength=jnp.float32(strength)))


def solver(name, data_term, rate=0.1, iterations=5):
    """The product's, or that of an optimiser for a data term of this test alone."""
    if data_term in DATA_TERMS.values():
        return solvers.solver(
            name, data_term, learning_rate=rate, iterations=iterations, refreshes=iterations, dual_steps=400
        )
    return solvers.ascent({"adam": optax.adam, "gradient": optax.sgd}[name](rate), data_term)


@pytest.mark.parametrize("iterations", [1, 2, 7, 40])
def test_gaussian_prior_and_quadratic_term(iterations):
    mu, sigma2, y = normal(*SHAPE), normal(*SHAPE, seed=1) ** 2 + 0.5, normal(*SHAPE, seed=2)
    eta, strength = 0.1, 1.7
    x, _ = restore(y, prior=fixed(mu, sigma2), rate=eta, strength=strength, iterations=iterations)
    precision = 1 / sigma2.astype(np.float64) + strength
    end = (mu / sigma2 + strength * y) / precision  # the posterior's mode
    expected = end + (1 - eta * precision) ** iterations * (y - end)  # X^i of Eq. 4
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_linear_networks_and_quadratic_term():
    y, sigma2, eta, strength = normal(*SHAPE), 0.5, 0.05, 0.8
    hessian = (np.eye(16) - MATRIX) / sigma2 + strength * np.eye(16)
    end = np.linalg.solve(hessian, strength * y.ravel())
    prior = linear(sigma2)
    for iterations in (1, 3, 30):
        x, _ = restore(y, prior=prior, rate=eta, strength=strength, iterations=iterations)
        contraction = np.linalg.matrix_power(np.eye(16) - eta * hessian, iterations)
        np.testing.assert_allclose(x.ravel(), end + contraction @ (y.ravel() - end), rtol=1e-5, atol=1e-6)
    x, _ = restore(y, prior=prior, rate=eta, strength=strength, iterations=600)
    np.testing.assert_allclose(x.ravel(), end, rtol=1e-5, atol=1e-5)


def test_l1_term_is_a_soft_threshold():
    """argmin (x - mu)^2 / (2 sigma2) + lambda |x - y|: x moves from y to mu, by what exceeds lambda sigma2."""
    mu, sigma2, y = normal(*SHAPE), normal(*SHAPE, seed=1) ** 2 + 0.3, 2 * normal(*SHAPE, seed=2)
    eta, strength = 2e-3, 0.9
    x, _ = restore(y, prior=fixed(mu, sigma2), data_term=l1, rate=eta, strength=strength, iterations=8000)
    reach = strength * sigma2
    expected = mu + np.clip(y - mu, -reach, reach)
    kept = np.abs(y - mu) <= reach
    np.testing.assert_array_equal(expected[kept], (mu + (y - mu))[kept])
    assert 2 < kept.sum() < 14  # both branches occur
    # Subgradient steps hover around the kink at y by one step: eta times the slope, at most 2 lambda.
    np.testing.assert_allclose(x, expected, atol=2 * eta * strength)


def test_strong_data_term_keeps_the_observation():
    mu, sigma2, y = normal(*SHAPE), np.ones(SHAPE, np.float32), normal(*SHAPE, seed=2)
    x, _ = restore(y, prior=fixed(mu, sigma2), strength=1e4, rate=5e-5, iterations=200)
    assert np.abs(x - y).max() < 2 * np.abs(mu - y).max() / 1e4


@pytest.mark.parametrize("name", sorted(DATA_TERMS))
def test_strong_paper_term_keeps_the_observation(name):
    """Adam leaves Y by one step and comes back: it hovers within a few steps, 0.1 in 400 iterations of 0.01."""
    mu, sigma2, y = normal(*SHAPE) + 2, np.ones(SHAPE, np.float32), normal(*SHAPE, seed=2)
    pulled, _ = restore(
        y, prior=fixed(mu, sigma2), data_term=DATA_TERMS[name], strength=0, name="adam", rate=1e-2, iterations=400
    )
    assert np.abs(pulled - y).max() > 1
    mu = mu - mu.mean() + y.mean()  # TV does not see a constant, so the prior must not ask for one
    x, _ = restore(
        y, prior=fixed(mu, sigma2), data_term=DATA_TERMS[name], strength=1e4, name="adam", rate=1e-2, iterations=400
    )
    assert np.abs(x - y).max() < 0.1


@pytest.mark.parametrize("name", sorted(DATA_TERMS))
def test_without_data_term_the_prior_mean_is_reached(name):
    mu, sigma2, y = normal(*SHAPE), normal(*SHAPE, seed=1) ** 2 + 0.5, normal(*SHAPE, seed=2)
    x, _ = restore(y, prior=fixed(mu, sigma2), data_term=DATA_TERMS[name], strength=0, rate=0.2, iterations=400)
    np.testing.assert_allclose(x, mu, atol=1e-5)


@pytest.mark.parametrize("name", sorted(DATA_TERMS))
def test_a_slice_on_its_prior_mean_does_not_move(name):
    """Both gradients vanish at X = Y = mu: no drift comes from the kink of the data term."""
    y = normal(*SHAPE)
    x, trace = restore(y, prior=fixed(y, np.ones_like(y)), data_term=DATA_TERMS[name], strength=5.0, iterations=20)
    np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(trace.change, np.zeros(20))


@pytest.mark.parametrize("data_term", [tv, l1])
def test_proximal_moves_nothing_outside_the_mask(slices, data_term):
    y, mask = slices.y[3], slices.mask[3]
    prior = fixed(normal(16, 16, 1), np.full((16, 16, 1), 0.5, np.float32))
    x, _ = restore(y, mask, prior=prior, data_term=data_term, name="proximal", rate=0.05, iterations=12)
    np.testing.assert_array_equal(x[mask == 0], y[mask == 0])
    assert (x[mask == 1] != y[mask == 1]).mean() > 0.1  # the others stay where they are, to the bit


@pytest.mark.parametrize("name", ["adam", "gradient"])
@pytest.mark.parametrize("data_term", [tv, l1, quadratic])
def test_only_the_mask_moves(slices, name, data_term):
    y, mask = slices.y[3], slices.mask[3]
    prior = fixed(normal(16, 16, 1), np.full((16, 16, 1), 0.5, np.float32))
    x, _ = restore(y, mask, prior=prior, data_term=data_term, name=name, rate=0.05, iterations=12)
    np.testing.assert_array_equal(x[mask == 0], y[mask == 0])
    assert (x[mask == 1] != y[mask == 1]).all()


def test_an_empty_slice_stays_as_it_is():
    y = np.full(SHAPE, -3.5, np.float32)
    x, trace = restore(y, np.zeros_like(y), prior=fixed(0 * y, 1 + 0 * y), data_term=tv, name="adam")
    np.testing.assert_array_equal(x, y)
    assert all((part == 0).all() for part in trace)


def loop_in_numpy(y, mask, prior_gradient, cost, cost_gradient, step, strength, iterations):
    """Eq. 4 in float64; `step` maps an ascent direction to a move. Returns X and the trace's three rows."""
    x, rows = y.astype(np.float64), []
    pixels = mask.sum()
    for _ in range(iterations):
        gradient = prior_gradient(x) * mask
        move = step(gradient - strength * cost_gradient(x) * mask)
        rows.append([np.sqrt((gradient**2).sum() / pixels), cost(x), np.abs(move).sum() / pixels])
        x = x + move
    return x, np.array(rows).T


class NumpyAdam:
    """Kingma and Ba 2015, Algorithm 1, as ascent."""

    def __init__(self, rate):
        self.rate, self.t, self.m, self.v = rate, 0, 0.0, 0.0

    def __call__(self, g):
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g**2
        return self.rate * (self.m / (1 - 0.9**self.t)) / (np.sqrt(self.v / (1 - 0.999**self.t)) + 1e-8)


@pytest.mark.parametrize("name", ["adam", "gradient"])
def test_trace_and_iterates_by_numpy(slices, name):
    y, mask, iterations = slices.y[2], slices.mask[2], 15
    mu, sigma2 = normal(16, 16, 1), normal(16, 16, 1, seed=1) ** 2 + 0.5
    other = y + normal(16, 16, 1, seed=2)  # pulls elsewhere than Y, so that the first data term is not zero

    def pulled(x, y):
        return quadratic(x, other)

    x, trace = restore(
        y, mask, prior=fixed(mu, sigma2), data_term=pulled, name=name, rate=0.05, strength=0.6, iterations=iterations
    )
    expected, rows = loop_in_numpy(
        y,
        mask,
        prior_gradient=lambda x: (mu - x) / sigma2,
        cost=lambda x: 0.5 * ((x - other) ** 2).sum(),
        cost_gradient=lambda x: x - other,
        step=NumpyAdam(0.05) if name == "adam" else lambda g: 0.05 * g,
        strength=0.6,
        iterations=iterations,
    )
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-4)
    assert all(part.shape == (iterations,) for part in trace)
    np.testing.assert_allclose(trace.prior_gradient, rows[0], rtol=1e-3)
    np.testing.assert_allclose(trace.data_term, rows[1], rtol=1e-4)
    np.testing.assert_allclose(trace.change, rows[2], rtol=1e-3)


@pytest.mark.parametrize("name", sorted(DATA_TERMS))
def test_trace_holds_the_data_term_before_the_step(name):
    y = normal(*SHAPE)
    run = functools.partial(
        restore, y, prior=fixed(normal(*SHAPE, seed=1), np.ones(SHAPE, np.float32)), data_term=DATA_TERMS[name]
    )
    cost = jax.jit(lambda x, y: DATA_TERMS[name](x, y))
    _, trace = run(iterations=4)
    assert trace.data_term[0] == 0
    for i in (1, 2, 3):
        x, _ = run(iterations=i)
        assert trace.data_term[i] == pytest.approx(float(cost(x, y)), rel=1e-4)


@pytest.mark.parametrize("rate", [5e-3, 4e-2])
def test_adam_bounds_the_move(rate):
    y, iterations = normal(*SHAPE), 100
    far = fixed(y + 1000, np.ones_like(y))
    x, _ = restore(y, prior=far, name="adam", rate=rate, strength=0, iterations=iterations)
    # A steady pull moves a pixel by the rate at every step, however strong it is; 1e-3 for float32 and a falling pull.
    np.testing.assert_allclose(x - y, iterations * rate, rtol=1e-2)
    x, _ = restore(y, prior=far, name="gradient", rate=rate, strength=0, iterations=iterations)
    assert (x - y).min() > 10 * iterations * rate


@pytest.mark.parametrize("name", ["adam", "gradient"])
def test_compiled_loop_equals_an_unrolled_one(slices, config, params, name):
    networks = models.from_config(config, config.restore.precision).bind(params)
    prior, iterations, rate = priors.local_gaussian_estimated(networks, 3, 0.5), 4, 1e-2
    y, mask = jnp.asarray(slices.y[0]), jnp.asarray(slices.mask[0])
    looped, _ = restore(y, mask, prior=prior, data_term=quadratic, name=name, rate=rate, iterations=iterations)
    transform = {"adam": optax.adam, "gradient": optax.sgd}[name](rate)

    @jax.jit
    def step(x, state, key):
        ascent = mask * (prior(x, key).gradient - (x - y))
        update, state = transform.update(-ascent, state)
        return optax.apply_updates(x, update), state

    x, state = y, transform.init(y)
    for i in range(iterations):
        x, state = step(x, state, jax.random.fold_in(KEY, i))
    np.testing.assert_allclose(looped, x, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("optimised")
def test_the_same_program_gives_the_same_bits(slices, config, params):
    networks = models.from_config(config, config.restore.precision).bind(params)
    run = jax.jit(
        lambda y, mask: loop.restore(
            y,
            mask,
            KEY,
            prior=priors.local_gaussian_estimated(networks, 3, 1e-3),
            data_term=tv,
            solver=solver("adam", tv, 1e-2),
            strength=jnp.float32(1.0),
            iterations=20,
        )
    )
    first, second = (jax.device_get(run(slices.y[0], slices.mask[0])) for _ in range(2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.tobytes() == b.tobytes()


def test_iteration_i_draws_from_its_own_key():
    y = np.zeros(SHAPE, np.float32)

    def noise(x, key):
        return priors.LocalPrior(jax.random.normal(key, x.shape), jnp.ones_like(x))

    walk = functools.partial(restore, y, prior=noise, rate=1.0, strength=0.0)
    steps = np.stack([jax.random.normal(jax.random.fold_in(KEY, i), SHAPE) for i in range(5)])
    assert len(np.unique(steps)) == steps.size
    for iterations in (1, 2, 5):
        np.testing.assert_allclose(walk(iterations=iterations)[0], steps[:iterations].sum(axis=0), rtol=1e-5, atol=1e-6)


def test_slice_keys_depend_on_the_identity_alone():
    @functools.partial(jax.jit, static_argnums=0)
    def drawn(seed, index):
        return jax.random.key_data(loop.slice_keys(seed, index))

    def data(seed, index):
        return np.asarray(drawn(seed, np.asarray(index, np.int32)))

    together = data(4, [12, 0, 7, 3])
    for position, index in enumerate([12, 0, 7, 3]):
        np.testing.assert_array_equal(together[position], data(4, [index])[0])
        np.testing.assert_array_equal(
            together[position], jax.random.key_data(jax.random.fold_in(jax.random.key(4), index))
        )
    keys = {key.tobytes() for seed in (4, 5) for key in data(seed, range(200))}
    assert len(keys) == 400


INFINITE = float("inf")


def test_far_enough_proximal_is_a_soft_threshold():
    """One step without a limit to its length is the closed form of the L1 term; what it keeps, it keeps to the bit."""
    mu, sigma2, y = normal(*SHAPE), normal(*SHAPE, seed=1) ** 2 + 0.3, 2 * normal(*SHAPE, seed=2)
    x, _ = restore(y, prior=fixed(mu, sigma2), data_term=l1, name="proximal", rate=INFINITE, strength=0.9, iterations=1)
    kept = np.abs(y - mu) <= 0.9 * sigma2
    assert 2 < kept.sum() < 14
    np.testing.assert_array_equal(x[kept], y[kept])
    np.testing.assert_allclose(x, mu + np.clip(y - mu, -0.9 * sigma2, 0.9 * sigma2), atol=1e-5)


@pytest.mark.parametrize("data_term", [tv, l1])
def test_far_enough_proximal_solves_equation_4(data_term):
    """With mu = A x, Eq. 4 is the gradient of a convex function, of which X is the minimum: no change lowers it."""
    y, sigma2, strength = 2 * normal(*SHAPE), 0.5, 0.7
    x, trace = restore(
        y,
        prior=linear(sigma2),
        data_term=data_term,
        name="proximal",
        rate=INFINITE,
        strength=strength,
        iterations=150,
    )

    def cost(x):
        quadratic = 0.5 * x.ravel() @ (np.eye(16) - MATRIX) @ x.ravel() / sigma2
        return quadratic + strength * float(data_term(jnp.asarray(x), y))

    assert trace.change[-1] < 1e-5
    assert np.abs(x - y).max() > 0.3
    for seed in range(40):
        other = x + 10.0 ** -(seed % 4) * normal(*SHAPE, seed=seed + 5)
        assert cost(other) > cost(x) - 1e-5


def test_proximal_takes_implicit_steps_of_plain_ascent():
    """With no kink in reach: X^{i+1} = X^i + tau (pull at X^{i+1} - lambda) with tau = N eta / (2 lambda n)."""
    y, mu, sigma2, strength, rate, n = np.zeros(SHAPE, np.float32), 9.0, 2.0, 0.8, 0.3, 6
    prior = fixed(np.full(SHAPE, mu, np.float32), np.full(SHAPE, sigma2, np.float32))
    x, _ = restore(y, prior=prior, data_term=l1, name="proximal", rate=rate, strength=strength, iterations=n)
    tau, expected = rate / (2 * strength), 0.0  # N eta over n refreshes, here as many as N
    for _ in range(n):
        expected = (expected + tau * (mu / sigma2 - strength)) / (1 + tau / sigma2)
    np.testing.assert_allclose(x, expected, rtol=1e-5)


def test_proximal_goes_where_adam_goes(slices):
    """800 steps of Adam and 20 refreshes end at the same restoration of a lesion, long before the mode of Eq. 4."""
    mask = slices.mask[0]
    prior = fixed(np.zeros_like(mask), np.ones_like(mask))
    y = 0.05 * normal(*mask.shape) * mask
    y[5:10, 5:10] += 2  # a lesion
    run = functools.partial(restore, y, mask, prior=prior, data_term=tv, strength=1.0)
    adam, _ = run(name="adam", rate=5e-3, iterations=800)
    near, _ = run(name="proximal", rate=4.0 / 20, iterations=20)
    mode, _ = run(name="proximal", rate=INFINITE, iterations=20)
    assert np.abs(near - adam).mean() < 0.3 * np.abs(adam - y).mean()
    assert np.abs(near - adam).mean() < 0.5 * np.abs(mode - adam).mean()


@pytest.mark.parametrize("name", ["adam", "gradient", "proximal"])
def test_a_slice_stops_below_the_tolerance(name):
    """As if it had been given that many iterations; the trace goes on with the last values."""
    prior = fixed(normal(*SHAPE), np.full(SHAPE, 0.5, np.float32))
    y = normal(*SHAPE, seed=2)
    choice = {"name": name, "rate": 0.2, "prior": prior, "data_term": l1, "strength": 0.5}
    if name == "proximal":
        choice["rate"] = 5.0
    tolerance = 0.02
    x, trace = restore(y, iterations=60, tolerance=tolerance, **choice)
    _, whole = restore(y, iterations=60, **choice)
    done = int(loop.taken(trace.change[None], tolerance)[0])
    assert 1 < done < 60
    assert (trace.change[: done - 1] >= tolerance).all()
    assert trace.change[done - 1] < tolerance
    for part, other in zip(trace, whole, strict=True):
        np.testing.assert_allclose(part[:done], other[:done], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(trace.change[done:], 0)
    np.testing.assert_array_equal(trace.data_term[done:], trace.data_term[done - 1])
    np.testing.assert_array_equal(trace.prior_gradient[done:], trace.prior_gradient[done - 1])
    assert loop.taken(whole.change[None], 0.0)[0] == 60
    if name == "adam":  # a solver that does not ask how many iterations there are
        shorter, _ = restore(y, iterations=done, **choice)
        np.testing.assert_allclose(x, shorter, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("tolerance", [0.0, 0.1])
@pytest.mark.parametrize("name", ["adam", "proximal"])
def test_a_trace_that_nobody_asks_for_changes_no_bit(name, tolerance):
    """A tolerance asks for the change alone."""
    prior, y = fixed(normal(*SHAPE), np.full(SHAPE, 0.5, np.float32)), normal(2, *SHAPE, seed=2)

    def both(traced):
        choice = {"prior": prior, "data_term": tv, "solver": solver(name, tv, 0.2, 20), "iterations": 20}
        choice |= {"strength": jnp.float32(0.5), "tolerance": tolerance, "traced": traced}
        return jax.device_get(jax.jit(jax.vmap(lambda y: loop.restore(y, jnp.ones(SHAPE), KEY, **choice)))(y))

    x, trace = both(traced=True)
    same, rest = both(traced=False)
    np.testing.assert_array_equal(same, x)
    assert np.abs(x - y).max() > 0.1
    assert rest[:2] == (None, None)
    if tolerance:
        np.testing.assert_array_equal(rest.change, trace.change)
        assert loop.taken(rest.change, tolerance).max() < 20
    else:
        assert rest.change is None


def test_slices_of_a_batch_stop_one_by_one():
    """A slice without a mask at once; what stopped is what it is alone, however long the others take."""
    y = np.stack([normal(*SHAPE, seed=seed) for seed in range(4)])
    mask = np.ones_like(y)
    mask[1] = 0
    mu = np.stack([y[0] + 0.1, y[1], y[2] + 3, y[3] + 0.6])

    def one(y, mask, mu):
        return loop.restore(
            y,
            mask,
            KEY,
            prior=fixed(mu, jnp.ones(SHAPE)),
            data_term=l1,
            solver=solver("gradient", l1, 0.2),
            strength=jnp.float32(0.01),
            iterations=50,
            tolerance=0.01,
        )

    x, trace = jax.jit(jax.vmap(one))(y, mask, mu)
    done = loop.taken(np.asarray(trace.change), 0.01)
    assert done[1] == 1
    assert 1 < done[0] < done[3] < done[2] < 50
    np.testing.assert_array_equal(x[1], y[1])
    for i in range(4):
        alone, alone_trace = jax.jit(one)(y[i], mask[i], mu[i])
        np.testing.assert_allclose(x[i], alone, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(trace.change[i], alone_trace.change, rtol=1e-4, atol=1e-6)
