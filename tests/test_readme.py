"""What the README and the documentation say can be done can be done."""

import re
import shlex
import shutil
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from cellwright.__main__ import main
from cellwright.cli.app import families_table
from cellwright.files.formats.registry import FORMATS
from cellwright.ops.measure.columns import documentation

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}
README = TEXTS[PAGES[0]]
LINKS = [(path, link) for path, text in TEXTS.items() for link in re.findall(r"\]\((?!http)(.*?)\)", text)]


def blocks(language):
    found = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [block for text in TEXTS.values() for block in found.findall(text)]


def name_of(command):
    return tuple(command[: 2 if command[0] == "models" else 1])


LINES = [line for block in blocks("sh") for line in block.splitlines()]
COMMANDS = [shlex.split(line, comments=True)[1:] for line in LINES if line.startswith("cellwright ")]
ON_SAMPLES = [
    list(command)
    for command in sorted(set(map(tuple, COMMANDS)))
    if command == ("models",) or command[1].endswith("sample_data/nuclei_2d.tif")
]
FLAGS = [(name_of(command), word) for command in COMMANDS for word in command if word.startswith("--")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the sample images, like the top of the repository."""
    with as_file(files("cellwright") / "sample_data") as samples:
        for place in ("sample_data", "src/cellwright/sample_data"):
            shutil.copytree(samples, tmp_path / place)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0])
def test_python_runs(code, capsys):
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    if "PointPredictor" in names:  # one cell, not a count
        assert names["cell"].area > 10
    else:
        assert names["result"].count > 10
        assert names["result"].cells.labels.max() == names["result"].count
    assert capsys.readouterr().out


@pytest.mark.parametrize("command", ON_SAMPLES, ids=" ".join)
def test_commands_run(command, folder, capsys):
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code
    assert "flow" in capsys.readouterr().out
    if "--output" in command:
        written = sorted(path.name for path in (folder / "results").iterdir())
        assert written == ["nuclei_2d.cells.csv", "nuclei_2d.json", "nuclei_2d.labels.tif"]


@pytest.mark.parametrize(("command", "flag"), sorted(set(FLAGS)))
def test_flags_exist(command, flag, capsys):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    assert flag in capsys.readouterr().out


@pytest.mark.parametrize(("page", "link"), LINKS, ids=str)
def test_links_lead_somewhere(page, link):
    file, _, anchor = link.partition("#")
    target = page.parent / file if file else page
    assert target.exists()
    if anchor:
        titles = re.findall(r"^#+ (.*)", TEXTS[target.resolve()], re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize(
    "page", [path for path in PAGES if path.parent.name == "docs"], ids=lambda path: path.name
)
def test_every_page_is_linked_from_the_readme(page):
    assert f"](docs/{page.name})" in README


def test_the_table_of_families_is_that_of_the_registry():
    assert families_table() in README, f"Put this into README.md:\n\n{families_table()}"


def test_every_column_is_told():
    assert documentation() in TEXTS[ROOT / "docs" / "measurements.md"]


def test_every_format_is_told():
    told = TEXTS[ROOT / "docs" / "files.md"]
    assert all(f"| {one.title.partition(',')[0]} |" in told for one in FORMATS.values())


def test_make_targets_exist():
    targets = [line.split()[1] for line in LINES if line.startswith("make ")]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets[:2] == ["demo", "test"]
    assert all(f"\n{target}:" in makefile for target in targets)


def test_modules_of_commands_exist():
    modules = [name for text in TEXTS.values() for name in re.findall(r"python -m ([\w.]+)", text)]
    ours = [name for name in modules if name.startswith(("benchmarks.", "tools."))]
    assert ours
    assert all((ROOT / f"{name.replace('.', '/')}.py").exists() for name in ours)
