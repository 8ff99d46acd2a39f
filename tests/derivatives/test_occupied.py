"""Maps of one method are not replaced by those of another."""

import json

import pytest

from lgjax.derivatives import occupied
from lgjax.derivatives.sidecar import file
from lgjax.runtime.errors import UsageError


def finished(folder, identifier, content):
    path = file(folder, identifier, "desc-anomaly_T2w", "json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize("identifier", ["sub-01", "sub-A1_ses-02_run-1"])
@pytest.mark.parametrize(
    ("there", "here"), [("intensity", "gmm"), ("vae_lg_neural_tv", "vae_lg_neural_l1"), ("dae", "")]
)
def test_maps_of_another_method_stay(tmp_path, identifier, there, here):
    finished(tmp_path, "sub-00", {"Method": here})
    finished(tmp_path, identifier, {"Method": there})
    message = (
        f"holds maps of {there} .*{identifier}.*, and {here} would replace them. Use another output folder, such as"
    )
    with pytest.raises(UsageError, match=message):
        occupied.check_folder(tmp_path, here)
    with pytest.raises(UsageError, match=message):
        occupied.check_scan(tmp_path, identifier, here)
    occupied.check_scan(tmp_path, "sub-00", here)


@pytest.mark.parametrize("content", [{"Method": "gmm"}, "", "{", "[]", "null", {"Score": "signed"}])
def test_the_same_method_goes_on_and_unfinished_scans_are_nobodys(tmp_path, content):
    finished(tmp_path, "sub-01", content)
    occupied.check_folder(tmp_path, "gmm")
    occupied.check_scan(tmp_path, "sub-01", "gmm")
    occupied.check_folder(tmp_path / "absent", "gmm")
    occupied.check_scan(tmp_path / "absent", "sub-01", "gmm")


def test_maps_of_other_weights_or_settings_are_told(tmp_path):
    about = {
        "Method": "gmm",
        "WeightsSHA256": "w",
        "Lambda": 0.5,
        "Thresholds": {"0.01": 2.5},
        "Version": "1",
        "Device": "d",
    }
    finished(tmp_path, "sub-same", {**about, "Device": "other", "SourceSHA256": "x"})
    for key, value in {"WeightsSHA256": "v", "Lambda": 0.6, "Thresholds": {"0.01": 2.6}, "Version": "0"}.items():
        finished(tmp_path, f"sub-{key}", {**about, key: value})
    finished(tmp_path, "sub-broken", "{")
    names = ["sub-same", "sub-WeightsSHA256", "sub-Lambda", "sub-Thresholds", "sub-Version", "sub-broken", "sub-absent"]
    assert occupied.outdated(tmp_path, names, about) == names[1:5]
