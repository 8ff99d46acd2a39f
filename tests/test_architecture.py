"""The architecture, held against the syntax trees: which room may import which, and what only some rooms may touch."""

import ast
import pathlib

import pytest
from conftest import ROOT

FLOORS = (  # from the bottom; a room imports only from floors below its own
    {"runtime", "models"},
    {"restoration", "scans"},
    {"preparation"},
    {"methods", "training"},
    {"workdir"},
    {"calibration", "derivatives", "cli"},
    {"evaluation", "detector"},
    {"report"},
    {"batch"},
    {"speed"},
)
DOORS = {"preprocess", "train", "calibrate", "restore", "bids", "eval", "export", "bench"}
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
PURE = {"models", "restoration"}
MATHS = {"jax", "flax", "optax", "numpy"}
DRAWS = ("scans/pictures.py", "scans/scan_picture.py", "preparation/mosaic.py", "report/")
READS_CONFIG = DOORS | {"cli", "workdir"}
STILL_READS_CONFIG = {
    "calibration",
    "methods",
    "models",
    "preparation",
    "speed",
    "training",
}  # known breaches of rule 5


def breaches(package: pathlib.Path) -> list[str]:
    """What breaks a rule in a package laid out as lgjax is, a line each."""
    found = []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package).as_posix()
        room = place.removesuffix(".py").split("/")[0]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for module in imported(tree):
            found += [f"{place}: {problem}" for problem in import_problems(place, room, module)]
        if room not in DOORS | {"cli", "__main__"}:
            names = [node.func.id for node in ast.walk(tree) if calls_name(node)]
            found += [f"{place}: print belongs to doors and cli" for name in names if name == "print"]
        if room not in READS_CONFIG:
            found += [f"{place}: {problem}" for problem in config_problems(tree)]
    return found


def imported(tree: ast.Module) -> list[str]:
    """Dotted names of all that a module imports, wherever in it."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def import_problems(place: str, room: str, module: str) -> list[str]:
    """What one import breaks."""
    top, *rest = module.split(".")
    problems = []
    if top == "lgjax" and rest and rest[0] not in (room, "__version__"):
        other = rest[0]
        if other in DOORS:
            problems.append(f"{module} is a door, and nobody imports doors")
        elif room in PURE and other not in PURE:
            problems.append(f"models and restoration stand alone, without {module}")
        elif other == "cli" and room not in DOORS:
            problems.append("only doors import cli")
        elif other not in FLOOR:
            problems.append(f"{module} is no room")
        elif room in FLOOR and FLOOR[other] >= FLOOR[room]:
            problems.append(f"{module} is not below {room}")
    if room in PURE and top != "lgjax" and top not in MATHS and top not in STANDARD:
        problems.append(f"models and restoration stand alone, without {module}")
    if top == "absl" and room not in DOORS | {"cli"}:
        problems.append("absl belongs to doors and cli")
    if module == "sys.argv" or (module == "argparse" and room != "cli"):
        problems.append("the command line belongs to doors and cli")
    if top in ("matplotlib", "PIL") and not place.startswith(DRAWS):
        problems.append(f"{top} belongs to {', '.join(DRAWS)}")
    if top == "jinja2" and room != "report":
        problems.append("jinja2 belongs to report")
    if top == "ml_collections" and room not in READS_CONFIG:
        problems.append("configs belong to doors, cli and workdir")
    return problems


STANDARD = {
    "__future__",
    "collections",
    "contextlib",
    "functools",
    "itertools",
    "json",
    "math",
    "pathlib",
    "types",
    "typing",
}


def calls_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def config_problems(tree: ast.Module) -> list[str]:
    """Functions that take or read a config, but for the one `from_config` of a room."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name != "from_config":
            arguments = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
            found += [f"{node.name} takes a config" for name in arguments if name == "config"]
    return found


def test_the_package_keeps_to_its_architecture():
    assert breaches(ROOT / "lgjax") == []


def test_one_function_a_room_reads_a_config():
    rooms: dict[str, list[str]] = {}
    for path in (ROOT / "lgjax").rglob("*.py"):
        room = path.relative_to(ROOT / "lgjax").parts[0].removesuffix(".py")
        names = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        rooms.setdefault(room, []).extend(name for name in names if name == "from_config")
    assert {room for room, found in rooms.items() if len(found) > 1} == set()


@pytest.mark.parametrize(
    ("place", "code", "told"),
    [
        ("scans/a.py", "from lgjax.report import tables", "not below scans"),
        ("methods/a.py", "def f():\n    from lgjax.training import step", "not below methods"),  # a circle's other half
        ("models/a.py", "from lgjax.runtime import files", "stand alone"),
        ("restoration/a.py", "import nibabel", "stand alone"),
        ("workdir/a.py", "from absl import flags", "absl belongs"),
        ("scans/a.py", "import argparse", "command line belongs"),
        ("train.py", "import argparse", "command line belongs"),
        ("evaluation/a.py", "import matplotlib.pyplot as plt", "matplotlib belongs"),
        ("evaluation/a.py", "import jinja2", "jinja2 belongs"),
        ("derivatives/a.py", "from lgjax.cli import app", "only doors import cli"),
        ("report/a.py", "from lgjax import restore", "is a door"),
        ("train.py", "import lgjax.eval", "is a door"),
        ("training/a.py", "print(1)", "print belongs"),
        ("training/a.py", "import ml_collections", "configs belong"),
        ("training/a.py", "def f(config):\n    return config.seed", "takes a config"),
        ("scans/a.py", "from lgjax import basement", "is no room"),
    ],
)
def test_a_breach_is_told(tmp_path, place, code, told):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code + "\n")
    (found,) = breaches(tmp_path)
    assert told in found


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("report/a.py", "import matplotlib\nfrom lgjax.evaluation import metrics\nfrom lgjax import __version__"),
        ("restore.py", "from absl import flags\nfrom lgjax.cli import app\nprint(flags.FLAGS.config)"),
        ("models/a.py", "import jax\nimport flax.linen as nn\nfrom lgjax.models import b"),
        ("training/a.py", "def from_config(config):\n    return config.seed"),
    ],
)
def test_what_is_allowed_is_not_told(tmp_path, place, code):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code + "\n")
    assert breaches(tmp_path) == []
