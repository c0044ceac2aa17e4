"""What the README says can be done can be done."""

import re
import shlex
import shutil
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from cellwright.cli.main import main
from cellwright.cli.models import families_table

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in blocks("sh")
    for line in block.splitlines()
    if line.startswith("cellwright ")
]
ON_SAMPLES = [command for command in COMMANDS if command[0] == "models" or "sample_data" in command[1]]
FLAGS = [(command[0], word) for command in COMMANDS for word in command if word.startswith("--")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the sample images, like the top of the repository."""
    with as_file(files("cellwright") / "sample_data") as samples:
        shutil.copytree(samples, tmp_path / "sample_data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0])
def test_python_runs(code, capsys):
    names = {}
    exec(compile(code, "README.md", "exec"), names)
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
        main([command, "--help"])
    assert flag in capsys.readouterr().out


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)(.*?)\)", TEXT))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_the_table_of_families_is_that_of_the_registry():
    assert families_table() in TEXT, f"Put this into README.md:\n\n{families_table()}"


def test_make_targets_exist():
    targets = re.findall(r"^make (\w+)", TEXT, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets == ["demo", "test"]
    assert all(f"\n{target}:" in makefile for target in targets)
