"""The house rules that a machine can check: imports point down, parts stay small."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "numpyro_vi_ext"
ROOT = Path(__file__).parents[1] / PACKAGE

# Lowest first. A module may import from rows above its own here, and from its own row.
LAYERS = (
    {"blocks", "checks", "errors", "programs", "seeds"},
    {
        "additivity",
        "arguments",
        "batching",
        "batching.*",
        "cache",
        "curvature",
        "feeding",
        "identity",
        "layout",
        "model",
        "names",
        "recording",
        "replacements",
        "rerun",
        "start",
        "tracing",
    },
    {"families.base"},
    {"families.*", "bandwidth", "defaults", "kernels", "optimizers"},
    {"families"},
    {"estimators", "objectives", "stein"},
    {"algorithm", "ascent", "effort", "warmup"},
    {
        "chunk",
        "convergence",
        "dispatch",
        "history",
        "plateau",
        "preparation",
        "reporting",
        "run",
        "training",
        "watch",
    },
    {
        "advice",
        "approximation",
        "approximation.*",
        "beyond",
        "calibration",
        "callbacks",
        "diagnostics",
        "evaluate",
        "io_arviz",
        "nodes",
        "plotting",
        "predict",
        "saving",
        "shape",
        "simulating",
        "traces",
        "verdict",
        "weights",
    },
    {"fitting", "inference", "lanes", "methods", "vsbc"},
    {"__init__"},
)
# Packages that only some modules may import.
KEPT_TO = {
    "arviz": {"diagnostics", "io_arviz"},
    "arviz_stats": {"io_arviz"},
    "matplotlib": {"plotting"},
    "tqdm": {"lanes", "reporting"},
}
MODULE_LINES = 300
FUNCTION_LINES = 40
# Parts that are longer for a reason: "module" or "module.function" -> the reason.
LONGER: dict[str, str] = {
    "fitting.fit": "a line for each argument, twice",
    "inference.fit": "a line for each argument",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(source, name) for name, source in SOURCES.items()}
each_module = pytest.mark.parametrize("name", TREES)


def layer_of(name: str) -> int | None:
    for spelling in (name, f"{name.rpartition('.')[0]}.*"):
        for layer, names in enumerate(LAYERS):
            if spelling in names:
                return layer
    return None


def imported(name: str, tree: ast.AST) -> set[str]:
    """Return the absolute dotted names that a module imports, functions included."""
    package = [PACKAGE, *name.split(".")]
    if not (ROOT / name.replace(".", "/")).is_dir():
        package.pop()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def own_imports(name: str) -> set[str]:
    """Return the modules of this package that a module imports."""
    found = set()
    for dotted in imported(name, TREES[name]):
        top, _, inner = dotted.partition(".")
        while top == PACKAGE and inner and inner not in TREES:
            inner = inner.rpartition(".")[0]  # the last part is a name inside the module
        if top == PACKAGE:
            found.add(inner or "__init__")
    return found


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function from `def` on, its docstring left out."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    docstring = first.end_lineno - first.lineno + 1 if has_docstring else 0
    return function.end_lineno - function.lineno + 1 - docstring


@each_module
def test_module_has_a_layer(name):
    assert layer_of(name) is not None, (
        f"{PACKAGE}.{name} stands in no layer: add it to LAYERS in tests/test_layers.py "
        "and to the picture in docs/design.md"
    )


@each_module
def test_imports_point_down(name):
    own = layer_of(name)
    layers = {other: layer_of(other) for other in own_imports(name)}
    upward = [other for other, layer in layers.items() if None not in (own, layer) and layer > own]
    assert not upward, f"{PACKAGE}.{name} imports from a layer above its own: {upward}"


def test_imports_have_no_circle():
    TopologicalSorter({name: own_imports(name) for name in TREES}).prepare()


@each_module
def test_packages_keep_to_their_modules(name):
    used = {dotted.split(".")[0] for dotted in imported(name, TREES[name])}
    strays = {package for package in used & set(KEPT_TO) if name not in KEPT_TO[package]}
    assert not strays, f"{PACKAGE}.{name} imports {sorted(strays)}; allowed: {KEPT_TO}"


def test_matplotlib_is_imported_inside_functions():
    functions = [ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda]
    pending = [TREES.get("plotting", ast.Module([], []))]
    while pending:
        node = pending.pop()
        assert not (
            isinstance(node, ast.Import | ast.ImportFrom) and "matplotlib" in ast.unparse(node)
        ), f"line {node.lineno}: plotting must import matplotlib inside functions, it is an extra"
        pending += [c for c in ast.iter_child_nodes(node) if type(c) not in functions]


@each_module
def test_parts_are_small(name):
    sizes = [(name, SOURCES[name].count("\n"), MODULE_LINES)]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            sizes.append((f"{name}.{node.name}", body_lines(node), FUNCTION_LINES))
    large = [
        f"{part} has {lines} lines, must be under {limit}"
        for part, lines, limit in sizes
        if lines >= limit and part not in LONGER
    ]
    assert not large, f"{large}: split, or give the reason in LONGER"


@each_module
def test_no_super(name):
    calls = [
        node.lineno
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "super"
    ]
    assert not calls, f"{PACKAGE}.{name} calls super() in lines {calls}"
