"""The table and the page: escaped, offline, complete; figures draw what they are given."""

import base64
import html.parser
import re

import nibabel as nib
import numpy as np
import pytest

from lgjax import figures, report
from lgjax.evaluation import Case, aggregate

EVIL = "<script>alert('x')</script>"
RATES = {"0.01": 2.0, "0.05": 1.0}


def case(seed: int, kind: str, name: str, lift: float) -> Case:
    rng = np.random.default_rng(seed)
    lesion = rng.random(400) < (0 if kind == "healthy" else 0.1)
    row = {"participant_id": name, "kind": kind, "brain_voxels": 400, "lesion_voxels": int(lesion.sum())}
    row |= {"lesion_ml": 1.0, "lesion_outside_brain_voxels": 0, "same_scan": True}
    for rate in RATES:
        row[f"dice_{rate}"] = None if kind == "healthy" else float(rng.random()) * lift / 3
        row[f"fpr_{rate}"] = float(rng.random()) / 10
    row |= {"sensitivity": 0.5, "ppv": 0.5, "f1": 0.5}
    return Case(row, (rng.normal(size=400) + lift * lesion).astype(np.float32), lesion)


def result(name: str, lift: float, kinds=("glioma", "glioma", "ms", "healthy"), **changes) -> report.Result:
    cases = [case(index, kind, f"sub-{index}{EVIL}", lift) for index, kind in enumerate(kinds)]
    found, curves = aggregate(cases, list(RATES))
    found["groups"] = {
        kind: aggregate([item for item in cases if item.row["kind"] == kind], list(RATES))[0]
        for kind in sorted(set(kinds))
    }
    provenance = {"labels": f"data {EVIL}", "trained_on": "phantom:train", "device": "cpu"} | changes
    found |= {"method": name, "score": "absolute", "thresholds": RATES, "provenance": provenance}
    found["failed"] = {f"sub-9{EVIL}": f"broken {EVIL}"}
    return report.Result(name, found, [item.row for item in cases], curves)


@pytest.fixture(scope="module")
def results():
    return [result("vae_lg_neural_tv", 2.0), result("intensity", 1.0)]


def panels(shape=(30, 24)) -> figures.Panels:
    rng = np.random.default_rng(0)
    brain = np.zeros(shape, bool)
    brain[3:-3, 3:-3] = True
    reference = np.zeros(shape, bool)
    reference[10:14, 9:15] = True
    values = rng.random((3, *shape)) * brain
    return figures.Panels(values[0], values[1], values[2], values[2] > 0.9, reference, brain, 1.0)


@pytest.fixture(scope="module")
def page(results):
    png = figures.subject_figure({item.name: panels() for item in results})
    return report.render(results, [report.Picture(f"sub-0{EVIL}", f"glioma {EVIL}", png)])


class Tags(html.parser.HTMLParser):
    """Collects tags with their attributes, and checks that they close in order."""

    def __init__(self):
        super().__init__()
        self.seen, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_names_are_escaped(page):
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 6


def test_the_page_is_well_formed_and_loads_nothing(page):
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    assert not {tag for tag, _ in tags.seen} & {"script", "link", "iframe", "object"}
    sources = [attrs["src"] for tag, attrs in tags.seen if tag == "img"]
    assert len(sources) == 4
    for source in sources:
        kind, _, data = source.partition(";base64,")
        start = base64.b64decode(data)[:5]
        assert (kind, start) in {("data:image/png", b"\x89PNG\r"), ("data:image/svg+xml", b"<?xml")}
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert all(attrs["alt"] for tag, attrs in tags.seen if tag == "img")


def test_the_page_says_what_a_reader_must_know(page):
    assert report.NOTICE in page
    for text in ("phantom:train", "at most 4096 bins", "radiological", "Not evaluated"):
        assert text in page
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"base64,[^\"]*", "", page))


def test_the_best_of_every_column_is_marked(results):
    strong, weak = report.table(results)
    assert strong.cells[0].best
    assert not weak.cells[0].best
    assert not any(cell.best for cell in report.table(results[:1])[0].cells)
    assert report.table(results, "healthy") == []


def test_equal_prints_are_equally_good(results):
    first = report.table([results[0], results[0]._replace(name="copy")])
    assert all(cell.best for row in first for cell in row.cells)


def test_the_markdown_table(results):
    text = report.markdown_table(results)
    lines = text.splitlines()
    assert lines[0].startswith("Measured on 4 subjects of data")
    assert "1 healthy" in lines[0]
    assert "Trained on phantom:train" in lines[0]
    head, rule, *rows = [line for line in lines if line.startswith("|")]
    names = ["method", "n", "AUC", "AUPRC", "Dice 1 %", "Dice 5 %", "oracle Dice"]
    assert [cell.strip() for cell in head.split("|")[1:-1]] == names
    assert set(rule) <= set("|- ")
    assert [row.split("|")[1].strip() for row in rows[:3]] == ["vae_lg_neural_tv", "- glioma", "- ms"]
    assert f"{results[0].metrics['dice']['0.01']['mean']:.3f} ± " in rows[0]
    assert any(row.startswith("| - healthy") and row.count("%") == 2 for row in rows)


def test_models_trained_on_different_data_are_told_apart():
    text = report.title([result("a", 2.0), result("b", 1.0, trained_on={"set": "IXI"})])
    assert 'Trained on phantom:train (a); {"set": "IXI"} (b).' in text


def test_a_page_without_any_lesion(page):
    found = result("gmm", 1.0, kinds=("healthy", "healthy"))
    assert found.curves is None
    text = report.render([found], [])
    assert "no lesion voxel" in text
    assert "ROC curves" not in text


def test_one_method_has_one_table_of_kinds(results):
    text = report.render(results[:1], [])
    (table,) = re.findall(r"<th>kind</th>.*?</table>", text, re.DOTALL)[:1]
    assert re.findall(r'<th scope="row">(\w+)</th>', table) == ["glioma", "ms"]


def test_which_subjects_are_pictured(results):
    single = [name[:5] for name, _ in report.pictured_subjects(results[:1])]
    assert sorted(single) == ["sub-0", "sub-1", "sub-2", "sub-3"]
    captions = dict(report.pictured_subjects(results))
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
    shown = figures.radiological(data, affine)
    assert shown.shape == (6, 5, 7)
    assert shown[0, 0, 2] == 1  # top left: the patient's right, front
    assert shown[-1, -1, 2] == 2
    assert figures.pixel_aspect(affine) == pytest.approx(2)


def test_figures_survive_extremes():
    odd = panels()._replace(brain=np.zeros((30, 24), bool), reference=np.zeros((30, 24), bool))
    for panel in (
        odd,
        panels()._replace(anomaly=-panels().anomaly),
        panels()._replace(image=np.zeros((30, 24))),
    ):
        assert figures.subject_figure({"$x_1$ müll": panel}).startswith(b"\x89PNG")
    entries = {"0.01": {"achieved_fpr": 0.0}, "0.05": {"achieved_fpr": None}}
    assert b"<svg" in figures.rates_figure({"$a$": entries})
    line = figures.Curves((np.array([0, 1]), np.array([0, 1])), (np.array([1.0]), np.array([0.5])), 0.5)
    assert b"<svg" in figures.curves_figure({f"method_{index}": line for index in range(12)})


def test_figures_are_reproducible(results):
    draw = [figures.curves_figure({item.name: item.curves for item in results}) for _ in range(2)]
    assert draw[0] == draw[1]
