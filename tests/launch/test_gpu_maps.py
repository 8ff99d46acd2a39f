"""What is fast is compared with what is exact: rounding passes, and a wrong result is told."""

import json

import numpy as np
import pytest

from benchmarks import gpu_maps
from lgjax.models import convolutions


def test_differences_are_medians_inside_the_mask_in_standard_deviations():
    mask = np.array([1.0, 1, 1, 0])
    exact = {"reconstruct": np.array([0.0, 4, 0, 4]), "variance": np.array([1.0, 3, 1, 3]), "restored": np.zeros(4)}
    found = {part: value + np.array([0.2, 0.2, 9, 9]) for part, value in exact.items()}
    expected = {"reconstruct": 0.1, "variance": 0.2, "restored": 0.2}
    assert gpu_maps.differences(exact, found, mask) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "part", "largest"),
    [("tensorfloat32", "variance", 0.01), ("bfloat16", "reconstruct", 0.05), ("bfloat16", "restored", 0.001)],
)
def test_more_than_rounding_is_told(kind, part, largest):
    assert gpu_maps.faults("fast", {part: largest}, kind) == []
    assert gpu_maps.faults("fast", {part: np.nan}, kind) != []
    (told,) = gpu_maps.faults("fast", {part: 1.1 * largest}, kind)
    assert told.startswith(f"fast: {part} differs by")


def test_bfloat16_rounds_and_is_told_where_maps_may_not_differ(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_maps, "VARIANTS", {"bfloat16": {"precision": "bfloat16"}})
    monkeypatch.setattr(gpu_maps, "OF_MAPS", 0.0)
    output = tmp_path / "maps.json"
    assert gpu_maps.main(["--device=cpu", "--smoke", f"--output={output}"]) == 1
    found = json.loads(output.read_text())["differences"]["bfloat16"]
    assert 0 < found["restored"] < 1e-4
    assert all(1e-4 < found[part] < gpu_maps.LARGEST["bfloat16"] for part in ("reconstruct", "variance"))
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error: ")]
    assert told.startswith("error: bfloat16: restored differs by")


def test_a_refused_kernel_is_told_and_stops_no_other_variant(tmp_path, monkeypatch, capsys):
    """Pallas refuses to compile for a CPU, as the compiler of a GPU may; kernels of ours are asked themselves."""
    variants = {name: values for name, values in gpu_maps.VARIANTS.items() if values["precision"] == "tensorfloat32"}
    monkeypatch.setattr(gpu_maps, "VARIANTS", variants)
    output = tmp_path / "maps.json"
    with convolutions.forms("NVIDIA H200"):
        assert gpu_maps.main(["--device=cpu", "--smoke", f"--output={output}"]) == 1
    record = json.loads(output.read_text())
    assert list(record["differences"]) == ["tensorfloat32, plain forms", "tensorfloat32, one graph"]
    assert list(record["differences"]["tensorfloat32, one graph"]) == ["restored"], "by what its device takes"
    (told,) = record["faults"]
    assert told.startswith("tensorfloat32: ")
    assert f"error: {told}" in capsys.readouterr().out
