"""The viewer in a real browser without a network: what it draws, says and does. Skipped where there is no Chromium."""

import base64
import io
import re
import shutil
import types

import conftest
import measured
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from playwright import sync_api
from test_report import panels, result
from test_viewer import EVIL, OBLIQUE, shown

from lgjax.derivatives.sidecar import Quality
from lgjax.evaluation import compare
from lgjax.report import group_page, viewer, volumes
from lgjax.report.group import Cohort
from lgjax.report.page import Picture, render
from lgjax.report.viewer import Line
from lgjax.scans.pictures import subject_figure

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    *("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
DESKTOP, PHONE = {"width": 1200, "height": 700}, {"width": 360, "height": 700}
CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (value) => (value / 255 <= 0.03928 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  return [...document.body.querySelectorAll("*")]
    .filter((element) => !["SCRIPT", "OPTION"].includes(element.tagName))
    .filter((element) => element.checkVisibility() && hasText(element))
    .map((element) => {
      const [a, b] = [light(numbers(getComputedStyle(element).color)), light(behind(element))];
      return [element.textContent.trim().slice(0, 40), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    });
}"""  # WCAG 2.2, 1.4.3


@pytest.fixture(scope="module")
def browser():
    """A Chromium that reaches no host, drawing without a GPU."""
    with sync_api.sync_playwright() as driver:
        try:  # that on the PATH, or else the one that playwright has installed
            running = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        except sync_api.Error as error:
            pytest.skip(f"{conftest.NO_CHROMIUM}: {str(error).splitlines()[0]}")
        yield running
        running.close()


def test_the_end_of_a_run_says_that_nobody_looked_at_pages():
    told = []
    reports = [types.SimpleNamespace(longrepr=("path", 1, f"Skipped: {why}")) for why in (conftest.NO_CHROMIUM, "slow")]

    def end(**stats) -> list[str]:
        told.clear()
        write_line = lambda line, **_: told.append(line)  # noqa: E731
        conftest.pytest_terminal_summary(types.SimpleNamespace(stats=stats, write_line=write_line))
        return told

    (line,) = end(skipped=reports, passed=reports)
    assert line.startswith("browser tests were skipped: no Chromium can be started; 1 test")
    assert end(skipped=reports[1:]) == end() == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pages of one scan and its list; the names on them are hostile."""
    folder = tmp_path_factory.mktemp("pages")
    lights = ("green", "amber", "red")
    lines = [
        Line(f"sub-{k}{EVIL}", f"glioma{EVIL}", float(k), 1.0, 0.5, "0.01", light, k) for k, light in enumerate(lights)
    ]
    said = {"quality": Quality("red", [f"tilt{EVIL}"], {}), "warnings": [f"qform{EVIL}"]}
    page = viewer.page(shown(identifier=f"sub-1{EVIL}", **said), lines[1])
    (folder / "page.html").write_text(page, encoding="utf-8")
    (folder / "index.html").write_text(viewer.index(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def reports(folder):
    """Reports of an evaluation and of a cohort, with all that they may say."""
    results = [result("vae_lg_neural_tv", 2.0), result("intensity", 1.0)]
    picture = subject_figure({item.name: panels() for item in results})
    differences = [compare.compare(results, results[0].name, measured.settings())]
    page = render(results, [Picture(f"sub-0{EVIL}", "glioma", picture)], differences, with_paper=True)
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "group.html").write_text(group_page.render(Cohort({}, {f"sub-1{EVIL}": "is truncated"})))


class Visit:
    """One page in a tab that refuses every request but for files, and keeps what the page complains of."""

    def __init__(self, browser, path, **options):
        self.complaints, self.asked = [], []
        self.context = browser.new_context(offline=True, **options)
        self.context.route(re.compile("^(?!file:)"), self.refuse)
        self.tab = self.context.new_page()
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(path.as_uri())
        if path.name == "page.html":
            self.tab.wait_for_selector("html[data-ready]", state="attached", timeout=120_000)

    def refuse(self, route):
        """Refuses a request."""
        self.asked.append(route.request.url)
        route.abort()

    def text(self, name: str) -> str:
        """Returns what stands in one element."""
        return self.tab.inner_text(f"#{name}")

    def mm(self) -> np.ndarray:
        """Returns where the page says that the crosshair is, mm (RAS+), to 0.1 mm."""
        found = re.findall(r"([RLAPSI]) ([\d.]+)", self.text("mm"))
        return np.array([float(value) * (1 if letter in "RAS" else -1) for letter, value in found])

    def voxel(self) -> tuple[int, ...]:
        """Returns the voxel of the file that the page says is under the crosshair."""
        return tuple(map(int, self.text("voxel").split(",")))

    def go(self, voxel) -> None:
        """Moves the crosshair to the middle of a voxel of the file."""
        mm = nib.affines.apply_affine(OBLIQUE, voxel).tolist()
        move = "viewer.scene.crosshairPos = viewer.mm2frac(mm, 0, true); viewer.createOnLocationChange()"
        self.tab.evaluate(f"(mm) => {{ const {{ viewer }} = window.lgjax; {move}; viewer.drawScene(); }}", mm)

    def picture(self) -> np.ndarray:
        """Returns what the canvas shows, [H, W, 3]."""
        draw = "window.lgjax.viewer.drawScene(); return document.getElementById('canvas').toDataURL()"
        file = base64.b64decode(self.tab.evaluate(f"() => {{ {draw}; }}").partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), float)


def warm(picture: np.ndarray) -> np.ndarray:
    """Returns where a picture shows the anomaly map, [H, W] bool; the colour bar below is left out."""
    above = picture[: int(0.85 * len(picture))]
    return above[..., 0] - above[..., 1] > 60


@pytest.fixture(scope="module")
def visit(browser, folder):
    found = Visit(browser, folder / "page.html", viewport=DESKTOP)
    yield found
    found.context.close()


def test_the_value_under_the_crosshair_is_that_of_the_file_there(visit):
    """On a grid that is oblique, sheared and mirrored; nibabel says where a voxel lies."""
    made = shown()
    rng = np.random.default_rng(0)
    places = np.argwhere(made.brain)
    for voxel in [*places[rng.choice(len(places), 12)], (15, 12, 10), (5, 20, 10)]:
        voxel = tuple(map(int, voxel))
        visit.go(voxel)
        assert visit.voxel() == voxel
        np.testing.assert_allclose(visit.mm(), nib.affines.apply_affine(OBLIQUE, voxel), atol=0.051)
        for name in ("scan", "restored", "anomaly"):
            volume = getattr(made, name)
            step = 1.01 * float(np.ptp(volume)) / volumes.LEVELS
            found = float(visit.text(f"value-{name}").removesuffix(" sd"))
            assert found == pytest.approx(float(volume[voxel]), abs=step + 1e-3 * abs(found))
        for name in ("detected", "reference"):
            assert visit.text(f"value-{name}") == ("yes" if getattr(made, name)[voxel] else "no")


def test_the_threshold_starts_as_calibrated_and_changes_the_picture(visit):
    made = shown()
    voxel_ml = abs(np.linalg.det(OBLIQUE[:3, :3])) / 1000
    visit.go((15, 12, 10))
    before = visit.picture()
    assert before.std() > 10  # something is drawn
    assert visit.tab.locator(".rate[aria-pressed=true]").all_inner_texts() == ["1 %"]
    assert f"2.00 sd; {(made.anomaly > 2).sum() * voxel_ml:.1f} mL lie above" == visit.text("above")
    move = "it.value = it.max; it.dispatchEvent(new Event('input'))"
    visit.tab.evaluate(f"() => {{ const it = document.getElementById('threshold'); {move}; }}")
    after = visit.picture()
    assert warm(before).sum() > 500
    assert warm(after).sum() < 20  # the map is gone
    assert visit.tab.locator(".rate[aria-pressed=true]").count() == 0
    visit.tab.get_by_role("button", name="0.1 %").click()
    assert visit.text("above") == f"3.00 sd; {(made.anomaly > 3).sum() * voxel_ml:.1f} mL lie above"
    visit.tab.get_by_role("button", name="1 mL").click()
    assert visit.text("above") == f"3.25 sd; {(made.anomaly > 3.25).sum() * voxel_ml:.1f} mL lie above"
    assert visit.tab.locator(".rate[aria-pressed=true]").all_inner_texts() == ["1 mL"]
    visit.tab.keyboard.press("t")
    assert visit.text("above").startswith("2.00 sd")
    np.testing.assert_array_equal(visit.picture(), before)


@pytest.mark.parametrize("where", ["body", "#canvas"])
def test_keys_move_the_slices(visit, where):
    visit.tab.focus("#canvas") if where == "#canvas" else visit.tab.evaluate("() => document.activeElement.blur()")
    visit.go((12, 14, 10))
    for key, axis, sign in (
        *(("ArrowRight", 0, -1), ("ArrowLeft", 0, 1)),  # radiological: the patient's left is on the right
        *(("ArrowUp", 1, 1), ("ArrowDown", 1, -1), ("PageUp", 2, 1), ("PageDown", 2, -1)),
    ):
        start = visit.mm()
        visit.tab.keyboard.press(key)
        moved = visit.mm() - start
        assert (np.argmax(np.abs(moved)), np.sign(moved[axis])) == (axis, sign)
        assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(OBLIQUE[:3, axis]), abs=0.2)  # one slice
    assert visit.voxel() == (12, 14, 10)
    visit.tab.keyboard.press("n")
    assert visit.text("side-told") == "the patient's left is on the left"
    start = visit.mm()
    visit.tab.keyboard.press("ArrowRight")
    assert visit.mm()[0] > start[0]
    visit.tab.keyboard.press("n")
    assert visit.text("side") == "radiological"


def test_keys_and_boxes_switch_the_layers(visit):
    visit.go((15, 12, 10))
    before = visit.picture()
    for key, name in (("s", "scan"), ("r", "restored"), ("m", "anomaly"), ("d", "detected"), ("g", "reference")):
        visit.tab.keyboard.press(key)
        assert np.abs(visit.picture() - before).max() > 20, name
        visit.tab.locator(f"#show-{name}").click()
        np.testing.assert_array_equal(visit.picture(), before)
    visit.tab.locator("#opacity-scan").fill("0.3")
    assert visit.picture().mean() < before.mean()
    visit.tab.locator("#opacity-scan").fill("1")


def test_the_radiological_view_is_the_mirror_image(visit):
    """The lesion lies where the first voxel axis is high; this axis runs to the patient's left."""
    visit.tab.select_option("#view", "axial")
    visit.go((15, 12, 10))
    halves = []
    for _ in range(2):
        halves.append(np.argwhere(warm(visit.picture()))[:, 1].mean())
        visit.tab.keyboard.press("n")
    visit.tab.select_option("#view", "planes")
    assert halves[0] > 1.1 * halves[1]


def test_lesions_are_jumped_to(visit):
    visit.tab.locator(".lesion").nth(1).click()
    assert visit.voxel() == (5, 20, 10)
    visit.tab.keyboard.press("k")
    assert np.abs(np.subtract(visit.voxel(), (15, 11.5, 9.5))).max() <= 0.5  # its centre
    visit.tab.keyboard.press("j")
    assert visit.voxel() == (5, 20, 10)


def test_all_views_are_drawn(visit):
    seen = []
    for _ in range(5):
        seen.append(visit.picture())
        visit.tab.keyboard.press("v")
    assert min(picture.std() for picture in seen) > 5
    assert all(np.abs(a - b).max() > 20 for k, a in enumerate(seen) for b in seen[:k])


def test_the_page_said_and_asked_nothing(visit, folder):
    """After all of the above."""
    assert visit.complaints == []
    assert visit.asked == [(folder / "page.html").as_uri()]


def test_the_list_leads_from_page_to_page(browser, tmp_path):
    """Where a scan is the last one, or is gone, the list stays."""
    names = ("sub-a", "sub-b b", "sub-c")
    lines = [Line(name, "", None, 3.0 - k, None, "0.01") for k, name in enumerate(names)]
    (tmp_path / "sub-b b.html").write_text(viewer.page(shown(identifier=names[1]), lines[1]))
    (tmp_path / "sub-a.html").write_text("<title>the page before</title>")
    (tmp_path / "index.html").write_text(viewer.index(lines[:2]))  # the third has changed since
    found = Visit(browser, tmp_path / "sub-b b.html", viewport=DESKTOP)
    before = found.tab.locator("#before").evaluate("(link) => link.href")
    found.tab.keyboard.press(".")
    found.tab.wait_for_url("**/index.html#after=sub-b%20b.html")
    assert found.tab.locator("tbody a").all_inner_texts() == list(names[:2])
    found.tab.goto("about:blank")
    found.tab.goto(before)
    found.tab.wait_for_url("**/sub-a.html")
    assert found.complaints == []
    found.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["page.html", "index.html", "report.html", "group.html"])
@pytest.mark.usefixtures("reports")
def test_a_phone_shows_all_in_either_scheme_with_enough_contrast(browser, folder, name, scheme):
    found = Visit(browser, folder / name, viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True)
    width, wanted = found.tab.evaluate("() => [document.documentElement.clientWidth, document.body.scrollWidth]")
    assert wanted <= width == PHONE["width"]
    paper = found.tab.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", paper))) < 60) == (scheme == "dark")
    found.tab.evaluate("() => document.querySelectorAll('details').forEach((it) => { it.open = true; })")
    grounds = found.tab.evaluate("() => [...document.images].map((it) => getComputedStyle(it).backgroundColor)")
    assert set(grounds) <= {"rgb(255, 255, 255)"}  # charts have dark ink
    assert bool(grounds) == (name == "report.html")
    contrasts = found.tab.evaluate(CONTRASTS)
    assert len(contrasts) > 5
    assert [(text, ratio) for text, ratio in contrasts if ratio < 4.5] == []
    assert found.complaints == []
    found.context.close()


@pytest.mark.usefixtures("reports")
def test_a_shade_tells_that_a_table_goes_on(browser, folder):
    """At its right edge, until the table is scrolled to its end."""
    found = Visit(browser, folder / "report.html", viewport=PHONE)
    table = found.tab.locator(".scroll").first

    def edge() -> float:
        return np.asarray(Image.open(io.BytesIO(table.screenshot())).convert("L"))[5:25, -3:].mean()

    assert table.evaluate("(it) => it.scrollWidth > it.clientWidth + 10")
    before = edge()
    table.evaluate("(it) => it.scrollTo(it.scrollWidth, 0)")
    assert before < edge() - 50
    found.context.close()
