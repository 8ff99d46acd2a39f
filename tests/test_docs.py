"""README and docs held against the program: commands parse, paths and links exist, Python compiles, numbers agree."""

import ast
import functools
import importlib
import importlib.metadata
import json
import pathlib
import re
import shlex
import textwrap
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from absl import flags
from conftest import ROOT
from test_architecture import DOORS, FLOORS

from lgjax.cli import bids_app, completion, parse, recorded
from lgjax.methods import names
from lgjax.workdir.recorded import SHIPPED

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections

LOOP = re.compile(r"for (\w+) in ([^;\n]+); do\n(.*?)done", re.DOTALL)
COMMAND = re.compile(r"(?:python -m lgjax\.|\blgjax )\w.*|bash (?:launch|benchmarks)/.*")
RECORDED = ROOT / "configs" / "vae.py"  # in place of the config that a work directory records
NO_VERBS = {"As", "Bytes", "Classes", "Is", "Iterations", "Its", "Loss", "Percentiles", "Seconds", "This", "Versions"}
PLACE = re.compile(r"(?:configs|launch|benchmarks|lgjax|tests|docs)/[\w./{},*-]*")


def verbless(path: pathlib.Path) -> list[str]:
    """Lists the public functions and methods of a file whose docstrings do not begin with a verb, a line each."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    found = []
    for node in (inner for outer in (tree, *classes) for inner in outer.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            first = next(iter((ast.get_docstring(node) or "").split()), "").rstrip(",;:.")
            verb = re.fullmatch(r"[A-Z][a-z-]*s", first) and first not in NO_VERBS
            if not verb and not any("property" in ast.unparse(each) for each in node.decorator_list):
                found.append(f"{path}:{node.lineno}: {node.name} begins with {first!r}")
    return found


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return [textwrap.dedent(code) for _, found, code in FENCE.findall(text) if found == language]


def spans(text: str) -> list[str]:
    """What stands between single backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def commands(text: str) -> list[str]:
    """The commands of this project that a page names, in blocks and between backticks; loops are unrolled."""
    lines = spans(text)
    for block in blocks(text, "bash"):
        joined = LOOP.sub(unrolled, block.replace("\\\n", " "))
        lines += [line.partition(" #")[0].partition("; }")[0] for line in joined.splitlines()]
    return [match.group() for line in lines if (match := COMMAND.search(line)) and not line.startswith("#")]


def unrolled(loop: re.Match) -> str:
    """The body of a shell loop, once for every value of its variable."""
    name, values, body = loop.groups()
    return "".join(body.replace(f"${name}", value) for value in values.split())


def command_problems(command: str) -> list[str]:
    """What is wrong with one command, as typed."""
    words = shlex.split(command)
    if words[0] == "bash":
        return script_problems(*words[1:])
    door, *given = words[1:] if words[0] == "lgjax" else (words[2].removeprefix("lgjax."), *words[3:])
    if door not in DOORS:
        known = {"info": ([], ["--json"]), "completion": ([], *([shell] for shell in completion.SHELLS))}
        return [] if given in known.get(door, ()) else [f"there is no command {door}"]
    try:
        methods = parsed(door, [word for word in given if not word.startswith("--device=")], method_of)
        for method in methods or []:
            if "$" not in method and (door, method) != ("restore", "table1"):
                names.parse(method)
    except Exception as error:
        return [f"{command}: {error or type(error).__name__}"]
    return []


def method_of(values: flags.FlagValues) -> list[str] | None:
    """The value of --method where a command has it, after a look at the config."""
    assert "config" not in values or values.config.name  # a config that could not be read says so when it is used
    return values["method"].value if "method" in values else None


def parsed(door: str, given: list[str], look: Callable[[flags.FlagValues], Any]) -> Any:
    """Parses the flags of a command as the command does, returns a look at them and leaves none behind."""
    values = flags.FlagValues()
    if door in ("calibrate", "restore", "bids", "export") and not any(word.startswith("--config=") for word in given):
        given = [*given, f"--config={RECORDED}"]
    with mock.patch.multiple(recorded, check_trained=mock.DEFAULT, check_released=mock.DEFAULT):  # nothing is, here
        if door == "bids":
            bids_app.parse_arguments(given, values)
        else:
            parse.parse(door, [door, *given], values)
    return look(values)


def script_problems(script: str, *given: str) -> list[str]:
    """What is wrong with a call of a shell script: it does not exist, or does not know an option."""
    path = ROOT / script
    if not path.is_file():
        return [f"{script} does not exist"]
    text = path.read_text(encoding="utf-8")
    options = [word.partition("=")[0] for word in given if word.startswith("--")]
    return [f"{script} has no {option}" for option in options if option not in text]


def place_problems(text: str) -> list[str]:
    """Paths of the repository between backticks that do not exist, and variants that configs do not have."""
    found = []
    for span in spans(text):
        place, _, variant = span.partition(":")
        if PLACE.fullmatch(place):
            head, _, rest = place.partition("{")
            options, _, tail = rest.partition("}")
            paths = [f"{head}{option}{tail}" for option in options.split(",")] if rest else [place]
            found += [f"{path} does not exist" for path in paths if not list(ROOT.glob(path))]
        if variant and re.fullmatch(r"configs/\w+\.py", place) and (ROOT / place).is_file():
            try:
                importlib.import_module(place.removesuffix(".py").replace("/", ".")).get_config(variant)
            except Exception:
                found.append(f"{place} has no variant {variant}")
    return found


def flag_problems(text: str) -> list[str]:
    """Flags between backticks that neither a command nor a script of launch/ has."""
    words = [word for span in spans(text) for word in span.split() if span.startswith("--")]
    found = [word.partition("=")[0] for word in words if word.startswith("--")]
    return [f"there is no {flag}" for flag in found if flag not in all_flags()]


@functools.cache
def all_flags() -> set[str]:
    """Every flag of a command, of the values in configs/ and of a script, with its dashes."""
    found = {"--help", "--helpfull", "--device", "--debug"}
    for door in DOORS:
        given = ["BIDS_DIR", "OUT", "participant"] if door == "bids" else []
        found |= {f"--{name}" for name in parsed(door, given, lambda values: set(values))}
    found |= {name for action in bids_app.parser()._actions for name in action.option_strings}
    for path in (ROOT / "configs").glob("[!_]*.py"):
        config = importlib.import_module(f"configs.{path.stem}")
        if hasattr(config, "get_config"):
            found |= {f"--config.{key}" for key in keys(config.get_config())}
    for script in (ROOT / "launch").iterdir():
        found |= set(re.findall(r"--\w+", script.read_text(encoding="utf-8")))
    return found


def keys(config) -> list[str]:
    """The dotted names of a config's values."""
    found = []
    for key, value in config.items():
        found += [f"{key}.{name}" for name in keys(value)] if hasattr(value, "items") else [key]
    return found


def link_problems(text: str, folder: pathlib.Path) -> list[str]:
    """Links of a page in a folder to files or headings that do not exist."""
    found = []
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", FENCE.sub("", text)):
        if target.startswith("http"):
            continue
        path = folder / target
        if target and not path.is_file():
            found.append(f"{target} does not exist")
        elif anchor:
            content = path.read_text(encoding="utf-8") if target else text
            headings = re.findall(r"^#+ (.*)", content, re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings]
            if anchor[1:] not in slugs:
                found.append(f"{target}{anchor} is no heading")
    return found


def python_problems(text: str) -> list[str]:
    """Python blocks of a page that do not compile."""
    found = []
    for block in blocks(text, "python"):
        try:
            compile(block, "block", "exec")
        except SyntaxError as error:
            found.append(f"{error}: {block}")
    return found


def readme_python() -> str:
    """The README's lines of Python."""
    (block,) = blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    return block


def notebook_cells() -> list[dict]:
    """The cells of the quick start."""
    return json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request, monkeypatch):
    """A page, seen from the root of the repository."""
    monkeypatch.chdir(ROOT)
    return request.param


def test_every_command_of_a_page_parses(page):
    text = page.read_text(encoding="utf-8")
    for command in commands(text):
        assert command_problems(command) == []


def test_what_a_page_points_to_exists(page):
    text = page.read_text(encoding="utf-8")
    found = place_problems(text) + flag_problems(text) + link_problems(text, page.parent) + python_problems(text)
    assert found == []


def test_commands_stand_in_fences(page):
    outside = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert not re.findall(rf"^ *(?:python -m|bash launch/|lgjax (?:{'|'.join(DOORS)}) ).*", outside, re.MULTILINE)


def test_the_pages_hold_the_commands_that_are_checked():
    found = [command for path in PAGES for command in commands(path.read_text(encoding="utf-8"))]
    assert {command.split()[2] for command in found if command.startswith("python")} == {f"lgjax.{d}" for d in DOORS}
    assert sum("configs/gmvae.py" in command for command in found) >= 1, "loops are unrolled"


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("python -m lgjax.paint", "no command paint"),
        ("lgjax paint", "no command paint"),
        ("python -m lgjax.train --nosuch=1", "nosuch"),
        ("python -m lgjax.train --config=configs/nothing.py", "nothing.py does not exist"),
        ("python -m lgjax.train --config=configs/vae.py:bogus", "bogus"),
        ("python -m lgjax.train --config.train.stepz=1", "stepz"),
        ("python -m lgjax.train --config.train.steps=many", "many"),
        ("python -m lgjax.calibrate --workdir=W --method=vae_lg_magic_tv", "no method"),
        ("python -m lgjax.train --workdir=W scan.nii.gz", "takes flags alone"),
        ("python -m lgjax.preprocess --layout=magic", "magic"),
        ("lgjax bids DATA OUT", "LEVEL"),
        ("lgjax bids DATA OUT participant --lable 01", "no argument --lable"),
        ("bash launch/nothing.sh", "does not exist"),
        ("bash launch/table1.sh --tiny", "no --tiny"),
    ],
)
def test_a_wrong_command_is_noticed(command, problem, monkeypatch):
    monkeypatch.chdir(ROOT)
    for text in (f"`{command}`", f"```bash\n{command}  # as typed\n```"):
        (typed,) = commands(text)
        (found,) = command_problems(typed)
        assert problem in found.removeprefix(typed)


def test_what_does_not_exist_is_noticed():
    assert place_problems("`configs/nothing.py`, `benchmarks/{cohort,nothing}.py`") == [
        "configs/nothing.py does not exist",
        "benchmarks/nothing.py does not exist",
    ]
    assert place_problems("`configs/vae.py:bogus`") == ["configs/vae.py has no variant bogus"]
    assert link_problems("[a](nothing.md) and [b](README.md#nowhere)", ROOT) == [
        "nothing.md does not exist",
        "README.md#nowhere is no heading",
    ]
    assert python_problems("```python\nfound = (\n```")
    assert flag_problems("`--nosuch=1 --workdir=W`, `--config.train.stepz`, `--config.train.steps`") == [
        "there is no --nosuch",
        "there is no --config.train.stepz",
    ]


def test_no_flag_is_left_behind(monkeypatch):
    monkeypatch.chdir(ROOT)
    before = set(flags.FLAGS)
    assert command_problems("lgjax restore --workdir=W") == []
    assert set(flags.FLAGS) == before


def test_a_docstring_begins_with_a_verb():
    found = [line for path in sorted((ROOT / "lgjax").rglob("*.py")) for line in verbless(path)]
    assert not found, "begin with a verb in the third person, such as Returns:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ('def f():\n    """The sum."""', "a.py:1: f begins with 'The'"),
        ('def f():\n    """Loss in nats."""', "a.py:1: f begins with 'Loss'"),
        ('def f():\n    """Python\'s own."""', 'a.py:1: f begins with "Python\'s"'),
        ('def f():\n    """Return the sum."""', "a.py:1: f begins with 'Return'"),
        ("def f():\n    return 0", "a.py:1: f begins with ''"),
        ('class A:\n    """A noun."""\n\n    def f(self):\n        """The sum."""', "a.py:4: f begins with 'The'"),
        ('def f():\n    """Returns the sum."""\n\n    def g():\n        """The sum."""', None),  # nested
        ('def f():\n    """Z-scores a scan."""', None),
        ('def _f():\n    """The sum."""', None),
        ('class A:\n    @property\n    def f(self):\n        """The sum."""', None),
        ('class _A:\n    def f(self):\n        """The sum."""', None),
    ],
)
def test_a_docstring_without_a_verb_is_noticed(tmp_path, code, told):
    path = tmp_path / "a.py"
    path.write_text(code + "\n", encoding="utf-8")
    assert verbless(path) == ([f"{tmp_path}/{told}"] if told else [])


def test_the_readme_shows_five_statements_of_python():
    lines = [line.partition("#")[0].strip() for line in readme_python().splitlines()]
    assert [line for line in lines if line] == [
        "import lgjax",
        "detector = lgjax.load()",
        'scan = lgjax.read("scan.nii.gz")',
        "found = detector(scan)",
        'found.save("out")',
    ]


def test_every_method_of_the_readme_exists():
    rows = re.findall(r"^\| (`.*?) \| ", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert {"gmm", "vae_lg_neural_tv"} <= listed <= set(names.available())


def test_the_readme_says_which_methods_have_no_thresholds_that_travel():
    """Without weights, restore takes the shipped thresholds, or asks for calibrate."""
    shipped = {path.stem for path in (SHIPPED / "calibration").glob("*.json")}
    rows = re.findall(r"^\| (`.*none trained.*)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    untrained = {row: set(re.findall(r"`(\w+)`", row.partition("|")[0])) for row in rows}
    assert set().union(*untrained.values()) == shipped | {"gmm", "intensity"}
    for row, listed in untrained.items():
        assert listed <= shipped if "calibrate first" not in row else not listed & shipped


def test_the_speeds_are_those_of_the_record():
    record = json.loads((ROOT / "benchmarks" / "bench_h200.json").read_text(encoding="utf-8"))
    readme, speed = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/speed.md"))
    ratios = []
    for method, found in record["methods"].items():
        quartiles = found["seconds_per_iteration"]
        median, lower, upper = (f"{1000 * quartiles[key]:.2f}" for key in ("median", "lower", "upper"))
        ratios.append(f"{found['paper_over_ours']:.0f}")
        floor = found["bytes"] / record["peaks"]["bytes"]
        (row,) = re.findall(rf"^\| `{method}`.*\[.*\].*$", speed, re.MULTILINE)
        cells = [cell.strip() for cell in row.split("|")[2:-1]]
        assert cells == [
            f"{median} [{lower}, {upper}]",
            f"{1000 * found['paper_seconds']:.0f}",
            ratios[-1],
            f"{found['bytes'] / 1e9:.2f}",
            f"{1000 * floor:.2f}",
            f"{100 * floor / quartiles['median']:.0f} %",
            f"{found['volume']['seconds']:.2f} s",
        ]
        assert median in readme
    assert f"{ratios[0]}, {ratios[1]} and {ratios[2]} times" in readme
    training = record["training"]["vae"]["steps_per_second"]["median"]
    assert f"{training:.1f} steps a second" in speed
    assert f"{193_000 / training / 60:.1f} minutes" in speed


def test_extras_are_those_of_jax_and_those_that_the_pages_name():
    """Read from the syntax tree: the package may be installed from another checkout."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    known = {node.arg: node.value for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    extras = ast.literal_eval(known["extras_require"])
    jax = next(need for need in ast.literal_eval(known["install_requires"]) if need.startswith("jax>="))
    assert extras["cuda12-volta"] == [*extras["cuda12"], "nvidia-cudnn-cu12<9.11"]
    of_jax = {extra for extra in extras if extra not in ("test", "docs", "dicom", "cuda12-volta")}
    assert of_jax <= set(importlib.metadata.metadata("jax").get_all("Provides-Extra"))
    assert {extra: extras[extra] for extra in of_jax} == {extra: [f"jax[{extra}]{jax[3:]}"] for extra in of_jax}
    pages = [*PAGES, ROOT / "lgjax/runtime/devices.py", *(ROOT / "launch").iterdir()]
    given = re.compile(r"(?:(?:lgjax|\.)\[|\bextras=)([a-z0-9,-]+)")
    named = [name for path in pages for name in given.findall(path.read_text("utf-8"))]
    assert (
        {"test", "docs", "dicom", "cuda12", "cuda12-volta"}
        <= {extra for name in named for extra in name.split(",")}
        <= set(extras)
    )


def test_the_page_of_the_architecture_lists_the_rooms():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = [(int(floor), room) for floor, room in re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.MULTILINE)]
    expected = {(number, room) for number, rooms in enumerate(FLOORS, 1) for room in rooms}
    assert set(listed) == expected
    assert len(listed) == len(expected)
    assert [floor for floor, _ in listed] == sorted((floor for floor, _ in listed), reverse=True)


def test_the_notebook_is_clean_and_compiles():
    code = [cell for cell in notebook_cells() if cell["cell_type"] == "code"]
    assert 8 <= len(notebook_cells()) <= 12
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    for cell in code:
        compile("".join(cell["source"]), cell["id"], "exec")
    assert "LGJAX_WORKDIR" in "".join(code[0]["source"])
