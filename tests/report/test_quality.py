"""Quality control: outliers against SciPy and planted ones, pictures against geometry, a safe and complete page."""

import csv
import io
import itertools
import re

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import stats
from tags import Tags

from lgjax.preparation import mosaic
from lgjax.preparation.slices import BACKGROUND, Slices
from lgjax.report import quality
from lgjax.report.quality import Failure
from lgjax.report.text import NOTICE

EVIL = "<script>alert('x')</script>"
OUTLINE, OUTSIDE, BAR = (255, 210, 30), (30, 42, 58), (120, 184, 224)
AXIAL = [(17, 186 * number, 216, 180) for number in range(3)]  # top, left, height, width of the panels
CORONAL, SAGITTAL = (17, 558, 216, 180), (17, 744, 216, 216)
MODEL = [(256, 186 * number, 216, 180) for number in range(3)]


def row(number: int, **changes) -> dict:
    """Returns the numbers of an unremarkable subject."""
    rng = np.random.default_rng(number)
    unit = 10 ** rng.uniform(-3, 3)  # of intensities: arbitrary
    found = {"participant_id": f"sub-{number:02d}", "split": "train" if number % 3 else "test"}
    found |= {"voxels": "240 x 240 x 155", "zooms": "1 x 1 x 1", "orientation": "LPS", "brain_from": "given"}
    found |= {"brain_ml": rng.normal(1380, 60), "bias_low": 0.8, "bias_high": rng.normal(1.2, 0.05)}
    found |= {"p01": rng.normal(12, 3) * unit, "p50": rng.normal(50, 4) * unit, "p99": 100 * unit}
    found |= {"mean": rng.normal(50, 1), "std": rng.normal(20, 1), "slices": int(rng.normal(135, 4))}
    return found | {"filled": 0, "warnings": []} | changes


def cohort(count: int = 20, **changes) -> list[dict]:
    """Returns subjects of whom the fourth is changed."""
    return [row(number, **(changes if number == 3 else {})) for number in range(count)]


def first_reason(rows) -> tuple[str, str, bool]:
    found = quality.outliers(rows)[0]
    return found.row["participant_id"], found.reasons[0], found.outlier


# Outliers


def test_robust_scores_match_scipy():
    rows = cohort(40)
    values = np.array([[item["brain_ml"], item["p01"] / item["p99"], item["bias_high"] / 0.8] for item in rows])
    mad = stats.median_abs_deviation(values, scale=1 / 1.4826)
    assert (mad > [0.02 * 1400, 0.02, 0.02 * 1.6]).all()  # so that no floor plays a part
    expected = np.abs(values - np.median(values, axis=0)) / mad
    scores = {spread.feature.name: spread.scores for spread in quality.spreads(rows)}
    found = [scores["brain volume"], scores["intensity p1 / p99"], scores["bias field max / min"]]
    np.testing.assert_allclose(np.transpose(found), expected, rtol=1e-12)
    worst = {item.row["participant_id"]: item.score for item in quality.outliers(rows)}
    largest = np.max([spread.scores for spread in quality.spreads(rows)], axis=0)
    assert [worst[item["participant_id"]] for item in rows] == largest.tolist()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"brain_ml": 640.0}, "brain volume 640 ml, cohort median 13"),
        ({"brain_ml": 2300.0}, "brain volume 2300 ml"),
        ({"bias_high": 4.0}, "bias field max / min 5.00, cohort median 1.5"),
        ({"p01": 0.9, "p50": 0.95, "p99": 1.0}, "intensity p1 / p99 0.90, cohort median 0.1"),
        ({"p50": 9e9, "p99": 1e10, "p01": 1.2e9}, "intensity p50 / p99 0.90, cohort median 0.5"),
        ({"std": 60.0, "mean": 50.0}, "intensity sd / mean 1.20, cohort median 0.4"),
        ({"slices": 60}, "axial slices 60, cohort median 13"),
    ],
)
def test_planted_outliers_come_first_with_their_reason(changes, words):
    assert not any(item.outlier for item in quality.outliers(cohort()))
    name, reason, outlier = first_reason(cohort(**changes))
    assert (name, outlier) == ("sub-03", True)
    assert reason.startswith(words)


def test_all_reasons_of_an_outlier_the_largest_first():
    found = quality.outliers(cohort(brain_ml=300.0, slices=100))[0]
    assert [reason.split(" ")[0] for reason in found.reasons] == ["brain", "axial"]
    assert len(found.causes) == 2
    assert "mask" in found.causes[0]
    calm = quality.outliers(cohort())[-1]
    assert (len(calm.reasons), calm.causes) == (1, ())


def test_units_of_intensity_do_not_matter():
    plain = quality.outliers(cohort())
    rows = [item | {key: item[key] * 4.0 ** item["slices"] for key in ("p01", "p50", "p99")} for item in cohort()]
    assert [(item.row["participant_id"], item.score) for item in quality.outliers(rows)] == [
        (item.row["participant_id"], item.score) for item in plain
    ]


def test_a_cohort_without_any_spread():
    same = [row(0, participant_id=f"sub-{number}") for number in range(9)]
    assert {item.score for item in quality.outliers(same)} == {0.0}
    assert not any(item.outlier for item in quality.outliers([*same, row(0, slices=same[0]["slices"] + 1)]))
    assert quality.outliers([*same, row(0, slices=2 * same[0]["slices"])])[0].score == pytest.approx(50)


@pytest.mark.parametrize("broken", [{"bias_low": None, "bias_high": None}, {"p99": 0.0}, {"mean": float("nan")}])
def test_unknown_numbers_are_left_out(broken):
    rows = cohort(**broken)
    found = {item.row["participant_id"]: item for item in quality.outliers(rows)}
    assert found["sub-03"].score is not None
    assert np.isfinite([item.score for item in found.values()]).all()
    everyone = [item | broken for item in rows]
    assert not any(item.outlier for item in quality.outliers(everyone))
    assert "nan" not in quality.page("x", everyone, [], {})


def test_few_subjects_have_no_score():
    rows = [row(number, brain_ml=1000.0 * (number + 1)) for number in range(4)]
    assert [(item.score, item.reasons, item.outlier) for item in quality.outliers(rows)] == [(None, (), False)] * 4
    assert quality.outliers([*rows, row(4)])[0].score is not None


def test_equal_scores_show_those_with_notes_first():
    rows = [row(0, participant_id=f"sub-{number}") for number in range(6)]
    rows[4]["warnings"], rows[2]["filled"] = ["qform and sform disagree"], 7
    names = [item.row["participant_id"][-1] for item in quality.outliers(rows)]
    assert names == ["2", "4", "0", "1", "3", "5"]
    assert [item.row["participant_id"][-1] for item in quality.outliers(rows[1:5])] == ["2", "4", "1", "3"]
    rows[5]["brain_ml"] = 100.0
    assert quality.outliers(rows)[0].row["participant_id"] == "sub-5"


# The picture


def head(shape=(100, 120, 80), zooms=(1.0, 1.0, 1.0), radii=(35.0, 42.0, 30.0), centre=(0.0, 0.0, 0.0)):
    """Returns a noisy scan, an ellipsoidal brain and the affine; world zero is the middle of the volume (RAS+)."""
    affine = np.diag([*zooms, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * zooms
    grid = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    world = [axis * zoom + start for axis, zoom, start in zip(grid, zooms, affine[:3, 3], strict=True)]
    brain = sum(((w - c) / r) ** 2 for w, c, r in zip(world, centre, radii, strict=True)) <= 1
    rng = np.random.default_rng(0)
    return (rng.normal(10, 1, shape) + 60 * brain).astype(np.float32), brain, affine


def slices_of(brain: np.ndarray, step: int = 1) -> Slices:
    """Returns slices, [N, 20, 16], of a brain whose third axis goes from inferior to superior."""
    index = np.flatnonzero(brain.any(axis=(0, 1)))[::step].astype(np.int32)
    mask = np.zeros((len(index), 20, 16, 1), np.float32)
    mask[:, 4:16, 3:13] = 1
    y = np.random.default_rng(1).normal(size=mask.shape).astype(np.float32)
    return Slices(np.where(mask > 0, y, BACKGROUND), mask, index)


def picture(*parts) -> np.ndarray:
    """Returns the pixels of a mosaic, [H, W, 3]."""
    png = mosaic.mosaic(*parts)
    assert png.startswith(b"\x89PNG")
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    assert pixels.shape == (mosaic.HEIGHT, mosaic.WIDTH, 3)
    return pixels


def cut(pixels: np.ndarray, panel) -> np.ndarray:
    top, left, height, width = panel
    return pixels[top : top + height, left : left + width]


def where(panel: np.ndarray, colour) -> tuple[int, int, int, int]:
    """Returns first and last row, first and last column of a colour."""
    rows, columns = np.nonzero((panel == colour).all(axis=-1))
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


def grey(panel: np.ndarray) -> np.ndarray:
    """Returns the brightness of grey pixels, -1 for colours."""
    return np.where((panel == panel[..., :1]).all(axis=-1), panel[..., 0], -1)


ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(["RL", "AP", "SI"]) for letters in itertools.product(*axes)
]


def test_every_order_of_axes_gives_the_same_picture():
    scan, brain, affine = head((40, 50, 30), (1.5, 1.0, 4.0), (25.0, 20.0, 50.0))
    slices = slices_of(brain)
    first = mosaic.mosaic(scan, brain, affine, slices)
    assert len(ORIENTATIONS) == 48
    for codes in ORIENTATIONS:
        change = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
        )
        turned = [np.array(nib.orientations.apply_orientation(part, change)) for part in (scan, brain)]
        found = affine @ nib.orientations.inv_ornt_aff(change, scan.shape)
        assert "".join(nib.aff2axcodes(found)) == codes
        assert mosaic.mosaic(*turned, found, slices) == first, codes


@pytest.mark.parametrize("zooms", [(1.0, 1.0, 1.0), (0.8, 1.3, 5.0), (2.0, 0.9, 1.1)])
def test_the_brain_has_its_size_in_millimetres(zooms):
    radii = (50.0, 65.0, 45.0)
    shape = tuple(int(160 / zoom) for zoom in zooms)
    parts = head(shape, zooms, radii)
    pixels = picture(*parts, slices_of(parts[1]))
    outlines = {panel: where(cut(pixels, panel), OUTLINE) for panel in (AXIAL[1], CORONAL, SAGITTAL)}
    for panel, (tall, wide) in {AXIAL[1]: (1, 0), CORONAL: (2, 0), SAGITTAL: (2, 1)}.items():
        top, bottom, left, right = outlines[panel]
        assert bottom - top - 1 == pytest.approx(2 * radii[tall], abs=zooms[tall] + 2)  # the outline lies outside
        assert right - left - 1 == pytest.approx(2 * radii[wide], abs=zooms[wide] + 2)


def test_right_is_left_and_anterior_and_superior_are_on_top():
    scan, brain, affine = head((120, 140, 90), radii=(45.0, 60.0, 40.0))
    marks = [(25, 0, 0), (0, 30, 0), (0, 0, 20)]  # mm towards the patient's right (RAS+), front, top
    for mark in marks:
        middle = np.rint(np.array(mark) - affine[:3, 3]).astype(int)
        around = tuple(slice(i - 4, i + 5) for i in middle)
        shown = scan.copy()
        shown[around] = 500
        pixels = picture(shown, brain, affine, slices_of(brain))
        right, front, top = mark
        for panel, through, up, left in (
            (AXIAL[1], top, front, right),
            (CORONAL, front, top, right),
            (SAGITTAL, right, top, front),
        ):
            rows, columns = np.nonzero(grey(cut(pixels, panel)) > 250)
            assert bool(rows.size) == (through == 0)  # else the plane does not cross the mark
            if rows.size:
                _, _, height, width = panel
                assert height / 2 - rows.mean() == pytest.approx(up, abs=2)
                assert width / 2 - columns.mean() == pytest.approx(left, abs=2)


def test_one_scale_where_the_brain_is_too_large():
    parts = head((90, 110, 90), (3.0, 3.0, 3.0), (110.0, 150.0, 100.0))
    pixels = picture(*parts, slices_of(parts[1]))
    for panel, ratio in ((AXIAL[1], 300 / 220), (CORONAL, 200 / 220), (SAGITTAL, 200 / 300)):
        top, bottom, left, right = where(cut(pixels, panel), OUTLINE)
        assert top > 0
        assert left > 0
        assert (bottom - top) / (right - left) == pytest.approx(ratio, rel=0.05)


def test_a_brain_cut_by_the_volume_is_outlined_and_ends_at_its_border():
    scan, brain, affine = head((60, 70, 50), radii=(200.0, 200.0, 200.0))
    assert brain.all()
    panel = cut(picture(scan, brain, affine, slices_of(brain)), AXIAL[1])
    top, bottom, left, right = where(panel, OUTLINE)
    assert (bottom - top - 1, right - left - 1) == (70, 60)
    assert (panel[0, 0] == OUTSIDE).all()
    assert (panel[top + 1 : bottom, left + 1 : right] != OUTSIDE).any(axis=-1).all()


def test_an_oblique_scan_goes_by_its_nearest_axes():
    scan, brain, affine = head((60, 70, 50), radii=(20.0, 30.0, 20.0))
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    slices = slices_of(brain)
    assert mosaic.mosaic(scan, brain, turn @ affine, slices) == mosaic.mosaic(scan, brain, affine, slices)


@pytest.mark.parametrize("factor", [2.0**100, 2.0**-100])  # about 1e30
def test_the_size_of_the_numbers_does_not_matter(factor):
    scan, brain, affine = head((60, 70, 50))
    slices = slices_of(brain)
    plain = mosaic.mosaic(scan, brain, affine, slices)
    assert mosaic.mosaic(scan * np.float32(factor), brain, affine, slices) == plain
    assert mosaic.mosaic(scan - np.float32(512), brain, affine, slices).startswith(b"\x89PNG")


def test_what_is_not_finite_is_drawn():
    scan, brain, affine = head((60, 70, 50))
    scan[:10], scan[-10:], scan[30, 35, 20:30] = np.nan, np.inf, -np.inf
    panel = grey(cut(picture(scan, brain, affine, slices_of(brain)), CORONAL))
    assert panel[108, 62] == 255  # infinite, on the patient's right
    assert panel[108, 117] == 0


@pytest.mark.parametrize("constant", [True, False])
def test_one_slice(constant):
    scan, brain, affine = head((60, 70, 1), (1.0, 1.0, 5.0), (20.0, 30.0, 20.0))
    if constant:
        scan[brain] = 7
    pixels = picture(scan, brain, affine, slices_of(brain))
    assert where(cut(pixels, AXIAL[0]), OUTLINE)
    assert not cut(pixels, AXIAL[1]).any()  # nothing is shown twice
    top, bottom, _, _ = where(cut(pixels, CORONAL), OUTLINE)
    assert bottom - top - 1 == 5  # mm


def test_the_model_is_shown_at_the_nearest_slices_on_one_scale():
    scan, brain, affine = head(radii=(35.0, 42.0, 36.0))  # 72 slices, numbers 4 to 75
    slices = slices_of(brain, step=5)  # 4, 9, ... 74
    wanted = [int(np.abs(slices.number - (4 + part * 71)).argmin()) for part in (0.25, 0.5, 0.75)]
    for place, value in zip(wanted, (-3.5, 0.0, 3.5), strict=True):
        slices.y[place] = value
    pixels = picture(scan, brain, affine, slices)
    for panel, expected in zip(MODEL, (0, 127.5, 255), strict=True):
        assert grey(cut(pixels, panel))[108, 90] == pytest.approx(expected, abs=3)
    shown = slices.number[wanted[1]]
    top, bottom, _, _ = where(cut(pixels, AXIAL[1]), OUTLINE)
    assert bottom - top - 1 == brain[:, :, shown].any(axis=0).sum()


def test_the_histogram_counts_z_scores():
    _, brain, affine = head((60, 70, 50))
    slices = slices_of(brain)
    slices.y[slices.mask > 0] = np.random.default_rng(5).normal(0.5, 1.2, int(slices.mask.sum()))
    used = slices.y[slices.mask > 0] if len(slices.number) <= 32 else slices.y[::2][slices.mask[::2] > 0]
    counts, _ = np.histogram(used, bins=70, range=(-3.5, 3.5))
    bars = (picture(brain.astype(np.float32), brain, affine, slices)[256:438, 570:920] == BAR).all(axis=-1).sum(axis=0)
    np.testing.assert_allclose(bars[2::5] / bars.max(), counts / counts.max(), atol=0.01)


def test_the_picture_is_small():
    rng = np.random.default_rng(0)
    _, brain, affine = head((180, 220, 160), radii=(70.0, 85.0, 65.0))
    scan = rng.normal(100, 30, brain.shape).astype(np.float32)  # nothing is harder to pack than noise
    assert len(mosaic.mosaic(scan, brain, affine, slices_of(brain))) < 160_000


# The page and the tables


FAILURES = [Failure(f"sub-x{EVIL}", f"is broken {EVIL}", f"Mend {EVIL}")]
ABOUT = {"source": f"folder {EVIL}", "versions": {"lgjax": "0.1.0"}, "git": None}


@pytest.fixture(scope="module")
def page():
    rows = cohort(brain_ml=600.0, participant_id=f"sub/../{EVIL}", split=EVIL, warnings=[f"odd {EVIL}"], voxels=EVIL)
    rows[7] |= {"filled": 12, "bias_low": None, "bias_high": None}
    return quality.page(f"set {EVIL}", rows, FAILURES, ABOUT)


def test_user_text_is_escaped(page):
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 10
    assert "javascript:" not in page


def test_the_page_is_well_formed_and_loads_its_pictures_only(page):
    tags = Tags(page)
    names = {tag for tag, _ in tags.seen}
    assert not names & {"script", "link", "iframe", "object", "form"}
    assert not any(key.startswith("on") for _, attrs in tags.seen for key in attrs)
    assert "://" not in page
    sources = [attrs["src"] for attrs in tags.all("img")]
    assert len(sources) == len(set(sources)) == 20
    assert "sub-04/figures/sub-04_desc-qc_T2w.png" in sources
    assert all(re.fullmatch(r"[\w.%-]+/figures/[\w.%-]+_desc-qc_T2w\.png", source) for source in sources)
    assert not any(source.startswith(".") for source in sources)
    targets = [attrs["href"] for attrs in tags.all("a")]
    assert set(sources) < set(targets)  # each opens at full size, by keyboard too
    identifiers = [attrs["id"] for _, attrs in tags.seen if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    assert {target[1:] for target in targets if target.startswith("#")} <= set(identifiers)


def test_every_picture_says_what_it_shows(page):
    for attrs in Tags(page).all("img"):
        assert attrs["loading"] == "lazy"
        assert (attrs["width"], attrs["height"]) == (str(mosaic.WIDTH), str(mosaic.HEIGHT))
        assert "brain mask" in attrs["alt"]
    labels = [attrs["aria-label"] for attrs in Tags(page).all("svg")]
    assert len(labels) == len(quality.FEATURES)
    assert any(re.match(r"brain volume: 600 ml to 1\d\d\d ml, median 13\d\d ml", label) for label in labels)


def test_the_page_says_what_a_reader_must_know(page):
    for text in (NOTICE, "20 subjects prepared", "1 outlier", "1 failed", "Mend", "not removed", "not stated"):
        assert text in page
    assert "12 voxels of the brain were not finite" in page
    assert "brain volume 600 ml, cohort median 13" in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"\b(nan|inf|None)\b", page)
    order = [page.index(f'id="{part}"') for part in ("failed", "outliers", "others", "done")]
    assert order == sorted(order)
    assert order[1] < page.index("sub%2F") < order[2]
    far = [attrs for attrs in Tags(page).all("line") if attrs.get("class") == "far"]
    assert [attrs["x1"] for attrs in far] == ["0.00"]


def test_pages_of_few_and_of_no_subjects():
    few = quality.page("few", cohort(4), [], {})
    assert "No scores: fewer than 5 subjects" in few
    assert len(Tags(few).all("article")) == 4
    assert "score 0" not in few
    none = quality.page("none", [], FAILURES, {})
    assert not Tags(none).all("article")
    assert "0 subjects prepared" in none


def test_the_table_is_complete_and_safe_to_open():
    rows = cohort(slices=20, participant_id="=cmd()", warnings=["a\tb\nc", '"quoted"'], extra=-1.5, bias_low=None)
    text = quality.summary_tsv(rows)
    found = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    assert len(found) == 20
    assert list(found[0])[:5] == ["participant_id", "split", "score", "outlier", "reason"]
    assert set(found[0]) == {*rows[3], "score", "outlier", "reason"}
    odd = found[0]
    assert (odd["participant_id"], odd["outlier"], odd["bias_low"]) == ("'=cmd()", "true", "n/a")
    assert odd["warnings"] == "a b c; 'quoted'"
    assert odd["extra"] == "-1.5"  # a number, not a formula
    assert {item["extra"] for item in found[1:]} == {"n/a"}
    calm = next(item for item in found if item["participant_id"] == "sub-05")
    assert float(calm["brain_ml"]) == pytest.approx(rows[5]["brain_ml"], rel=1e-5)
    assert (calm["slices"], calm["warnings"], calm["outlier"]) == (str(rows[5]["slices"]), "n/a", "false")


def test_the_text_for_a_terminal():
    rows = cohort(brain_ml=600.0, warnings=["odd \x1b[31m|\n"])
    text = quality.summary_text(rows, [Failure("sub-x", "is broken", "Mend it")], limit=3)
    assert text.startswith("20 subjects prepared (")
    assert "1 outlier, 1 with notes, 1 failed." in text
    assert "\x1b" not in text
    first, second = (block.splitlines() for block in text.split("\n\n") if block.startswith("|"))
    assert [line.count("|") for line in first] == [7] * 5  # three subjects
    assert first[2].split("|")[1].strip() == "sub-03"
    assert "*" in first[2]
    assert "brain volume 600 ml" in first[2]
    assert second[2].split("|")[1].strip() == "sub-x"
    assert "17 more" in text
    assert "No scores" in quality.summary_text(cohort(4), [])
    assert quality.summary_text([], []) == "0 subjects prepared, 0 with notes, 0 failed.\n"
