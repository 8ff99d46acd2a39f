"""Profiles: a real one of the CPU, and planes laid out as a GPU's and as a CPU's are."""

import types

import jax
import jax.numpy as jnp
import pytest

from lgjax.speed import hlo, profile
from lgjax.speed.profile import Kernel


def event(name, start, duration, **stats):
    return types.SimpleNamespace(name=name, start_ns=float(start), duration_ns=float(duration), stats=stats.items())


def plane(name, **lines):
    found = [types.SimpleNamespace(name=line, events=events) for line, events in lines.items()]
    return types.SimpleNamespace(name=name, lines=found)


GPU = plane(
    "/device:GPU:0",
    **{
        "Stream #13(Compute)": [
            event("loop_add_fusion_2", 0, 3000, hlo_op="loop_add_fusion_2", hlo_module="jit_f"),
            event("sm90_xmma_fprop", 3000, 5000, hlo_op="cudnn-conv.4"),
            event("sm90_xmma_fprop", 9000, 6000, hlo_op="cudnn-conv.4"),
            event("sm90_xmma_fprop", 15000, 2000, hlo_op="cudnn-conv.5"),
        ],
        "Stream #14(MemcpyD2H)": [event("MemcpyD2H", 17000, 1000)],
        "XLA Ops": [event("cudnn-conv.4", 3000, 12000)],  # the same kernels, by operation
    },
)
OTHER_GPU = plane(
    "/device:GPU:1",
    **{"Stream #13(Compute)": [event("loop_add_fusion_2", 0, 1000, hlo_op="loop_add_fusion_2", hlo_module="jit_f")]},
)


HOST = plane("/host:CPU", python=[event("cudnn-conv.4", 0, 9e9, hlo_op="cudnn-conv.4", hlo_module="jit_f")])


def test_kernels_of_a_gpu_are_those_of_the_streams_of_all_devices():
    found = profile.kernels([HOST, GPU, OTHER_GPU], on_cpu=False)
    assert [kernel[:4] for kernel in found] == [
        ("", "cudnn-conv.4", "sm90_xmma_fprop", 2),
        ("jit_f", "loop_add_fusion_2", "loop_add_fusion_2", 2),
        ("", "cudnn-conv.5", "sm90_xmma_fprop", 1),
        ("", "", "MemcpyD2H", 1),
    ]
    assert [kernel.seconds for kernel in found] == pytest.approx([11e-6, 4e-6, 2e-6, 1e-6])


def test_what_the_host_does_never_stands_for_kernels_of_a_gpu():
    """Where nobody may look into a GPU, the host alone is seen, as it names the operations that it launches."""
    with pytest.raises(LookupError, match="saw nothing that a device ran"):
        profile.kernels([HOST], on_cpu=False)
    with pytest.raises(LookupError, match="saw nothing that a device ran"):
        profile.kernels([GPU], on_cpu=True)


def test_an_operation_of_a_cpu_lasts_until_its_end_in_another_thread():
    first = [
        event("while.1", 0, 90000, hlo_op="while.1"),  # the two below, twice
        event("call.2.clone", 0, 80000, hlo_op="call.2.clone"),
        event("conv", 10, 5, hlo_op="conv", hlo_module="jit_f"),
        event("copy.2", 200, 50, hlo_op="copy.2"),
        event("end: copy.2", 251, 0),
        event("conv", 1000, 5, hlo_op="conv", hlo_module="jit_f"),
        event("copy.2", 2000, 60, hlo_op="copy.2"),  # whose end is lost
        event("ThreadpoolListener::Record", 1001, 700),
    ]
    host = plane("/host:CPU", a=first, b=[event("end: conv", 1500, 1), event("end: conv", 110, 1)])
    other = plane("/host:CUPTI", a=[event("conv", 10, 9000, hlo_op="conv", hlo_module="jit_f")])
    found = profile.kernels([host, other], on_cpu=True)
    assert [kernel[:4] for kernel in found] == [("jit_f", "conv", "conv", 2), ("", "copy.2", "copy.2", 2)]
    assert [kernel.seconds for kernel in found] == pytest.approx([(100 + 500) * 1e-9, (51 + 60) * 1e-9])


@pytest.mark.parametrize("lost", [10, 500])
def test_the_end_of_one_run_never_stands_for_the_lost_end_of_another(lost):
    ends = {10: 110, 500: 600, 900: 1000}  # by start
    events = [event("conv", start, 5, hlo_op="conv") for start in ends]
    events += [event("end: conv", end, 1) for start, end in ends.items() if start != lost]
    (found,) = profile.kernels([plane("/host:CPU", a=events)], on_cpu=True)
    assert found.seconds == pytest.approx((5 + 100 + 100) * 1e-9)


def test_programs_of_the_same_operations_are_told_apart():
    """What asks for an operation of one program is not said of another program's."""
    events = [
        event("fusion", 100 * n, 90 - n, hlo_op="fusion", hlo_module=f"jit_{name}") for n, name in enumerate("fg")
    ]
    found = profile.kernels([plane("/host:CPU", a=events)], on_cpu=True)
    kept = profile.as_json(profile.Profile(profile.OPERATIONS, found, 1), "jit_f", {"fusion": "jit(f)/add"})
    assert [(one["module"], one["scope"]) for one in kept["longest"]] == [("jit_f", "jit(f)/add"), ("jit_g", "")]
    assert profile.OPERATIONS in profile.markdown("x", kept)


def test_a_profile_of_this_machine_finds_the_product_in_a_loop(mesh1):
    w = jnp.ones((400, 400)) / 400

    @jax.jit
    def products(x):
        with jax.named_scope("the_product"):
            return jax.lax.fori_loop(0, 7, lambda _, x: jnp.dot(x, w) + 1.0, x)

    program = products.lower(w).compile()
    program(w)[0].block_until_ready()
    text = program.as_text()
    what, found, iterations = profile.of(lambda: program(w), mesh1, 7)
    assert (what, iterations) == (profile.OPERATIONS, 7)
    scopes = hlo.scopes(text)
    (product,) = [kernel for kernel in found if scopes.get(kernel.operation, "").endswith("/dot_general")]
    assert product.module == hlo.module(text) == "jit_products"
    assert "the_product" in scopes[product.operation]
    assert product.runs == 7
    assert product.seconds > 7 * 2 * 400**3 / 1e13  # no machine is as fast
    assert not any(kernel.name.startswith("while") for kernel in found)


def test_a_record_keeps_the_longest_and_the_table_shows_them():
    many = [Kernel("", f"op{i}", f"k{i}", 2, 1e-3 / 2**i) for i in range(25)]
    found = profile.Profile(profile.KERNELS, many, 8)
    record = profile.as_json(found, "jit_f", {"op0": "jit(restore)/VAE/first", "k1": "no operation"})
    assert (record["kernels"], record["iterations"], len(record["longest"])) == (25, 8, 20)
    assert record["seconds"] == pytest.approx(2e-3, rel=1e-6)
    assert record["longest"][1]["share"] == pytest.approx(0.25, rel=1e-6)
    text = profile.markdown("vae", record)
    assert "vae: 25 kernels: 2 ms in 8 iterations" in text
    assert [word.strip() for word in text.splitlines()[4].split("|")[1:-1]] == [
        "k0",
        "50.0 %",
        "2",
        "500",
        "jit(restore)/VAE/first",
    ]
    assert record["longest"][1]["scope"] == ""
    assert len(text.splitlines()) == 2 + 2 + 20
