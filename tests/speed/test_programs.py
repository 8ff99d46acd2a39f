"""What is said of compiled programs: bytes, operations, memory, and the seconds of compiling them anew."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from lgjax.models import convolutions
from lgjax.speed import counts, programs, traffic


@pytest.mark.parametrize("length", [3, 7])
def test_bytes_of_a_loop_are_those_of_all_iterations(length):
    n = 64
    w = jnp.ones((n, n)) / n
    once, several = (
        programs.compiled(jax.jit(lambda x, t=turns: jax.lax.fori_loop(0, t, lambda _, x: jnp.tanh(x @ w), x)), w)
        for turns in (length, 2 * length)
    )
    more = counts.per_iteration(once.work, several.work, length).bytes
    # The product reads two matrices and writes one; what follows reads and writes one, or is fused, or copies one.
    assert 3 * 4 * n**2 <= more <= 7 * 4 * n**2


@pytest.mark.usefixtures("optimised")
def test_bytes_are_of_the_fused_program_and_of_all_devices():
    x = jnp.ones(1000)
    function = jax.jit(lambda a, b: jnp.tanh(a + b) * 2 + a)
    found = programs.compiled(function, x, x)
    assert found.work.bytes == 3 * 4 * 1000  # and not those of every operation
    assert found.work.bytes == found.program.cost_analysis()["bytes accessed"]
    assert found.bytes_of == programs.KERNELS
    assert programs.compiled(function, x, x, devices=4).work.bytes == 4 * found.work.bytes


def test_where_the_text_of_a_program_tells_nothing_every_operation_counts():
    halve = jax.jit(lambda x: jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x))
    found = programs.compiled(halve, jnp.ones(1000))
    assert found.bytes_of == programs.OPERATIONS
    assert found.work == counts.of(halve, jnp.ones(1000))
    strange = "ENTRY %main (p: f32[]) -> f32[] {\n  ROOT %a = f32[] negate(%nowhere)\n}"
    for text in (None, "func.func @main", strange):
        assert traffic.of(types.SimpleNamespace(as_text=lambda text=text: text)) is None


def test_memory_of_a_program():
    program = jax.jit(lambda a: (a * 2, a.sum())).lower(jnp.ones(1000)).compile()
    assert 8004 <= programs.memory(program) <= 8004 + 256
    donated = jax.jit(lambda a: a * 2, donate_argnums=0).lower(jnp.ones(1000)).compile()
    assert 4000 <= programs.memory(donated) <= 4000 + 256  # the result takes the argument's place


@pytest.fixture
def empty_cache(tmp_path):
    """A compilation cache of this test's own: another may have left the user's in place."""
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation_cache.reset_cache()
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
    compilation_cache.reset_cache()


def test_compiling_takes_its_time_every_time(empty_cache):
    folder = empty_cache

    def double(x):
        return x * 2.0 + 0.125

    ones = jnp.ones(3)  # another program
    before = set(folder.iterdir())
    work, _, plain, program, seconds = programs.compiled(jax.jit(double), ones)
    np.testing.assert_array_equal(program(ones), 2.125)
    assert work.flops == plain.flops == 2 * 3
    assert seconds > 0
    assert set(folder.iterdir()) == before
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.jit(lambda x: x * 3.0 + 0.0625)(jnp.ones(3))
    assert set(folder.iterdir()) > before  # other programs are kept as before


@pytest.mark.parametrize("features", [1, 8, 16])
def test_the_zeros_of_blocks_are_counted_apart(features):
    x, kernel = jnp.ones((2, 16, 16, 4)), jnp.ones((3, 3, 4, features))
    layer = convolutions.Conv(features, (3, 3), use_bias=False)

    @jax.jit
    def convolve(x, kernel):
        with convolutions.forms(convolutions.forms.value or "cpu"):
            return layer.apply({"params": {"kernel": kernel}}, x)

    work, _, plain, *_ = programs.compiled(convolve, x, kernel)
    taps = 3 * 16 - 2  # pairs of output and kernel rows that meet the image
    assert plain.flops == 2 * 2 * 4 * features * taps**2
    height, width = next(block for most, block in ((1, (4, 4)), (8, (2, 2)), (16, (1, 2))) if features <= most)
    blocks = [(n + 2) * 16 // n - 2 for n in (height, width)]  # the same, of blocks of n pixels and n + 2 taps
    assert work.flops == 2 * 2 * 4 * features * height * width * np.prod(blocks)
