"""The viewer's pages as text: self-contained, escaped, with a policy that lets nothing else in."""

import ast
import base64
import dataclasses
import gzip
import hashlib
import html
import itertools
import json
import re
import shutil

import derived
import images
import nibabel as nib
import numpy as np
import pytest
from conftest import PATIENCE, ROOT, until
from server import Forked
from tags import Tags

import lgjax
from lgjax.derivatives import pages, sidecar, write
from lgjax.derivatives.read import read_predictions
from lgjax.derivatives.sidecar import Quality
from lgjax.preparation import likeness
from lgjax.report import show, viewer
from lgjax.report.text import NOTICE
from lgjax.report.viewer import Line, Shown
from lgjax.runtime.claims import Claims
from lgjax.runtime.errors import InputError
from lgjax.scans import nifti, sources

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
        {"0.001": 3.0, "0.01": 2.0}, "0.01", {"1": 3.25},
    )  # fmt: skip
    return found._replace(**changes)


LINE = Line("sub-1", "glioma", 9.0, 5.0, 0.5, "0.01")


@pytest.fixture(scope="module")
def page():
    return viewer.page(shown(), LINE)


def test_names_are_escaped():
    line = LINE._replace(identifier=f"sub-1{EVIL}", kind=f"{EVIL}\"'&")
    page = viewer.page(shown(identifier=line.identifier, method=EVIL, unit=EVIL), line)
    assert viewer.read_line(page[: viewer.START]) == line
    assert page.count("<script") == len(re.findall("<script", viewer.page(shown())))
    assert "&lt;script&gt;alert" in page
    listed = viewer.index([line])
    assert listed.count("<script") == 1
    for found in (page, listed):
        Tags(re.sub("<input[^>]*>", "", found.replace("<!DOCTYPE html>", "")))
        addresses = re.findall(r'href="([^"]*)"', found)
        assert addresses
        assert all(re.fullmatch(r"[A-Za-z0-9_.%#=-]+", address) for address in addresses)


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


RED = Quality("red", [f"tilt 24 degrees {EVIL}"], {})


@pytest.mark.parametrize("light", likeness.LIGHTS)
def test_the_page_says_whether_the_scan_is_like_healthy_ones(light):
    page = viewer.page(shown(quality=dataclasses.replace(RED, light=light)))
    assert f'<span class="lamp {light}"></span> <b>{light}</b>: {likeness.MEANINGS[light]}' in page


def test_the_page_tells_the_reasons_of_a_light_and_warnings():
    page = viewer.page(shown(quality=RED, warnings=[f"the qform is invalid {EVIL}"]))
    told = re.findall("<li>(.*?)</li>", page)
    assert [html.unescape(line) for line in told] == [RED.reasons[0], f"the qform is invalid {EVIL}"]
    silent = viewer.page(shown())
    assert 'class="light' not in silent
    assert "doubtful" not in silent


def heads(page: str) -> list[str]:
    return re.findall(r"<th scope=\"col\"[^>]*>([^<]*)<", page)


def test_the_list_shows_lights_and_warnings_and_columns_of_references_where_there_are_some():
    plain = LINE._replace(kind="", lesion_ml=None, dice=None)
    assert heads(viewer.index([plain])) == ["scan", "detected at 1 %, mL"]
    assert "the largest detection first" in viewer.index([plain])
    assert heads(viewer.index([plain, LINE])) == ["scan", "kind", "lesion, mL", "detected at 1 %, mL", "Dice"]
    page = viewer.index([plain, LINE._replace(light="amber"), plain._replace(light="red", warnings=3)])
    assert heads(page)[2:4] == ["light", "warnings"]
    lights = re.findall(r'<td>(?:<span class="lamp (\w+)"></span> (\w+)|–)</td>\s*<td class="number">(\d)<', page)
    assert lights == [("amber", "amber", "0"), ("", "", "0"), ("red", "red", "3")]
    assert [light for light in likeness.LIGHTS if likeness.MEANINGS[light] in page] == ["amber", "red"]


def test_a_page_of_an_earlier_version_keeps_its_place_in_the_list(page):
    """Its line has no light."""
    told = json.dumps({key: value for key, value in LINE._asdict().items() if key not in ("light", "warnings")})
    assert viewer.read_line(f'<meta name="lgjax-line" content="{html.escape(told)}">') == LINE
    assert viewer.read_line(viewer.page(shown(), LINE._replace(light="red", warnings=2))).light == "red"


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
    assert 'href="index.html#before=sub-1.html"' in page
    assert 'href="index.html#after=sub-1.html"' in page
    assert "glioma, 9.0 mL of lesion, 5.0 mL detected, Dice 0.500" in page
    alone = viewer.page(shown())
    assert "index.html" not in alone
    assert viewer.read_line(alone) is None


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
    rest = {"kind": "", "rate": "0.01"}
    lines = [
        Line("a", lesion_ml=None, detected_ml=5.0, dice=None, **rest),
        Line("b", lesion_ml=2.0, detected_ml=1.0, dice=0.5, **rest),
        Line("c", lesion_ml=9.0, detected_ml=0.0, dice=0.0, **rest),
    ]
    assert [line.identifier for line in viewer.ordered(lines)] == ["c", "b", "a"]
    page = viewer.index(lines)
    assert page.index(">c<") < page.index(">b<") < page.index(">a<")
    assert NOTICE in page


NAMES = ["sub-s0", "sub-s1", "sub-s2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three scans and their results, without pages."""
    folder = tmp_path_factory.mktemp("made")
    for number in range(3):
        images.save(folder / "raw" / f"s{number}.nii.gz", derived.brain(number), derived.GRID)
    assert derived.restore(folder / "raw", folder / "out") == NAMES
    return folder


@pytest.fixture
def results(made, tmp_path):
    """A copy of these."""
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def listed(folder) -> list[str]:
    """The pages that the list of a folder leads to, in its order; all of them are there, and no others."""
    found = re.findall(r'<th scope="row"><a href="([^"]*)"', pages.index(folder).read_text())
    assert {path.name for path in (folder / "viewer").iterdir()} == {*found, "index.html"}
    return found


def subjects_of(results):
    return sources.find(str(results / "raw"))


def test_pages_of_results(results):
    """Of an evaluation, whose lines are given; a scan that cannot be read, and one that is gone, stop no other."""
    out = results / "out"
    predictions, _ = read_predictions(out)
    subjects = {subject.identifier: subject for subject in subjects_of(results)}
    lines = {name: Line(name, "", None, float(k), None, "0.01") for k, name in enumerate(NAMES)}
    written = show.write(out, predictions, subjects, lines.__contains__, lines)
    assert (written.written, written.failures, written.code) == (NAMES, [], 0)
    assert listed(out) == ["sub-s2.html", "sub-s1.html", "sub-s0.html"]
    page = pages.page(out, "sub-s1").read_text()
    assert "1.0 mL detected" in page
    assert list(embedded(page)) == ["scan", "restored", "anomaly", "detected"]  # no reference was asked for
    (other,) = sources.find(str(images.save(results / "other.nii.gz", derived.brain()[1:], derived.GRID)))
    subjects["sub-s2"] = dataclasses.replace(other, identifier="sub-s2")
    (out / "viewer" / "mine.html").write_text(page)  # no page of ours is called so
    del predictions["sub-s0"]
    written = show.write(out, predictions, subjects, {"sub-s1", "sub-s2"}.__contains__, lines)
    assert written.written == ["sub-s1"]
    assert [name for name, _ in written.failures] == ["sub-s2"]
    assert written.code == 3
    (out / "viewer" / "mine.html").unlink()
    assert listed(out) == ["sub-s1.html"]


def test_pages_of_a_folder_of_results(results):
    """Largest detection first; a folder without results has no pages."""
    out, subjects = results / "out", subjects_of(results)
    assert show.write_of_folder(results / "none", subjects).written == []
    assert not (results / "none").exists()
    detected = {}
    for name, prediction in read_predictions(out)[0].items():
        mask = nib.load(prediction.path("label-lesion_desc-fpr1_mask"))
        detected[name] = float(mask.get_fdata().sum() * 8 * 8 * 20 / 1000)
    assert show.write_of_folder(out, subjects[1:]).written == NAMES[1:]
    assert show.write_of_folder(out, subjects[:1]).written == NAMES[:1]
    assert listed(out) == [f"{name}.html" for name in sorted(detected, key=lambda name: (-detected[name], name))]
    told = pages.index(out).read_text()
    assert "3 scans" in told
    lights = {f"{name}.html": each.sidecar.quality.light for name, each in read_predictions(out)[0].items()}
    assert re.findall(r'lamp \w+"></span> (\w+)</td>', told) == [lights[name] for name in listed(out)]
    assert "detected at 1 %, mL" in told
    assert all(f"{volume:.1f}</td>" in told for volume in detected.values())


def test_who_writes_the_list_last_looks_once_more(results, monkeypatch):
    """Between two looks, another process writes a page and removes another."""
    out, subjects = results / "out", subjects_of(results)
    show.write_of_folder(out, subjects)
    page = pages.page(out, "sub-s2")
    late = page.read_bytes()
    page.unlink()
    wrote = show.atomic_write

    def write_while_another_does(path, content):
        if path == pages.index(out) and not page.exists():
            page.write_bytes(late)
            pages.page(out, "sub-s0").unlink()
        wrote(path, content)

    monkeypatch.setattr(show, "atomic_write", write_while_another_does)
    show.write_of_folder(out, subjects[1:2])
    assert sorted(listed(out)) == ["sub-s1.html", "sub-s2.html"]


SHARED = """
import pathlib, sys
from lgjax.report import show
from lgjax.scans import sources

folder = pathlib.Path(sys.argv[1])
print(show.write_of_folder(folder / "out", sources.find(str(folder / "raw"))).written)
"""


def test_processes_that_write_pages_at_a_time_write_each_once(results, tmp_path):
    """And the pages are those of one process, which writes none of them again."""
    out = results / "out"
    litter = out / "viewer" / ".sub-s0.html.0123456789ab.tmp"  # of a killed process
    litter.parent.mkdir()
    litter.touch()
    with Claims(out / "viewer") as held:  # so that neither ends before the other has begun
        assert held.take("sub-s1")
        processes = [Forked(["-c", SHARED, str(results)], tmp_path / f"log{number}") for number in range(2)]
        until(lambda: len(held.others()) == 2)
    assert [process.wait(PATIENCE) for process in processes] == [0, 0]
    said = [ast.literal_eval((tmp_path / f"log{number}").read_text().splitlines()[-1]) for number in range(2)]
    assert sorted(itertools.chain(*said)) == NAMES
    assert sorted(listed(out)) == [f"{name}.html" for name in NAMES]
    shared = [pages.page(out, name).read_bytes() for name in NAMES]
    again = show.write_of_folder(out, subjects_of(results))
    assert (again.written, again.kept, again.code) == ([], NAMES, 0)
    shutil.rmtree(out / "viewer")
    assert show.write_of_folder(out, subjects_of(results)).written == NAMES
    assert [pages.page(out, name).read_bytes() for name in NAMES] == shared


def test_a_damaged_map_costs_its_own_page_alone(results):
    out = results / "out"
    show.write_of_folder(out, subjects_of(results))
    anomaly = sidecar.file(out, "sub-s1", sidecar.ANOMALY)
    anomaly.write_bytes(anomaly.read_bytes()[:200])
    restored = nib.load(sidecar.file(out, "sub-s2", sidecar.RESTORED))
    nib.save(restored.slicer[1:], restored.get_filename())
    written = show.write_of_folder(out, subjects_of(results))
    assert (written.written, written.kept, written.code) == ([], ["sub-s0"], 3)
    assert [name for name, _ in written.failures] == ["sub-s1", "sub-s2"]
    assert re.search("truncated|damaged", written.failures[0][1])
    assert listed(out) == ["sub-s0.html"]
    image = nib.load(sidecar.file(out, "sub-s0", sidecar.ANOMALY))
    nib.save(nib.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine), image.get_filename())
    ((name, problem),) = show.write_of_folder(out, subjects_of(results)[:1]).failures
    assert (name, "not finite" in problem) == ("sub-s0", True)
    assert list((out / "viewer").iterdir()) == []  # no page, no list


def test_a_map_is_read_once(results, monkeypatch):
    seen, read = [], nifti.read
    monkeypatch.setattr(nifti, "read", lambda path, **options: seen.append(path) or read(path, **options))
    show.write_of_folder(results / "out", subjects_of(results))
    maps = [path for path in seen if "desc-" in str(path)]
    assert maps
    assert len(maps) == len(set(maps))


def test_what_shows_an_earlier_state_goes_when_a_scan_changes(results):
    """Its page, the list that names the page, and the table of the cohort; until the list is written anew."""
    out, subjects = results / "out", subjects_of(results)
    show.write_of_folder(out, subjects)
    tables = [out / f"group_T2w.{ending}" for ending in ("tsv", "json", "html")]

    def after(change) -> set[str]:
        for path in tables:
            path.write_text("")
        change()
        return {path.name for path in [*(out / "viewer").iterdir(), *out.glob("group*")]}

    same = json.loads(sidecar.file(out, "sub-s0", sidecar.ANOMALY, "json").read_text())["SourceSHA256"]
    assert after(lambda: write.retract(out, "sub-s0", same)) >= {"sub-s0.html", "index.html", "group_T2w.tsv"}
    assert after(lambda: derived.detector()(subjects[0]).save(out)) == {"sub-s1.html", "sub-s2.html"}
    assert show.write_of_folder(out, []).written == []
    assert sorted(listed(out)) == ["sub-s1.html", "sub-s2.html"]
    assert after(lambda: write.retract(out, "sub-s1", None)) == {"sub-s2.html"}
    show.write_of_folder(out, subjects)
    assert sorted(listed(out)) == ["sub-s0.html", "sub-s2.html"]
    shutil.rmtree(out / "sub-s2")  # by hand
    show.write_of_folder(out, [])
    assert listed(out) == ["sub-s0.html"]


def test_a_link_leads_nowhere_out_of_the_results(results):
    out, elsewhere = results / "out", results / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "sub-s0.html").write_text("mine")
    (out / "viewer").symlink_to(elsewhere)
    derived.detector()(subjects_of(results)[0]).save(out)
    with pytest.raises(InputError, match="leads out of the output folder"):
        show.write_of_folder(out, subjects_of(results))
    assert [path.read_text() for path in elsewhere.iterdir()] == ["mine"]


def test_a_page_of_a_detection_is_that_of_its_files(tmp_path):
    path = images.save(tmp_path / "raw" / "s0.nii.gz", derived.brain(), derived.GRID)
    (subject,) = sources.find(str(path.parent))
    detector = derived.detector()
    detector.about["VolumeThresholds"] = {"5": 1.3}
    found = detector(subject)
    found.save(tmp_path / "out")
    (mask,) = (tmp_path / "out").rglob("*desc-vol5_mask.nii.gz")
    show.write_of_folder(tmp_path / "out", [subject])
    page = lgjax.view(found, tmp_path / "page.html").read_text()
    other = (tmp_path / "out" / "viewer" / "sub-s0.html").read_text()
    assert re.findall(r'id="data-\w+">[^<]*<', page) == re.findall(r'id="data-\w+">[^<]*<', other)
    buttons = re.findall(r'class="rate" data-threshold="([^"]*)"[^>]*>([^<]*)<', page)
    assert buttons == re.findall(r'class="rate" data-threshold="([^"]*)"[^>]*>([^<]*)<', other)
    (threshold,) = [float(value) for value, name in buttons if name == "5 mL"]
    np.testing.assert_array_equal(found.anomaly > threshold, nib.load(mask).get_fdata() == 1)
    assert re.findall(r'id="told">[^<]*<', page) == re.findall(r'id="told">[^<]*<', other)
