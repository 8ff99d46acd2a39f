"""Maps of one method are not replaced by those of another."""

import json

import derived
import images
import pytest

from lgjax.batch import restorations
from lgjax.derivatives import occupied
from lgjax.derivatives.sidecar import file
from lgjax.runtime.errors import UsageError
from lgjax.scans import sources


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
        occupied.checked_folder(tmp_path, here)
    with pytest.raises(UsageError, match=message):
        occupied.check_scan(tmp_path, identifier, here)
    occupied.check_scan(tmp_path, "sub-00", here)


def test_a_folder_is_read_once_before_the_work(tmp_path, monkeypatch):
    """10,000 sidecars are 10,000 requests to a file server."""
    for number in range(2):
        images.save(tmp_path / "in" / f"s{number}.nii.gz", derived.brain(number), derived.GRID)
    folder, subjects = tmp_path / "out", sources.find(str(tmp_path / "in"))
    assert restorations.restore(derived.detector(), subjects, folder, 1).skipped == 0
    seen, told = [], occupied.told
    monkeypatch.setattr(occupied, "told", lambda path: seen.append(path.name) or told(path))
    before = restorations.checked_place(folder, "intensity", subjects, [str(tmp_path / "in")])
    monkeypatch.setattr(restorations, "work", lambda *_: seen.append("work begins"))
    restorations.restore(derived.detector(), subjects, folder, 1, before=before)
    assert sorted(seen[: seen.index("work begins")]) == [
        file(folder, subject.identifier, "desc-anomaly_T2w", "json").name for subject in subjects
    ]


@pytest.mark.parametrize("content", [{"Method": "gmm"}, "", "{", "[]", "null", {"Score": "signed"}])
def test_the_same_method_goes_on_and_unfinished_scans_are_nobodys(tmp_path, content):
    finished(tmp_path, "sub-01", content)
    occupied.checked_folder(tmp_path, "gmm")
    occupied.check_scan(tmp_path, "sub-01", "gmm")
    occupied.checked_folder(tmp_path / "absent", "gmm")
    occupied.check_scan(tmp_path / "absent", "sub-01", "gmm")


ABOUT = {
    "Method": "gmm",
    "WeightsSHA256": "w",
    "Lambda": 0.5,
    "Thresholds": {"0.01": 2.5},
    "MaskRate": "0.01",
    "PValues": {"Scans": 3},
    "Version": "1",
    "Device": "d",
}
WHOLE = {**ABOUT, "Quality": {"light": "green"}}


def whole(folder, identifier, content):
    finished(folder, identifier, content)
    file(folder, identifier, "seg-lesions_desc-fpr1_dseg", "tsv").touch()


def test_maps_of_other_weights_settings_or_versions_are_told(tmp_path):
    whole(tmp_path, "sub-same", {**WHOLE, "Device": "other", "SourceSHA256": "x"})
    others = {"WeightsSHA256": "v", "Lambda": 0.6, "Thresholds": {"0.01": 2.6}, "PValues": None}
    for key, value in others.items():
        whole(tmp_path, f"sub-{key}", {**WHOLE, key: value})
    whole(tmp_path, "sub-Version", {**WHOLE, "Version": "0"})
    for key in ("PValues", "Quality"):
        whole(tmp_path, f"sub-no{key}", {name: value for name, value in WHOLE.items() if name != key})
    finished(tmp_path, "sub-notable", WHOLE)
    finished(tmp_path, "sub-broken", "{")
    earlier = ["sub-Version", "sub-noPValues", "sub-noQuality", "sub-notable"]
    names = ["sub-same", *(f"sub-{key}" for key in others), *earlier, "sub-broken", "sub-absent"]
    assert occupied.outdated(tmp_path, occupied.sidecars(tmp_path, names), ABOUT) == {
        "other weights or settings": [f"sub-{key}" for key in others],
        "another version of lgjax": earlier,
    }


def taken(folder, path, key):
    """Takes from an output what earlier versions did not write: a file, or a key of the sidecar."""
    if path:
        path.unlink()
    sidecar = file(folder, "sub-x", "desc-anomaly_T2w", "json")
    content = json.loads(sidecar.read_text())
    content.pop(key, None)
    sidecar.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("entities", "key"), [("seg-lesions_desc-fpr1_dseg", ""), ("", "Quality"), ("", "LargestFalsePositives")]
)
def test_what_an_earlier_version_left_out_is_made(tmp_path, caplog, entities, key):
    """And what today's version has finished with the same detector is not restored again."""
    caplog.set_level("INFO", "lgjax")
    folder, scans = (
        tmp_path / "out",
        sources.find(str(images.save(tmp_path / "x.nii.gz", derived.brain(), derived.GRID))),
    )
    detector = derived.detector()
    detector.about |= {"LargestFalsePositives": [0.5, 1.25]}
    restorations.restore(detector, scans, folder, 1)
    taken(folder, "", "Kernels")  # which changes nothing of the content
    assert restorations.restore(detector, scans, folder, 1).skipped == 1
    assert "made anew" not in caplog.text
    taken(folder, entities and file(folder, "sub-x", entities, "tsv"), key)
    assert restorations.restore(detector, scans, folder, 1).skipped == 0
    assert f"made anew: 1 map in {folder} of another version of lgjax: sub-x" in caplog.text
    assert restorations.restore(detector, scans, folder, 1).skipped == 1
