"""Kernels of programs for CUDA: counts against counts by hand and XLA's own, laws against closed forms."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from benchmarks import cuda_kernels, cuda_model, cuda_tables, cuda_thunks, pages
from benchmarks.cuda_kernels import Kernel
from benchmarks.cuda_model import LAWS, Peaks
from lgjax.speed import hlo

# What XLA compiled for an H200 of five iterations, in which y = leaky_relu(conv(x, k) + b) for x of [64, 16, 16, 8], k
# of [3, 3, 8, 8]; z = tanh(part(x) @ w) for w of [256, 512]; x = y + mean(z), trace[i] = sum |y|.
LOOP = (ROOT / "tests/speed/cuda_loop.hlo").read_text()
X, K, B, W, PART = 64 * 16 * 16 * 8, 3 * 3 * 8 * 8, 8, 256 * 512, 64 * 256  # elements
BY_HAND = [  # of one iteration: kind, bytes, operations
    ("copy", 4 * (PART + PART), 0),  # part of x
    ("triton", 4 * (PART + W + 4 * 64 * 512), 2 * 64 * 256 * 512),  # four parts of a sum
    ("reduction", 4 * (4 * 64 * 512 + 64 * 512), 0),  # their sum, tanh
    ("reduction", 4 * (64 * 512 + 128), 0),
    ("reduction", 4 * (128 + 1), 0),
    ("convolution", 4 * (X + K + B + X), 2 * X * 3 * 3 * 8),
    ("reduction", 4 * (X + 1 + 256 + X), 0),  # leaky_relu, y + mean(z), sums of |y|
    ("reduction", 4 * (256 + 1), 0),
    ("elementwise", 4 * (1 + 1 + 1 + 1), 0),  # trace[i], sum and i are read, trace[i] is written
    ("elementwise", 4 * (1 + 1), 0),  # i + 1
]
ONCE = [("copy", 8, 0), ("copy", 8 * X, 0), ("copy", 4 * 5, 0), ("copy", 8 * K, 0)]
PEAKS = Peaks(bytes=4e12, flops=400e12)


def test_the_kernels_of_a_loop_are_those_counted_by_hand():
    found = list(cuda_kernels.kernels(hlo.parse(LOOP)))
    assert [(one.kind, one.bytes, one.flops) for one in found] == ONCE + BY_HAND
    assert [one.times for one in found] == [1] * len(ONCE) + [5] * len(BY_HAND)
    of_unit = cuda_kernels.of_unit(found, 5)
    assert [(one.kind, one.bytes, one.flops) for one in of_unit] == BY_HAND
    assert {one.times for one in of_unit} == {1}
    assert cuda_kernels.of_unit(found, 0) == found


FUNCTIONS = {
    "a slice": lambda x: jnp.tanh(x[:, 3:40]) * 2,
    "a reduction": lambda x: jnp.exp(x).sum(1) + 1,
    "a product": lambda x: jnp.exp(x).T @ jnp.cos(x),
    "moves": lambda x: jnp.concatenate([jnp.flip(x, 0), x * 2], 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bytes_are_those_that_xla_counts(name):
    compiled = jax.jit(FUNCTIONS[name]).lower(jnp.ones((64, 128))).compile()
    found = cuda_kernels.kernels(hlo.parse(compiled.as_text()))
    assert sum(one.bytes for one in found) == compiled.cost_analysis()["bytes accessed"]


def _entry(*lines: str) -> hlo.Program:
    return hlo.parse("\n".join(["ENTRY %main (p: f32[]) -> f32[] {", *lines, "}"]))


CALLS = {  # by the operations of a convolution of 2 x 8 x 8 x 3 -> 2 x 4 x 4 x 5 by 3 x 3, or of a product
    "__cudnn$convForward": ("2,8,8,3", "5,3,3,3", "2,4,4,5", 2 * (2 * 4 * 4 * 5) * 3 * 3 * 3),
    "__cudnn$convBackwardInput": ("2,4,4,5", "5,3,3,3", "2,8,8,3", 2 * (2 * 4 * 4 * 5) * 3 * 3 * 3),
    "__cudnn$convBackwardFilter": ("2,8,8,3", "2,4,4,5", "5,3,3,3", 2 * (2 * 4 * 4 * 5) * 3 * 3 * 3),
    "__cublas$gemm": ("6,7", "7,9", "6,9", 2 * 6 * 7 * 9),
}


@pytest.mark.parametrize("target", CALLS)
@pytest.mark.parametrize(("dtype", "size"), [("f32", 4), ("bf16", 2)])
def test_calls_of_libraries_have_the_operations_of_what_they_compute(target, dtype, size):
    *shapes, flops = CALLS[target]
    left, right, result = (f"{dtype}[{shape}]" for shape in shapes)
    program = _entry(
        f"  %a = {left}{{0}} parameter(0)",
        f"  %b = {right}{{0}} parameter(1)",
        f"  ROOT %c = ({result}{{0}}, u8[0]{{0}}) custom-call(%a, %b), dim_labels=b01f_o01i->b01f, "
        f'custom_call_target="{target}", backend_config={{"gemm_backend_config":{{"dot_dimension_numbers":'
        '{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}',
    )
    (found,) = cuda_kernels.kernels(program)
    elements = sum(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)
    assert (found.flops, found.bytes) == (flops, size * elements)


def test_operations_of_our_own_kernels_are_told_by_name():
    call = 'f32[9]{0} custom-call(%a), custom_call_target="__gpu$xla.gpu.triton"'
    lines = [
        f'  %{name} = {call}, metadata={{op_name="{scope}"}}'
        for name, scope in {"c": "while/vmap(second)/pallas_call", "d": "while/first/pallas_call"}.items()
    ]
    program = _entry("  %a = f32[6]{0} parameter(0)", *lines)
    found = cuda_kernels.kernels(program, {"first": 30.0, "second": 70.0})
    assert [(one.kind, one.bytes, one.flops) for one in found] == [
        (cuda_kernels.OWN, 60, 70),
        (cuda_kernels.OWN, 60, 30),
    ]
    with pytest.raises(ValueError, match="what this kernel computes is not known"):
        cuda_kernels.kernels(program, {"first": 30.0})


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="how often it runs is not known"):
        list(cuda_kernels.kernels(hlo.parse(LOOP.replace("known_trip_count", "unknown"))))


def test_a_branch_is_refused():
    program = _entry("  ROOT %c = f32[] conditional(), true_computation=%a, false_computation=%b")
    with pytest.raises(ValueError, match="which branch is taken is not known"):
        list(cuda_kernels.kernels(program))


THUNKS = """000: kCommandBuffer [source | sink]
    001: kCopy [source | sink] kCopy
    002: kWhile [prev=001 | sink]
condition:
        003: kCustomKernel [source | sink] loop_compare_fusion
      body:
        004: kConvolution [source | next=005] kConvolution
{second}"""


@pytest.mark.parametrize(
    ("second", "expected"), [("005: kCopy [source | sink]", True), ("005: kWhile [source | sink]", False)]
)
def test_loops_within_command_buffers_are_captured(second, expected):
    assert cuda_thunks.captured(THUNKS.format(second=second)) is expected


def test_a_command_buffer_within_a_loop_does_not_capture_the_loop():
    assert not cuda_thunks.captured(
        "000: kWhile [source]\n  body:\n    001: kCommandBuffer [source]\n        002: kCopy []"
    )


def test_text_of_something_else_is_refused():
    with pytest.raises(ValueError, match="no entry computation"):
        hlo.parse("module @jit_f {}")


def test_lines_of_a_record_keep_the_kernels():
    kernels = [Kernel("copy", 0.05, 10, 0), Kernel("copy", 1, 10, 0), Kernel("product", 2, 30, 40)]
    assert cuda_kernels.read(cuda_kernels.written(kernels)) == [Kernel("copy", 1.05, 10, 0), kernels[2]]


def _times(*kernels: tuple[float, float, float], precision: str = "tensorfloat32") -> cuda_model.Times:
    """Returns the times of kernels: how often, MB, GFLOP."""
    found = [Kernel("", count, int(1e6 * size), int(1e9 * flops)) for count, size, flops in kernels]
    return cuda_model.times(found, PEAKS, precision)


def test_the_least_time_is_that_of_bytes_or_of_operations():
    times = _times((3, 4, 0), (1, 4, 1))
    np.testing.assert_allclose(times.least, [1e-6, 2.5e-6])
    assert times.launches == 4
    assert times.floor == pytest.approx(5.5e-6)
    np.testing.assert_allclose(_times((1, 4, 1), precision="bfloat16").least, [1.25e-6])


def test_laws():
    times = _times((2, 4, 0), (1, 40, 0))  # 1, 1 and 10 us
    found = {name: law(times, 5e-6, 2.0) for name, law in LAWS.items()}
    assert found == pytest.approx({"sum": 24e-6 + 15e-6, "each": 5e-6 + 5e-6 + 20e-6, "host": 24e-6})
    assert LAWS["host"](times, 9e-6, 2.0) == pytest.approx(27e-6)


MEASURED = {
    "small kernels": _times((200, 2, 0)),
    "large kernels": _times((20, 400, 0)),
    "both": _times((100, 1, 0), (30, 100, 0), (10, 10, 30)),
    "many": _times((500, 8, 0), (50, 60, 0)),
}


@pytest.mark.parametrize("law", LAWS)
def test_a_fit_finds_the_numbers_that_made_the_measurements(law):
    seconds = {name: LAWS[law](times, 6e-6, 1.5) for name, times in MEASURED.items()}
    found = cuda_model.fit(LAWS[law], MEASURED, seconds)
    assert (found.fixed, found.factor) == pytest.approx((6e-6, 1.5), rel=1e-3)
    assert found.errors == pytest.approx([0] * 4, abs=1e-3)


def test_the_error_of_a_program_that_the_fit_has_not_seen():
    seconds = {name: LAWS["sum"](times, 6e-6, 1.5) for name, times in MEASURED.items()}
    found = cuda_model.fit(LAWS["sum"], MEASURED, seconds | {"both": 2 * seconds["both"]})
    assert found.unseen[2] == pytest.approx(-0.5, abs=1e-3)  # the others say the half
    assert abs(found.errors[2]) < 0.5


def test_tables_show_the_runs_of_a_record_side_by_side():
    lines = {"a": ["3 copy 4000000 0"], "b": ["2 copy 4000000 0", "1 product 8000000 2000000000"]}
    told = {run: {"captured": run == "b", "once": 7, "kernels": rows} for run, rows in lines.items()}
    del told["a"]["once"]  # as in older records
    runs = {run: {"programs": {"restoration": {"tensorfloat32": one}}} for run, one in told.items()}
    found = {"sum": cuda_model.Fit(5e-6, 2.0, [], []), "each": cuda_model.Fit(100e-6, 1.0, [], [])}
    row = cuda_tables.programs({"runs": runs}, ["a", "b"], PEAKS, found).splitlines()[-1]
    cells = [cell.strip() for cell in row.split("|")[3:-1]]
    assert cells == [
        "3 → 3",
        "– → 7",
        "no → yes",
        "0.012 → 0.016",
        "0 → 2",
        "0.003 → 0.007",
        "0.30 (0.02–0.30) → 0.01–0.30",
    ]


def test_measured_seconds_are_of_methods_and_of_a_training_step():
    method = {"vae_lg_neural_tv": {"seconds_per_iteration": {"median": 0.002}}}
    training = {"vae": {"steps_per_second": {"median": 125.0}}}
    found = cuda_tables.measured({"methods": method, "training": training})
    assert found == {"vae_lg_neural_tv": 0.002, cuda_tables.TRAINING: 0.008}


def _record() -> tuple[dict, dict]:
    folder = ROOT / "benchmarks"
    record, bench = (json.loads((folder / name).read_text()) for name in ("cuda_programs.json", "bench_h200.json"))
    return record, bench


def test_the_page_shows_the_tables_of_the_record():
    page = cuda_tables.PAGE.read_text(encoding="utf-8")
    assert pages.written(page, cuda_tables.WRITER, cuda_tables.markdown(*_record())) == page


def test_the_shares_of_the_readme_are_those_of_the_record():
    record, bench = _record()
    peaks = Peaks(bench["peaks"]["bytes"], bench["peaks"]["flops"])
    rows = cuda_tables.shares(record, bench, peaks).splitlines()[2:]
    first, second, third, _ = (row.split("|")[-2].split()[0] for row in rows)
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"about {first}, {second} and {third} % with what cuDNN reads and writes" in readme


def test_one_commit_has_all_counts_but_those_before():
    commits = {run: found["commit"] for run, found in _record()[0]["runs"].items()}
    assert len({commit for run, commit in commits.items() if run != cuda_tables.MEASURED}) == 1


def test_shares_are_those_of_the_bytes_of_all_kernels():
    """4 GB of which cuDNN has 3, at 4 TB/s, of 2 ms that were measured."""
    kernels = {"kernels": ["1 convolution 3000000000 0", "2 copy 500000000 0"]}
    record = {
        "runs": {
            "before": {
                "programs": {"restoration": {"tensorfloat32": kernels}, "training of vae": {"tensorfloat32": kernels}}
            }
        }
    }
    bench = {
        "methods": {"restoration": {"seconds_per_iteration": {"median": 0.002}, "bytes": 1.1e9}},
        "training": {"vae": {"steps_per_second": {"median": 250.0}, "bytes": 1.2e9}},
    }
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]] for row in cuda_tables.shares(record, bench, PEAKS).splitlines()
    ]
    assert rows[2:] == [
        ["restoration", "2.00", "1.10", "1.00", "4.00", "1.00", "50 %"],
        ["training of vae", "4.00", "1.20", "1.00", "4.00", "1.00", "25 %"],
    ]
