"""The floors: imports run down, neighbours never meet, and heavy packages live where they may."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cellwright

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


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[tuple[str, bool]]:
    """Every imported module, and whether that happens when the importing module itself is imported."""
    lazy = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(outer)
        for inner in ast.walk(outer)
    }
    found = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""] if node.level == 0 else ["RELATIVE"]
        found += [(name, id(node) not in lazy) for name in names]
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def faults(path: Path, source: str) -> list[str]:
    """What a module imports that it may not."""
    here = part_of(path)
    wrong = []
    for name, at_import in imports(ast.parse(source)):
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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_down_the_floors(path: Path) -> None:
    assert faults(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ops/labels.py", "from cellwright.files.images import read_image"),
        ("ops/labels.py", "def f():\n    from cellwright.models import flow"),
        ("ops/labels.py", "from . import tiles"),
        ("ops/labels.py", "import torch"),
        ("ops/labels.py", "def f():\n    import torch"),
        ("cli/main.py", "import torch"),
        ("cli/main.py", "from cellwright.widgets import count"),
        ("inference/count.py", "from qtpy.QtCore import QObject"),
        ("models/flow.py", "import tifffile"),
    ],
)
def test_a_wrong_import_is_seen(module: str, source: str) -> None:
    assert faults(ROOT / module, source)


def test_a_lazy_torch_is_allowed_on_the_roof() -> None:
    assert not faults(ROOT / "cli/main.py", "def f():\n    import torch")


@pytest.mark.parametrize(
    "module",
    [
        "cellwright",
        "cellwright.models.registry",
        "cellwright.models.spec",
        "cellwright.models.store",
        "cellwright.inference.settings",
    ],
)
def test_light_modules_stay_light(module: str) -> None:
    heavy = "{'torch', 'napari', 'qtpy', 'magicgui'}"
    check = f"import sys, {module}; sys.exit(sorted({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_counting_needs_no_napari() -> None:
    check = (
        "import sys, cellwright.inference.pipeline; "
        "sys.exit(sorted({'napari', 'qtpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    for name in cellwright.__all__:
        assert getattr(cellwright, name)
    assert cellwright.__version__
    with pytest.raises(AttributeError, match="no_such_name"):
        cellwright.no_such_name  # noqa: B018
