"""The floors: imports run down and never in a circle, and heavy packages live where they may."""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest

import cellwright

pytestmark = pytest.mark.no_cover  # reads the code and runs none of it

ROOT = Path(cellwright.__file__).parent
FLOORS = (
    {"core"},
    {"ops"},
    {"files"},
    {"models"},
    {"inference"},
    {"training", "annotation"},
    {"widgets", "cli"},
)
TENANTS = {
    "torch": {"models", "inference", "training"},
    "napari": {"widgets"},
    "qtpy": {"widgets"},
    "magicgui": {"widgets"},
    "pyqtgraph": {"widgets"},
    "superqt": {"widgets"},
    "tifffile": {"files"},
    "roifile": {"files"},
    "pycocotools": {"files"},
    "yaml": {"files"},
    "filelock": {"files"},
    "psygnal": {"annotation", "widgets"},
    "typer": {"cli"},
    "rich": {"cli"},
}
LAZY_TENANTS = {"torch": {"cli", "widgets"}}  # inside a function only
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
MOST_MODULES = 15  # in one package
SAME_EVERYWHERE = {"build", "read", "write", "main"}  # of families, formats and programs


@cache
def tree_of(source: str) -> ast.Module:
    """Return the syntax tree of a module; several tests look at each."""
    return ast.parse(source)


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[tuple[str, bool]]:
    """Every imported module, and whether that happens when the importing module itself is imported."""
    found: list[tuple[str, bool]] = []

    def look(node: ast.AST, *, at_import: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "" if node.level == 0 else "RELATIVE", at_import))
        is_later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(node)
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.expr):  # which imports nothing
                look(child, at_import=at_import and not is_later)

    look(tree, at_import=True)
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def faults(path: Path, source: str) -> list[str]:
    """What a module imports that it may not."""
    here = part_of(path)
    wrong = []
    for name, at_import in imports(tree_of(source)):
        top, _, rest = name.partition(".")
        if top == "RELATIVE":
            wrong.append("a relative import")
        elif top == "cellwright" and rest:
            there = rest.split(".")[0]
            if LEVEL[there] > LEVEL[here] or (LEVEL[there] == LEVEL[here] and there != here):
                wrong.append(name)
        elif here not in TENANTS.get(top, set(LEVEL)) | (
            set() if at_import else LAZY_TENANTS.get(top, set())
        ):
            wrong.append(name)
    return wrong


MODULES = sorted(path for path in ROOT.rglob("*.py") if path.name != "__main__.py" and path.parent != ROOT)


def test_imports_run_down_the_floors() -> None:
    found = {str(path.relative_to(ROOT)): faults(path, path.read_text(encoding="utf-8")) for path in MODULES}
    assert {name: imports for name, imports in found.items() if imports} == {}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ops/labels.py", "from cellwright.files.images import read_image"),
        ("ops/labels.py", "def f():\n    from cellwright.models import flow"),
        ("ops/labels.py", "from . import tiles"),
        ("ops/labels.py", "import torch"),
        ("ops/labels.py", "def f():\n    import torch"),
        ("cli/app.py", "import torch"),
        ("cli/app.py", "from cellwright.widgets import count"),
        ("inference/count.py", "from qtpy.QtCore import QObject"),
        ("models/flow.py", "import tifffile"),
    ],
)
def test_a_wrong_import_is_seen(module: str, source: str) -> None:
    assert faults(ROOT / module, source)


def test_a_lazy_torch_is_allowed_on_the_roof() -> None:
    assert not faults(ROOT / "cli/app.py", "def f():\n    import torch")


def modules(sources: Mapping[str, str]) -> dict[str, ast.Module]:
    """Syntax trees by dotted name, of sources by path relative to the package."""
    dotted = {path: ".".join(("cellwright", *Path(path).with_suffix("").parts)) for path in sources}
    return {name.removesuffix(".__init__"): tree_of(sources[path]) for path, name in dotted.items()}


def import_graph(trees: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Which modules each module imports, at the top, in a function or for the type checker alone."""
    graph: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                graph[name].update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    module = f"{node.module}.{alias.name}"
                    graph[name].add(module if module in trees else node.module)
        graph[name] = (graph[name] & set(trees)) - {name}
    return graph


def sibling_graph(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same imports, each between the two children of the nearest package that holds both ends."""
    siblings: dict[str, set[str]] = defaultdict(set)
    for importer, imported in graph.items():
        for other in imported:
            ours, theirs = importer.split("."), other.split(".")
            shared = sum(
                1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False))
            )
            if shared < min(len(ours), len(theirs)):
                siblings[".".join(ours[: shared + 1])].add(".".join(theirs[: shared + 1]))
    return siblings


def in_circles(graph: Mapping[str, set[str]]) -> set[str]:
    """Return the nodes from which a way leads back to themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    return {node for node in graph if node in reached(node)}


def circles(sources: Mapping[str, str]) -> set[str]:
    graph = import_graph(modules(sources))
    return in_circles(graph) | in_circles(sibling_graph(graph))


def class_twins(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Class names that are defined more than once, with the paths of their files."""
    homes: dict[str, list[str]] = defaultdict(list)
    for path, source in sources.items():
        for node in ast.walk(tree_of(source)):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(path)
    return {name: paths for name, paths in homes.items() if len(paths) > 1}


def function_twins(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Public functions of several modules that share a name, commands aside, which are called as users do."""
    homes: dict[str, list[str]] = defaultdict(list)
    for path, source in sources.items():
        for node in tree_of(source).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                homes[node.name].append(path)
    ours = {name: [path for path in paths if not path.startswith("cli/")] for name, paths in homes.items()}
    return {name: paths for name, paths in ours.items() if len(paths) > 1 and name not in SAME_EVERYWHERE}


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    paths = sorted(ROOT.rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_imports_never_run_in_a_circle(sources: dict[str, str]) -> None:
    assert sorted(circles(sources)) == []


@pytest.mark.parametrize(
    "sources",
    [
        {"ops/a.py": "from cellwright.ops import b", "ops/b.py": "from cellwright.ops.a import A"},
        {
            "ops/a.py": "from cellwright.ops import b",
            "ops/b.py": "if TYPE_CHECKING:\n    from cellwright.ops.a import A",
        },
        {"ops/a.py": "import cellwright.ops.b", "ops/b.py": "def f():\n    from cellwright.ops import a"},
        {  # no module stands in a circle, but the packages do
            "ops/left/a.py": "from cellwright.ops.right import a",
            "ops/right/a.py": "",
            "ops/right/b.py": "from cellwright.ops.left import b",
            "ops/left/b.py": "",
        },
    ],
    ids=["modules", "for the type checker", "in a function", "packages"],
)
def test_a_circle_is_seen(sources: dict[str, str]) -> None:
    assert circles(sources)


def test_a_diamond_is_no_circle() -> None:
    both = "from cellwright.ops.{} import {}"
    top = "\n".join(both.format(name, name.upper()) for name in ("b", "c"))
    sources = {"ops/a.py": top, "ops/b.py": both.format("d", "D"), "ops/c.py": "import cellwright.ops.d"}
    assert not circles({**sources, "ops/d.py": ""})


def test_no_block_changes_the_filters_of_warnings(sources: dict[str, str]) -> None:
    """They are one for all threads: a block that ends in one undoes or keeps what another has set."""
    assert [path for path, source in sources.items() if "catch_warnings" in source] == []


def test_packages_stay_small(sources: dict[str, str]) -> None:
    sizes = Counter(Path(path).parent.as_posix() for path in sources if not path.endswith("__init__.py"))
    assert {package: size for package, size in sizes.items() if size > MOST_MODULES} == {}


def test_widgets_live_in_packages(sources: dict[str, str]) -> None:
    assert [path for path in sources if Path(path).parent.as_posix() == "widgets"] == ["widgets/__init__.py"]


def test_no_class_name_is_used_twice(sources: dict[str, str]) -> None:
    assert class_twins(sources) == {}


def test_a_name_of_a_function_means_one_thing(sources: dict[str, str]) -> None:
    assert function_twins(sources) == {}


def test_functions_of_one_name_are_found() -> None:
    made = {"a.py": "def rings(): ...\ndef read(): ...", "b.py": "def rings(): ...\ndef read(): ..."}
    assert function_twins({**made, "cli/app.py": "def rings(): ..."}) == {"rings": ["a.py", "b.py"]}


LIGHT = """
import importlib, sys
for module in ("cellwright", "cellwright.models.registry", "cellwright.models.spec",
               "cellwright.models.store", "cellwright.inference.settings"):
    importlib.import_module(module)
    heavy = {"torch", "napari", "qtpy", "magicgui"} & set(sys.modules)
    if heavy:
        sys.exit(f"{module} imports {heavy}")
"""


QUICK = """
import importlib, sys
for panel in ("count", "annotate", "train", "compare", "folder", "results"):
    importlib.import_module(f"cellwright.widgets.{panel}.widget")
    slow = {"torch", "pandas"} & set(sys.modules)
    if slow:
        sys.exit(f"opening the panel {panel} imports {slow}, for which the window stands still")
"""


def test_panels_open_without_what_is_slow_to_import() -> None:
    done = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_light_modules_stay_light() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    for name in cellwright.__all__:
        assert getattr(cellwright, name)
    assert cellwright.__version__
    with pytest.raises(AttributeError, match="no_such_name"):
        cellwright.no_such_name  # noqa: B018
