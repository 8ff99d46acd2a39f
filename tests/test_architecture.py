"""The architecture, held against the syntax trees: which room may import which, and what only some rooms may touch."""

import ast
import pathlib

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
    {"speed"},
)
DOORS = {"preprocess", "train", "calibrate", "restore", "eval", "bench"}
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
PURE = {"models", "restoration"}
MATHS = {"jax", "flax", "optax", "numpy"}
DRAWS = ("scans/pictures.py", "preparation/mosaic.py", "report/")
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
    if module in ("sys.argv", "argparse"):
        problems.append("the command line belongs to doors and cli")
    if top in ("matplotlib", "PIL") and not place.startswith(DRAWS):
        problems.append(f"{top} belongs to {', '.join(DRAWS)}")
    if top == "jinja2" and room != "report":
        problems.append("jinja2 belongs to report")
    if top == "ml_collections" and room not in READS_CONFIG:
        problems.append("configs belong to doors, cli and workdir")
    return problems


STANDARD = {"__future__", "collections", "contextlib", "functools", "itertools", "math", "types", "typing"}


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
    found = breaches(ROOT / "lgjax")
    known = [line for line in found if line.endswith("takes a config") and line.split("/")[0] in STILL_READS_CONFIG]
    assert sorted(set(found) - set(known)) == []
