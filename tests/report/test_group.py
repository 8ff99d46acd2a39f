"""The table and the page of a cohort: numbers against SciPy on the files, what is unfinished, hostile text."""

import csv
import dataclasses
import datetime
import json
import pathlib
import re
import shutil
import subprocess
import sys

import derived
import images
import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT
from scipy import ndimage
from tags import Tags

from lgjax.derivatives import description, read, sidecar, write
from lgjax.derivatives.sidecar import Quality
from lgjax.detector import Detector
from lgjax.report import group, group_page
from lgjax.report.group import Cohort
from lgjax.report.text import NOTICE
from lgjax.runtime.errors import UsageError
from lgjax.scans import names

SCANS = ("sub-01_ses-a", "sub-01_ses-b", "sub-02_acq-tse", "sub-03", "sub-04", "sub-05")
EVIL = "<script>alert('x')</script>"


made = derived.detector


def promising() -> Detector:
    """Returns a method whose calibration promised volumes of false positives."""
    found = made()
    found.about["VolumeThresholds"] = {"10": 1.25, "0.5": 2.0}
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of six scans, whose headers state millimetres as those of scanners do."""
    folder = tmp_path_factory.mktemp("group")
    for number, name in enumerate(SCANS):
        brain = derived.brain(number)
        if name == "sub-05":
            brain[4:9, 6:18] *= 3  # a large lesion
        path = images.save(names.file(folder / "raw", name, "T2w.nii.gz"), brain, derived.GRID)
        image = nib.load(path)
        image.header.set_xyzt_units("mm")
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), None, image.header), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "picture", lambda *_: b"")
        patch.setattr(derived, "detector", promising)
        assert sorted(derived.restore(folder / "raw", folder / "out")) == sorted(SCANS)
    return folder / "out"


@pytest.fixture(scope="module")
def cohort(results):
    return group.survey(results, SCANS, everything=True)


def rows(table: str) -> dict[str, dict[str, str]]:
    return {row["bids_name"]: row for row in csv.DictReader(table.splitlines(), delimiter="\t")}


def test_numbers_are_those_of_the_files(results, cohort):
    found = rows(group.table(cohort))
    assert list(found) == [f"{name}_T2w" for name in SCANS]
    for name in SCANS:
        mask, brain, anomaly = (
            nib.load(sidecar.file(results, name, entities)).get_fdata()
            for entities in ("label-lesion_desc-fpr1_mask", "desc-brain_mask", "desc-anomaly_T2w")
        )
        millilitres = 8 * 8 * 20 / 1000
        labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
        row = found[f"{name}_T2w"]
        assert int(row["lesion_count"]) == count > 0
        assert float(row["lesion_ml"]) == pytest.approx(mask.sum() * millilitres, rel=1e-5)
        assert float(row["brain_ml"]) == pytest.approx(brain.sum() * millilitres, rel=1e-5)
        largest = max(ndimage.sum(mask, labels, range(1, count + 1)))
        assert float(row["largest_lesion_ml"]) == pytest.approx(largest * millilitres, rel=1e-5)
        assert float(row["peak"]) == pytest.approx(np.abs(anomaly[mask > 0]).max(), rel=1e-5)
        for volume in ("vol0p5", "vol10"):
            held = nib.load(sidecar.file(results, name, f"label-lesion_desc-{volume}_mask")).get_fdata()
            assert int(row[f"{volume}_lesion_count"]) == ndimage.label(held, np.ones((3, 3, 3)))[1]
            assert float(row[f"{volume}_lesion_ml"]) == pytest.approx(held.sum() * millilitres, rel=1e-5)
        assert float(row["vol0p5_lesion_ml"]) < float(row["lesion_ml"]) < float(row["vol10_lesion_ml"])
        assert int(row["slices"]) == brain.any((0, 1)).sum()
        assert (row["status"], row["midplane_score"], row["used_in_training"]) == ("finished", "n/a", "false")
        assert row["largest_lesion_p"] == "n/a"  # nobody has measured healthy scans
    ids = [(row["participant_id"], row["session_id"]) for row in found.values()]
    assert ids[:3] == [("sub-01", "ses-a"), ("sub-01", "ses-b"), ("sub-02", "n/a")]


def test_the_largest_lesion_is_held_against_healthy_scans(cohort):
    found = cohort.finished["sub-05"]
    volume = found.lesions[0].volume_ml
    healthy = [volume / 2, volume * 2, 0.0, volume]
    told = found._replace(sidecar=dataclasses.replace(found.sidecar, largest_false_positives=healthy))
    assert group.row("sub-05", told)["largest_lesion_p"] == 3 / 5


def test_how_like_healthy_scans_a_scan_is_is_shown(cohort):
    found = cohort.finished["sub-05"]
    unlike = Quality("amber", ["noise 0.3 sd, of healthy scans 0.1 to 0.2: a noisy scan? motion?"], {"noise": 0.3})
    told = found._replace(sidecar=dataclasses.replace(found.sidecar, quality=unlike))
    row = group.row("sub-05", told)
    assert (row["light"], row["qc_noise"], row["qc_tilt"]) == ("amber", 0.3, None)
    page = group_page.render(Cohort(cohort.finished | {"sub-05": told}, {}))
    assert "of healthy scans 0.1 to 0.2: a noisy scan? motion?" in page
    assert "sub-05_T2w: 0.3 sd" in page
    earlier = found._replace(sidecar=dataclasses.replace(found.sidecar, quality=None))
    assert group.row("sub-05", earlier)["light"] is None


def test_masks_of_promised_volumes_are_those_that_scans_have(cohort, results, tmp_path):
    """Of an earlier calibration there are none; a mask that is gone makes its scan unfinished."""
    first, *others = cohort.finished
    earlier = cohort.finished[first]._replace(promised={})
    mixed = Cohort({**cohort.finished, first: earlier}, {})
    assert rows(group.table(mixed))[f"{first}_T2w"]["vol10_lesion_ml"] == "n/a"
    assert rows(group.table(mixed))[f"{others[0]}_T2w"]["vol10_lesion_ml"] != "n/a"
    assert "vol10_lesion_ml" not in group.table(Cohort({first: earlier}, {}))
    assert "vol10 lesion ml" in group_page.render(cohort)
    assert "0.5 mL: 2, 10 mL: 1.25" in group_page.render(cohort)
    folder = shutil.copytree(results, tmp_path / "out")
    sidecar.file(folder, first, "label-lesion_desc-vol10_mask").unlink()
    assert list(group.survey(folder, SCANS, everything=True).unfinished) == [first]


def test_the_dictionary_explains_every_column(cohort):
    columns = group.table(cohort).splitlines()[0].split("\t")
    about = json.loads(group.dictionary(cohort))
    assert list(about) == columns
    assert all(entry["Description"] for entry in about.values())
    assert about["lesion_ml"]["Units"] == "mL"
    assert "at 1 % false positives" in about["lesion_ml"]["Description"]
    assert about["vol10_lesion_ml"]["Units"] == "mL"
    assert "mask with 10 mL of false positives at most, on average" in about["vol10_lesion_ml"]["Description"]
    assert columns[-4:] == [f"{name}_lesion_{what}" for name in ("vol0p5", "vol10") for what in ("count", "ml")]
    assert about["peak"]["Units"] == "standard deviations of the brain"
    assert set(about["status"]["Levels"]) == {"finished", "unfinished"}


def test_what_is_unfinished_is_listed_with_its_reason(results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "out")
    sidecar.file(folder, SCANS[0], sidecar.ANOMALY, "json").unlink()
    damaged = sidecar.file(folder, SCANS[2], "desc-brain_mask")
    damaged.write_bytes(damaged.read_bytes()[:40])
    record = {"Runs": [], "Scans": {"sub-98": {"Outcome": "failed", "Message": "is no T2w scan"}}}
    (folder / "results.json").write_text(json.dumps(record))
    found = group.survey(folder, [*SCANS, "sub-99"], everything=True)
    assert list(found.finished) == [SCANS[1], *SCANS[3:]]
    assert list(found.unfinished) == [SCANS[0], SCANS[2], "sub-98", "sub-99"]
    reasons = ("unfinished", "truncated|damaged", "^is no T2w scan$", "no result")
    for name, told in zip(found.unfinished, reasons, strict=True):
        assert re.search(told, found.unfinished[name])
        assert str(tmp_path) not in found.unfinished[name]
    row = rows(group.table(found))["sub-99_T2w"]
    assert [value for value in row.values() if value != "n/a"] == ["sub-99_T2w", "sub-99", "unfinished"]
    page = group_page.render(found)
    assert "4 scans with results, 4 without" in page
    assert "is no T2w scan" in page
    chosen = group.survey(folder, [SCANS[0], SCANS[1]], everything=False)
    assert (list(chosen.finished), list(chosen.unfinished)) == ([SCANS[1]], [SCANS[0]])


def test_results_of_two_methods_are_not_mixed(results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "out")
    path = sidecar.file(folder, SCANS[1], sidecar.ANOMALY, "json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"Method": "other"}))
    with pytest.raises(UsageError, match="mixes experiments"):
        group.survey(folder, SCANS, everything=True)


def test_the_page_shows_every_scan_the_most_lesion_first(cohort):
    page = group_page.render(cohort)
    tags = Tags(page)
    assert NOTICE in page
    assert "6 scans with results, 0 without" in page
    (made,) = re.findall(r"lgjax group report · (\d{4}-\d\d-\d\d \d\d:\d\d) UTC", page)
    made = datetime.datetime.fromisoformat(f"{made}+00:00")
    assert datetime.timedelta() <= datetime.datetime.now(datetime.UTC) - made < datetime.timedelta(minutes=2)
    shown = [link["href"] for link in tags.all("a") if link["href"].startswith("sub-")]
    volumes = {name: sum(one.volume_ml for one in found.lesions) for name, found in cohort.finished.items()}
    ordered = sorted(volumes, key=lambda name: -volumes[name])
    assert ordered[0] == "sub-05"
    assert shown == [f"{names.subject(name)}/figures/{name}_space-orig_desc-anomaly_T2w.png" for name in ordered]
    far = [line for line in tags.all("line") if line.get("class") == "far"]
    assert far
    assert "sub-05_T2w: " in page
    assert {tag for tag, _ in tags.seen}.isdisjoint({"script", "img", "iframe", "object", "form"})
    assert "://" not in page  # nothing is fetched
    (policy,) = [meta for meta in tags.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"].startswith("default-src 'none'")


def test_hostile_text_stays_text(cohort):
    (first, *_) = cohort.finished.values()
    noted = first._replace(sidecar=dataclasses.replace(first.sidecar, warnings=[EVIL], version=EVIL))
    hostile = Cohort({f"sub-{EVIL}": noted}, {f'sub-"{EVIL}': f"{EVIL}\t\n=1+1"})
    page = group_page.render(hostile)
    Tags(page)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5
    lines = group.table(hostile).split("\n")
    assert len(lines) == 4
    assert {line.count("\t") for line in lines[:3]} == {len(group.NAMES) + len(group.columns(hostile)) - 1}


def test_a_cohort_without_any_result_still_has_a_page():
    page = group_page.render(Cohort({}, {"sub-01": "is truncated"}))
    assert "0 scans with results, 1 without" in page
    Tags(page)


def test_the_validator_finds_no_error_and_every_warning_is_answered(results, cohort, tmp_path):
    folder = shutil.copytree(results, tmp_path / "out")
    description.describe(folder, "restorations")
    for ending, content in (("tsv", group.table(cohort)), ("json", group.dictionary(cohort)), ("html", "page")):
        (folder / f"{group.NAME}.{ending}").write_text(content)
    validator = pathlib.Path(sys.executable).with_name("bids-validator-deno")
    found = subprocess.run([validator, folder, "--format=json"], capture_output=True, text=True, check=False)
    issues = json.loads(found.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    warnings = {issue["code"] for issue in issues}
    assert warnings == {"README_FILE_MISSING", "TOO_FEW_AUTHORS"}
    answered = set(re.findall(r"`([A-Z_]{8,})`", (ROOT / "docs" / "own_bids.md").read_text()))
    assert warnings <= answered
    assert len(read.read_predictions(folder)[0]) == len(SCANS)  # the table is nobody's map
