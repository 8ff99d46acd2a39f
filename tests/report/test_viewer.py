"""The viewer's pages as text: self-contained, escaped, with a policy that lets nothing else in."""

import base64
import dataclasses
import gzip
import hashlib
import re

import derived
import images
import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT
from tags import Tags

import lgjax
from lgjax.derivatives.read import read_predictions
from lgjax.report import show, viewer
from lgjax.report.text import NOTICE
from lgjax.report.viewer import Line, Shown
from lgjax.scans import sources

EVIL = "</script><script>alert('x')</script>"
OBLIQUE = np.array([[-1.9, 0.3, -0.2, 21.0], [0.4, 1.6, 0.6, -17.0], [0.1, -0.5, 2.8, -15.0], [0, 0, 0, 1]])


def shown(**changes) -> Shown:
    """Returns a made-up scan with a lesion on an oblique, sheared and mirrored grid."""
    scan = images.head((24, 28, 20))
    brain = scan > 0
    anomaly = np.where(brain, np.random.default_rng(1).gamma(1.0, 0.15, scan.shape), 0).astype(np.float32)
    anomaly[14:18, 10:15, 8:12] += 3
    reference = np.zeros(scan.shape, bool)
    reference[13:18, 10:14, 8:12] = True
    reference[5, 20, 10] = True
    found = Shown(
        "sub-1", "mirror_tv3d", "sd", OBLIQUE, scan, brain, anomaly, 0.5 * scan, anomaly > 2, reference,
        {"0.001": 3.0, "0.01": 2.0}, "0.01",
    )  # fmt: skip
    return found._replace(**changes)


@pytest.fixture(scope="module")
def page():
    return viewer.page(shown(), "sub-0", "sub-2", index=True)


def test_names_are_escaped():
    page = viewer.page(shown(identifier=f"sub-1{EVIL}", about=EVIL, method=EVIL, unit=EVIL), f"sub-0{EVIL}")
    assert page.count("<script") == len(re.findall("<script", viewer.page(shown())))
    assert "&lt;script&gt;alert" in page
    listed = viewer.index([Line(f"sub-1{EVIL}", EVIL, 1.0, None, None)], "0.01")
    assert "<script" not in listed
    for found in (page, listed):
        Tags(re.sub("<input[^>]*>", "", found.replace("<!DOCTYPE html>", "")))
        addresses = re.findall(r'href="([^"]*)"', found)
        assert addresses
        assert all(re.fullmatch(r"[A-Za-z0-9_.%-]+", address) for address in addresses)


def test_only_the_scripts_of_the_page_may_run(page):
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts}
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert set(rules["script-src"].split()) == hashes
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "data: blob:"
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)


def test_the_vendored_program_is_the_released_one():
    folder = ROOT / "lgjax" / "report" / "vendor"
    licence = (folder / "niivue.LICENSE.txt").read_text()
    assert hashlib.sha256((folder / "niivue.umd.js").read_bytes()).hexdigest() in licence
    assert "Redistributions in binary form must reproduce" in licence
    assert licence.splitlines()[-1] in viewer.page(shown())  # every copy of the program brings its licence


def test_the_page_says_what_a_reader_must_know(page):
    assert NOTICE in page
    assert "Reference: 2 lesions" in page
    assert "Detected at 1 %: 1 lesion" in page
    assert 'href="sub-0.html"' in page
    assert 'href="sub-2.html"' in page
    assert "index.html" not in viewer.page(shown())


def embedded(page: str) -> dict[str, nib.Nifti1Image]:
    """Returns the volumes of a page by the name of their layer."""
    found = re.findall(r'id="data-(\w+)">([^<]*)<', page)
    return {name: nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text))) for name, text in found}


def test_the_volumes_are_those_of_the_scan_where_they_lie(page):
    made, held = shown(), embedded(page)
    assert list(held) == ["scan", "restored", "anomaly", "detected", "reference"]
    for name, image in held.items():
        whole = np.asarray(getattr(made, name), np.float32)
        voxels = np.indices(image.shape).reshape(3, -1).T
        there = nib.affines.apply_affine(np.linalg.inv(OBLIQUE) @ image.affine, voxels)
        np.testing.assert_allclose(there, np.round(there), atol=1e-4)
        expected = whole[tuple(np.round(there).astype(int).T)]
        found = image.get_fdata()[tuple(voxels.T)]
        found = found > 0 if name in ("detected", "reference") else found
        np.testing.assert_allclose(found, expected, atol=float(np.ptp(whole)) / 1000)
        assert np.count_nonzero(whole) == np.count_nonzero(expected)  # all of the brain is there


def test_what_is_not_there_is_not_shown():
    page = viewer.page(shown(restored=None, detected=None, reference=None, thresholds={}))
    assert list(embedded(page)) == ["scan", "anomaly"]
    assert "Calibrated thresholds" not in page
    broken = shown().scan.copy()
    broken[12, 14, 10] = np.nan
    assert np.isfinite(embedded(viewer.page(shown(scan=broken)))["scan"].get_fdata()).all()
    nothing = np.zeros(broken.shape, bool)
    assert (
        embedded(viewer.page(shown(brain=nothing, detected=nothing, reference=nothing)))["scan"].shape == broken.shape
    )


def test_scans_are_listed_by_the_volume_of_their_lesions():
    lines = [Line("a", "", None, 5.0, None), Line("b", "ms", 2.0, 1.0, 0.5), Line("c", "", 9.0, 0.0, 0.0)]
    assert [line.identifier for line in viewer.ordered(lines)] == ["c", "b", "a"]
    page = viewer.index(lines, "0.01")
    assert page.index(">c<") < page.index(">b<") < page.index(">a<")
    assert NOTICE in page


def test_pages_of_results_on_disk(tmp_path):
    """With a link to each neighbour; a scan that cannot be read stops no other."""
    for number in range(3):
        images.save(tmp_path / "raw" / f"s{number}.nii.gz", derived.brain(number), derived.GRID)
    derived.restore(tmp_path / "raw", tmp_path / "out")
    predictions, _ = read_predictions(tmp_path / "out")
    subjects = {subject.identifier: subject for subject in sources.find(str(tmp_path / "raw"))}
    missing = images.save(tmp_path / "other.nii.gz", derived.brain()[1:], derived.GRID)
    (other,) = sources.find(str(missing))
    subjects["sub-s2"] = dataclasses.replace(other, identifier="sub-s2")
    lines = [Line(name, "", None, float(k), None) for k, name in enumerate(sorted(predictions))]
    written = show.write(tmp_path / "pages", lines, predictions, subjects)
    assert written == {"sub-s1": "sub-s1.html", "sub-s0": "sub-s0.html"}
    assert {path.name for path in (tmp_path / "pages").iterdir()} == {*written.values(), "index.html"}
    page = (tmp_path / "pages" / "sub-s1.html").read_text()
    assert 'id="after" href="sub-s0.html"' in page
    assert "1.0 mL detected" in page
    assert list(embedded(page)) == ["scan", "restored", "anomaly", "detected"]  # no reference was asked for
    assert "sub-s2" not in (tmp_path / "pages" / "index.html").read_text()


def test_pages_of_a_folder_of_results(tmp_path):
    """Largest detection first; a folder without results has no pages."""
    images.save(tmp_path / "raw" / "s0.nii.gz", derived.brain(), derived.GRID)
    images.save(tmp_path / "raw" / "s1.nii.gz", np.minimum(derived.brain(1), 150), derived.GRID)
    subjects = sources.find(str(tmp_path / "raw"))
    assert show.write_of_folder(tmp_path / "out", subjects) == {}
    derived.restore(tmp_path / "raw", tmp_path / "out")
    detected = {}
    for name, prediction in read_predictions(tmp_path / "out")[0].items():
        mask = nib.load(prediction.path("label-lesion_desc-fpr1_mask"))
        detected[name] = float(mask.get_fdata().sum() * 8 * 8 * 20 / 1000)
    written = show.write_of_folder(tmp_path / "out", subjects)
    assert list(written) == sorted(detected, key=lambda name: -detected[name])
    listed = (tmp_path / "out" / "viewer" / "index.html").read_text()
    assert all(f"{volume:.1f}</td>" in listed for volume in detected.values())
    assert show.write_of_folder(tmp_path / "out", subjects[:1]).keys() == {subjects[0].identifier}


def test_a_page_of_a_detection_is_that_of_its_files(tmp_path):
    path = images.save(tmp_path / "raw" / "s0.nii.gz", derived.brain(), derived.GRID)
    (subject,) = sources.find(str(path.parent))
    found = derived.detector()(subject)
    found.save(tmp_path / "out")
    show.write_of_folder(tmp_path / "out", [subject])
    page = lgjax.view(found, tmp_path / "page.html").read_text()
    other = (tmp_path / "out" / "viewer" / "sub-s0.html").read_text()
    assert re.findall(r'id="data-\w+">[^<]*<', page) == re.findall(r'id="data-\w+">[^<]*<', other)
    assert re.findall(r'id="told">[^<]*<', page) == re.findall(r'id="told">[^<]*<', other)
