"""The table and the page: escaped, offline, complete; figures draw what they are given."""

import base64
import dataclasses
import json
import re

import derived
import images
import measured
import nibabel as nib
import numpy as np
import pytest
from tags import Tags

from lgjax.derivatives.read import read_predictions
from lgjax.derivatives.sidecar import Convergence, Search, short_unit
from lgjax.evaluation import compare, metrics, published, tally
from lgjax.evaluation.measure import Case, Result
from lgjax.evaluation.records import Dice, Timing
from lgjax.report import charts, tables
from lgjax.report.page import Picture, pictured_subjects, render
from lgjax.report.page import notes as page_notes
from lgjax.report.text import NOTICE
from lgjax.report.write import picture
from lgjax.scans import sources
from lgjax.scans.pictures import Panels, pixel_aspect, radiological, subject_figure

EVIL = "<script>alert('x')</script>"
RATES = {"0.01": 2.0, "0.05": 1.0}
SEARCH = Search(
    strength=2.0,
    ssim=0.953,
    curve=[[0.0, 0.2], [0.1, 0.5], [1.0, 0.9], [2.0, 0.953], [9.0, 0.99]],
    monotone=True,
    reached=True,
    target=0.95,
)


def case(seed: int, kind: str, name: str, lift: float) -> Case:
    """Returns one made-up subject."""
    rng = np.random.default_rng(seed)
    healthy = kind == "healthy"
    lesion = rng.random(400) < (0 if healthy else 0.1)
    pairs = {rate: (float(rng.random()) * lift / 3, float(rng.random()) / 10) for rate in RATES}
    row = measured.row(
        name,
        kind=kind,
        lesion_voxels=int(lesion.sum()),
        reference_voxels=int(lesion.sum()),
        dice={rate: None if healthy else dice for rate, (dice, _) in pairs.items()},
        fpr={rate: fpr for rate, (_, fpr) in pairs.items()},
        false_positive_ml=0.25 * lift,
        **dict.fromkeys(("sensitivity", "ppv", "f1", "hd95"), None if healthy else 0.5),
    )
    return Case(row, tally.count((rng.normal(size=400) + lift * lesion).astype(np.float32), lesion))


def result(name: str, lift: float, kinds=("glioma", "glioma", "ms", "healthy"), step: int = 1, **changes) -> Result:
    cases = [case(index, kind, f"sub-{index}{EVIL}", lift) for index, kind in enumerate(kinds)]
    about = {"labels": f"data {EVIL}", "trained_on": "phantom:train", "device": "cpu"} | changes
    return measured.result(
        name,
        cases,
        RATES,
        least=2,
        slice_step=step,
        seconds_per_iteration=Timing(0.125 if lift > 1 else None, 4, 24, [64, 48]),
        search=SEARCH if lift > 1 else None,
        convergence=Convergence([0, 50, 99], [0.1, 0.01, 0.0]) if lift > 1 else None,
        failed={f"sub-9{EVIL}": f"broken {EVIL}"},
        provenance=measured.provenance(**about),
    )


@pytest.fixture(scope="module")
def results():
    return [result("vae_lg_neural_tv", 2.0), result("intensity", 1.0)]


def panels(shape=(30, 24)) -> Panels:
    rng = np.random.default_rng(0)
    brain = np.zeros(shape, bool)
    brain[3:-3, 3:-3] = True
    reference = np.zeros(shape, bool)
    reference[10:14, 9:15] = True
    values = rng.random((3, *shape)) * brain
    return Panels(values[0], values[1], values[2], values[2] > 0.9, reference, brain, 1.0)


@pytest.fixture(scope="module")
def page(results):
    png = subject_figure({item.name: panels() for item in results})
    pictures = [Picture(f"sub-0{EVIL}", f"glioma {EVIL}", png)]
    return render(results, pictures, [compare.compare(results, results[0].name, measured.settings())], with_paper=True)


def test_names_are_escaped(page):
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 6


def test_the_page_is_well_formed_and_loads_nothing(page):
    tags = Tags(page)
    assert not {tag for tag, _ in tags.seen} & {"script", "link", "iframe", "object"}
    sources = [attrs["src"] for tag, attrs in tags.seen if tag == "img"]
    assert len(sources) == 6
    for source in sources:
        kind, _, data = source.partition(";base64,")
        start = base64.b64decode(data)[:5]
        assert (kind, start) in {("data:image/png", b"\x89PNG\r"), ("data:image/svg+xml", b"<?xml")}
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert all(attrs["alt"] for tag, attrs in tags.seen if tag == "img")


def test_the_page_says_what_a_reader_must_know(page):
    assert NOTICE in page
    for text in (
        "phantom:train",
        "less than 1 % of a score wide",
        "batches of 24 slices of 64x48 on cpu",
        published.HEADING.replace("'", "&#39;"),
        "radiological",
        "Not evaluated",
    ):
        assert text in page
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"base64,[^\"]*", "", page))


def test_the_best_of_every_column_is_marked(results):
    columns = tables.paper_columns(list(RATES))
    strong, weak = tables.table(results, columns)
    assert [cell.best for cell in strong.cells] == [True, True, True, False]  # of the times, there is only one
    assert not any(cell.best for cell in weak.cells)
    assert not any(cell.best for cell in tables.table(results[:1], columns)[0].cells)
    assert tables.table(results, columns[:3], "unknown kind") == []


def test_less_is_better_in_distances_times_and_false_volumes(results):
    places = {column.heading: place for place, column in enumerate(tables.our_columns("1 %"))}
    more, less = tables.table(results, tables.our_columns("1 %"))
    volume = places["healthy FP, mL"]
    assert (more.cells[volume].text, less.cells[volume].text) == ("0.50", "0.25")
    assert (more.cells[volume].best, less.cells[volume].best) == (False, True)
    achieved = places["FPR at 1 %"]
    assert not any(row.cells[achieved].best for row in (more, less))
    # As numbers, not as text: 9.5 mm is nearer than 10.5 mm.
    column = tables.Column("HD95, mm", lambda found: tables.cell(found, digits=1), min)
    near, far = (item._replace(metrics=value) for item, value in zip(results, (9.5, 10.5), strict=True))
    rows = [tables.Row(item.name, 1, [column.read(item.metrics)]) for item in (near, far)]
    assert tables.mark(rows, [column])[0].cells[0].best


def test_equal_prints_are_equally_good(results):
    columns = tables.paper_columns(list(RATES))
    first, second, _ = tables.table([results[0], results[0]._replace(name="copy"), results[1]], columns)
    assert all(cell.best for row in (first, second) for cell in row.cells[:3])
    same = tables.table([results[0], results[0]._replace(name="copy")], columns)
    assert not any(cell.best for row in same for cell in row.cells)  # nothing to choose between


def grids(text: str) -> list[list[list[str]]]:
    """Returns the Markdown tables of a text as cells; all rows of one are equally wide."""
    found = []
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines and lines[0].startswith("|"):
            assert len({len(line) for line in lines}) == 1
            assert set(lines[1]) <= set("|- ")
            found.append([[cell.strip() for cell in line.split("|")[1:-1]] for line in (lines[0], *lines[2:])])
    return found


def test_the_markdown_tables(results):
    compared = compare.compare(results, "vae_lg_neural_tv", measured.settings(least_subjects=2))
    (row,) = compared.rows
    told = row.dice | {"0.01": dataclasses.replace(row.dice["0.01"], excludes_zero=False, certain=True)}
    auc, auprc = (dataclasses.replace(entry, excludes_zero=True, certain=False) for entry in (row.auc, row.auprc))
    row = dataclasses.replace(row, dice=told, auc=auc, auprc=auprc)
    text = tables.markdown(results, [dataclasses.replace(compared, rows=[row])])
    assert text.startswith("Measured on 4 subjects of data")
    first = text.splitlines()[0]
    for part in ("1 healthy", "Trained on phantom:train", "batches of 24 slices of 64x48 on cpu"):
        assert part in first
    theirs, ours, intervals, false, differences, by_kind, kinds = grids(text)
    assert theirs[0] == ["method", "n", "Dice 1 %", "Dice 5 %", "AUC", "s/iteration"]
    assert ours[0][2:] == [
        *("AUPRC", "oracle Dice", "FPR at 1 %", "sensitivity", "PPV", "F1", "HD95, mm", "detected of lesion, mL"),
        "healthy FP, mL",
    ]
    for table in (theirs, ours, intervals):
        assert [row[0] for row in table[1:]] == ["vae_lg_neural_tv", "intensity"]  # a line for each method
    assert f"{results[0].metrics.dice['0.01'].mean:.3f} ± " in theirs[1][2]
    assert theirs[1][-1] == "0.125"
    assert theirs[2][-1] == "–"
    assert intervals[1][2].startswith("[0.")
    assert [row[0] for row in kinds[1:5]] == ["vae_lg_neural_tv", "- glioma", "- healthy", "- ms"]
    assert kinds[3][-1].endswith("%")
    assert kinds[3][2] == "–"
    assert [row[0] for row in differences] == ["minus vae_lg_neural_tv", "intensity"]
    assert "mL at each rate: mean over 1 healthy brain, and over the lesion-free brain of 3 patients" in text
    assert false[0] == ["method", "n", "healthy 1 %", "healthy 5 %", "patients 1 %", "patients 5 %"]
    assert by_kind[0] == ["minus vae_lg_neural_tv", "n", "glioma", "ms"]
    assert [cell.endswith("*") for cell in differences[1]] == [False, False, True, False, False, False]
    assert "Holm's correction over the 4 differences of this table" in text
    few = measured.result("few", [case(1, "ms", "sub-1", 1.0)], RATES)
    assert "No 95 % interval: fewer than 6 subjects." in tables.markdown([few])
    assert NOTICE in text
    assert published.HEADING not in text


def test_the_papers_numbers_stand_apart(results):
    text = tables.markdown(results, with_paper=True)
    ours, theirs = text.split(published.HEADING)
    assert "0.828" not in ours
    assert "Titan X, batch size not stated" in theirs
    (table,) = grids(theirs)
    assert len(table) == 12
    assert table[10] == [
        "VAE-LG(neural) TV (vae_lg_neural_tv)",
        *("0.448 ± 0.209", "0.303 ± 0.123", "0.828", "0.098"),  # at the rates that were asked here too
    ]
    assert table[1][1:] == ["–"] * 2 + ["0.800", "–"]
    assert published.place("vae_lg_est_l1") < published.place("vae_lg_neural_tv") < published.place("intensity")


def test_headings_and_notes_follow_the_rates_that_were_asked():
    """Nothing is assumed of them: 0.2 and 3 % are none of the paper's, and lesions are counted at 3 %."""
    item = result("vae_lg_neural_tv", 2.0)
    cases = [
        Case(
            dataclasses.replace(row, dice=at(row.dice), fpr=at(row.fpr), fp_ml=at(row.fp_ml)),
            item.histograms[row.participant_id],
        )
        for row in item.rows
    ]
    found = [measured.result("vae_lg_neural_tv", cases, {"0.002": 3.0, "0.03": 1.0}, "0.03")]
    text = tables.markdown(found, with_paper=True)
    theirs, ours, *_, published_table = grids(text)
    assert theirs[0] == ["method", "n", "Dice 0.2 %", "Dice 3 %", "AUC", "s/iteration"]
    assert ours[0][4] == "FPR at 3 %"
    assert ours[1][4] == f"{100 * found[0].metrics.dice['0.03'].achieved_fpr:.2f} %"
    assert published_table[0][1:] == ["AUC", "s/iteration"]  # no rate of the paper's was asked
    notes = " ".join(page_notes(found))
    assert "in the mask at 3 % FPR" in notes
    assert "in the mask at 3 % FPR" in text
    assert not re.search(r"\b(1|0\.1|5|0\.5) % FPR", notes + text)
    captions = " ".join(caption for _, caption in pictured_subjects(found))
    assert f"Dice of its group, {max(row.dice['0.03'] or 0 for row in found[0].rows):.3f}" in captions
    both = [found[0], result("intensity", 1.0)]
    assert tables.mask_rate(both) == "1 % or 3 %"


def at(values: dict) -> dict:
    """Returns the values at 1 and 5 % as those at 0.2 and 3 %."""
    return {"0.002": values["0.01"], "0.03": values["0.05"]}


def test_a_lesion_outside_the_brain_mask_and_displaced_tissue_are_said(results):
    found = dataclasses.replace(results[0].metrics, missed_by_brain_mask=["sub-7", "sub-8"], displaced_voxels=31)
    some = [results[0]._replace(metrics=found), results[1]]
    text = tables.markdown(some)
    assert "which AUC cannot see: sub-7, sub-8 (vae_lg_neural_tv)." in text
    assert "31 voxels of tissue that synthetic lesions displace" in text
    assert tables.missed(results) == []
    assert not any("displace" in line for line in tables.conditions(results))


def test_several_scans_of_a_person_are_told():
    cases = [dataclasses.replace(measured.row(f"sub-A_ses-0{k}")) for k in range(3)] + [measured.row("sub-B")]
    found = result("a", 1.0)._replace(rows=cases)
    assert tables.repeated([found]) == [
        "4 scans are of 2 persons: sub-A (3). Each scan counts as a subject, so intervals and tests are too narrow."
    ]
    assert tables.repeated([found._replace(rows=cases[2:])]) == []


def test_other_scans_beside_the_references_are_warned_of(results):
    assert tables.strange(results) == []
    found = dataclasses.replace(results[0].metrics, other_scans=2)
    (line,) = tables.strange([results[0]._replace(metrics=found), *results[1:]])
    assert line.startswith(f"{results[0].name}: for 2 of {found.n_subjects} subjects, the scan beside the reference")


def test_models_trained_on_different_data_are_told_apart():
    text = tables.title([result("a", 2.0), result("b", 1.0, trained_on={"set": "IXI"})])
    assert 'Trained on phantom:train (a); {"set": "IXI"} (b).' in text


def test_subsampled_slices_are_said(results):
    some = [results[0], result("sparse", 2.0, step=4)]
    for text in (tables.markdown(some), render(some, [])):
        assert "Subsampled: 1 of 4 axial slices was restored" in text
        assert "(sparse)" in text
    assert "Subsampled" not in tables.markdown(results)


def test_rounded_scores_are_said(results, page):
    found = dataclasses.replace(results[0].metrics, auc_resolution=0.0004, auprc_resolution=0.002, score_bits=24)
    rounded = render([results[0]._replace(metrics=found)], [])
    assert "24 of 32 bits" in rounded
    assert "0.0004" in rounded
    assert "of 32 bits" not in page


def test_false_positive_rates_of_subjects_are_in_per_cent(results, page):
    """As in the table above them, whose asked rates are in per cent as well."""
    for row in (row for result in results for row in result.rows):
        for rate in RATES:
            assert f"<td>{100 * row.fpr[rate]:.2f} %</td>" in page
    (caption,) = [text for _, text in pictured_subjects(results) if text.startswith("healthy")]
    assert f"false positive rate of its group, {100 * results[0].rows[3].fpr['0.01']:.2f} %" in caption


@pytest.mark.parametrize(("score", "unit"), [("relative", "medians of |Y - X|"), ("absolute", "sd")])
def test_the_page_names_the_unit_of_a_score(results, score, unit):
    assert short_unit(score) == unit
    scored = results[0]._replace(metrics=dataclasses.replace(results[0].metrics, score=score))
    text = render([scored], [Picture("sub-0", "glioma", b"")])
    assert f"thresholds, {unit}<" in text
    assert "in standard deviations of the brain" not in text


def test_intervals_and_tests_are_spoken_of_where_there_are_some():
    cases = [case(index, "glioma" if index % 2 else "ms", f"sub-{index}", 1.0) for index in range(6)]
    for count, few in ((6, False), (5, True)):
        results = [measured.result(name, cases[:count], RATES) for name in ("vae_lg_neural_tv", "intensity")]
        compared = [compare.compare(results, "vae_lg_neural_tv", measured.settings())]
        page, text = render(results, [], compared), tables.markdown(results, compared)
        assert page.count("No test and no 95 % interval: fewer than 6 subjects.") == 1 + few  # the kinds are small
        assert text.count("No test and no 95 % interval: fewer than 6 subjects.") == 1 + few
        for told in (page, text):
            assert ("Holm's" in told or "Holm&#39;s" in told) == (not few)
            assert ("patients, with 95 % intervals" in told) == (not few)
            assert ("patients, without 95 % intervals: fewer than 6 subjects" in told) == few
        assert ("In brackets: 95 % intervals" in page) == (not few)
        assert ("No 95 % interval: fewer than 6 subjects." in page) == few
        assert ("on the same subjects, with 95 % intervals" in page) == (not few)
        assert ("unmarked: these subjects do not tell" in page) == (not few)


def test_a_page_without_any_lesion(page):
    found = result("gmm", 1.0, kinds=("healthy", "healthy"))
    assert found.curves is None
    text = render([found], [])
    assert "no lesion voxel" in text
    assert "ROC curves" not in text


def test_one_method_has_one_table_of_kinds(results):
    text = render(results[:1], [])
    (table,) = re.findall(r"<th>kind</th>.*?</table>", text, re.DOTALL)[:1]
    assert re.findall(r'<th scope="row">(\w+)</th>', table) == ["glioma", "ms"]


def test_which_subjects_are_pictured(results):
    single = [name[:5] for name, _ in pictured_subjects(results[:1])]
    assert sorted(single) == ["sub-0", "sub-1", "sub-2", "sub-3"]
    captions = dict(pictured_subjects(results))
    assert len(captions) == 3
    assert any("median Dice of its group" in text for text in captions.values())


@pytest.mark.parametrize("axes", ["RAS", "LPI", "PIR", "SAL"])
def test_radiological_view_of_any_orientation(axes):
    truth = np.zeros((5, 6, 7))  # RAS
    truth[4, 5, 2] = 1  # right, anterior
    truth[0, 0, 2] = 2  # left, posterior
    ornt = nib.orientations.axcodes2ornt(axes)
    transform = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), ornt)
    data = nib.orientations.apply_orientation(truth, transform)
    affine = np.diag([1.0, 2.0, 3.0, 1]) @ nib.orientations.inv_ornt_aff(transform, truth.shape)
    assert "".join(nib.aff2axcodes(affine)) == axes
    shown = radiological(data, affine)
    assert shown.shape == (6, 5, 7)
    assert shown[0, 0, 2] == 1  # top left: the patient's right, front
    assert shown[-1, -1, 2] == 2
    assert pixel_aspect(affine) == pytest.approx(2)


def test_figures_survive_extremes():
    odd = panels()._replace(brain=np.zeros((30, 24), bool), reference=np.zeros((30, 24), bool))
    for panel in (
        odd,
        panels()._replace(anomaly=-panels().anomaly),
        panels()._replace(image=np.zeros((30, 24))),
    ):
        assert subject_figure({"$x_1$ müll": panel}).startswith(b"\x89PNG")
    entries = {rate: Dice(None, None, None, 0, achieved) for rate, achieved in (("0.01", 0.0), ("0.05", None))}
    assert b"<svg" in charts.rates_figure({"$a$": entries}, charts.styles(["$a$"]))
    line = metrics.Curves((np.array([0, 1]), np.array([0, 1])), (np.array([1.0]), np.array([0.5])), 0.5)
    many = {f"method_{index}": line for index in range(13)}
    style = charts.styles(list(many))
    assert len({str(item) for item in style.values()}) == 13  # all told apart
    assert b"<svg" in charts.curves_figure(many, style)
    flat = {"$a$": Convergence([0], [0.0])}
    assert b"<svg" in charts.convergence_figure(flat, charts.styles(["$a$"]))
    lost = dataclasses.replace(SEARCH, curve=[[0.0, 0.9]], strength=0.0, reached=False)
    assert b"<svg" in charts.strengths_figure({"$a$": lost}, charts.styles(["$a$"]))


@pytest.mark.parametrize(("methods", "blocks"), [(1, 1), (6, 1), (7, 2), (13, 2), (14, 3)])
def test_methods_stand_side_by_side_in_blocks_of_at_most_seven(methods, blocks):
    png = subject_figure({f"m{index}": panels() for index in range(methods)})
    width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
    columns = -(-(methods + 1) // blocks)
    assert columns <= 7
    assert width / columns >= 1.45 * 120  # dots: nothing gets tiny
    assert height / blocks >= 3 * 1.45 * 120


def test_figures_are_reproducible(results):
    style = charts.styles([item.name for item in results])
    draw = [charts.curves_figure({item.name: item.curves for item in results}, style) for _ in range(2)]
    assert draw[0] == draw[1]


def test_the_picture_of_the_report_shows_the_plane_of_the_sidecar(tmp_path):
    scan = images.save(tmp_path / "raw" / "a.nii.gz", derived.brain(), derived.GRID)
    reference = np.zeros(derived.brain().shape, np.uint8)
    reference[8, 8, 2] = 1  # shows slice 2
    images.save(tmp_path / "raw" / "a_seg.nii.gz", reference, derived.GRID)
    derived.restore(scan.parent, tmp_path / "out")
    (path,) = tmp_path.glob("out/**/*desc-anomaly_T2w.json")
    normal, offset = [-0.8, 0.0, 0.6], 3.0
    plane = {"normal": normal, "offset_mm": offset, "uncertainty_mm": 0.5, "score": 0.4}
    for said, expected in (
        (None, None),
        (plane | {"score": 0.05}, None),
        (plane, (8 * 0.8, 0.0, 3.0 - 0.6 * 40 + 0.8 * 19 * 8)),
    ):
        path.write_text(json.dumps({**json.loads(path.read_text()), "MidsagittalPlane": said}))
        (prediction,) = read_predictions(tmp_path / "out")[0].values()
        (subject,) = sources.find(str(scan.parent))
        found = picture(prediction, subject).midline
        assert found == (expected and pytest.approx(expected))
