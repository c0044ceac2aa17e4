"""Files appear whole: whatever is written goes through ``files.atomic``."""

import ast
from pathlib import Path

import pytest

import cellwright

pytestmark = pytest.mark.no_cover  # reads the code and runs none of it
ROOT = Path(cellwright.__file__).parent
METHODS = {"write_text", "write_bytes", "to_csv", "touch", "savefig", "tofile"}  # of a path, a table, a plot
FUNCTIONS = {
    *("np.save", "np.savez", "np.savez_compressed", "np.savetxt", "json.dump"),
    *("torch.save", "torch.jit.save", "save_file", "imsave", "imwrite", "tifffile.imwrite"),
    *("shutil.copy", "shutil.copyfile", "shutil.copyfileobj", "shutil.copytree"),
}
LENDERS = {"atomic_write", "atomic_folder", "change_folder", "TemporaryDirectory", "BytesIO"}
BESIDE = {
    "files/atomic.py": "what all others write with",
    "annotation/journal.py": "a journal grows by whole records and is cut to its last whole one",
}  # these write by themselves


def writes(source: str) -> list[str]:
    """The calls that write to a place that no lender has lent.

    A place is lent to the block of a ``with``, or to a function as its argument ``part``; names that are made
    from one that was lent, be it by assignment or in a loop, are lent too.
    """
    found: list[str] = []

    def visit(node: ast.AST, lent: set[str]) -> None:
        if isinstance(node, ast.FunctionDef):
            lent = lent | ({argument.arg for argument in node.args.args} & {"part"})
        for value, target in bindings(node):
            if names(value) & (lent | LENDERS):
                lent |= names(target)
        if isinstance(node, ast.Call) and is_writer(node) and not names(node) & lent:
            found.append(ast.unparse(node)[:70])
        for child in ast.iter_child_nodes(node):
            visit(child, lent)

    visit(ast.parse(source), set())
    return found


def bindings(node: ast.AST) -> list[tuple[ast.AST, ast.AST]]:
    """Values and the names that they get by a ``with``, an assignment or a loop."""
    if isinstance(node, ast.With):
        return [(item.context_expr, item.optional_vars) for item in node.items if item.optional_vars]
    if isinstance(node, ast.Assign):
        return [(node.value, target) for target in node.targets]
    return [(node.iter, node.target)] if isinstance(node, ast.For) else []


def names(node: ast.AST) -> set[str]:
    """All names in an expression, those of attributes too."""
    plain = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return plain | {inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}


def is_writer(call: ast.Call) -> bool:
    """Whether a call writes a file, as far as its name and its mode tell."""
    name = ast.unparse(call.func)
    if (
        name.endswith(".to_csv")
        and not call.args
        and "path_or_buf" not in {word.arg for word in call.keywords}
    ):
        return False  # it returns the text
    if name in FUNCTIONS or (isinstance(call.func, ast.Attribute) and call.func.attr in METHODS):
        return True
    words = [*call.args, *(keyword.value for keyword in call.keywords)]
    modes = [str(word.value) for word in words if isinstance(word, ast.Constant)]
    opens = name.rpartition(".")[2] in ("open", "ZipFile", "fdopen")
    return opens and any(set(mode) & set("wax+") for mode in modes if len(mode) <= 3)


def texts(source: str) -> list[str]:
    """The calls that open a text without saying that it is UTF-8: on Windows it would be something else."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.unparse(call)[:70] for call in calls if is_text(call) and "encoding" not in keywords(call)]


def is_text(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if name.endswith((".read_text", ".write_text")):
        return True
    modes = [word.value for word in call.args if isinstance(word, ast.Constant)]
    if name == "open" or name.endswith("path.open"):
        return not any("b" in str(mode) for mode in modes)
    return name.endswith(".open") and bool({"r", "w", "a", "x"} & set(modes))


def keywords(call: ast.Call) -> set[str | None]:
    return {word.arg for word in call.keywords}


MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def test_files_are_written_whole():
    found = {module: writes((ROOT / module).read_text(encoding="utf-8")) for module in MODULES}
    assert {module: calls for module, calls in found.items() if calls and module not in BESIDE} == {}


@pytest.mark.parametrize(
    "source",
    [
        "path.write_text('a')",
        "with path.open('w') as file: file.write('a')",
        "open(path, mode='ab')",
        "np.save(folder / 'a.npy', values)",
        "with zipfile.ZipFile(path, 'w') as archive: pass",
        "with atomic_write(path) as part: table.to_csv(path)",
        "table.to_csv(path_or_buf=path)",
    ],
)
def test_a_writer_beside_it_is_found(source):
    assert len(writes(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "with atomic_write(path) as part, part.open('w') as file: file.write('a')",
        "with atomic_folder(path) as folder:\n    file = folder / 'a'\n    file.write_text('a')",
        "path.open('rb')",
        "with change_folder(path) as change: np.save(change.staging / 'a', values)",
        "def write_table(part): table.to_csv(part)",
        "text = table.to_csv(index=False)",
    ],
)
def test_what_is_lent_may_be_written_to(source):
    assert writes(source) == []


def test_texts_are_utf8():
    found = {module: texts((ROOT / module).read_text(encoding="utf-8")) for module in MODULES}
    assert {module: calls for module, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    ("source", "n"),
    [
        ("path.read_text(); (folder / 'a').write_text('b', newline='')", 2),
        ("open(path); path.open(); part.open('w', newline=''); file.open('a')", 4),
        ("path.read_text(encoding='ascii'); path.open('rb'); read_text(path); viewer.open('a.tif')", 0),
    ],
)
def test_a_text_of_no_encoding_is_found(source, n):
    assert len(texts(source)) == n
