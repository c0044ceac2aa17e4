"""The benchmarks, the tools that make a release, and the workflows of continuous integration."""

import ast
import importlib
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("benchmarks/speed", "benchmarks/accuracy", "tools/release")
    for path in (ROOT / folder).glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")  # the others are what these share
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_shows_its_help(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(name).main()
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["benchmarks", "tools"])
def test_what_scripts_take_from_the_package_is_there(folder):
    """Within functions, too, which their help does not reach."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cellwright"):
                exec(compile(ast.Module([node], []), str(path), "exec"), {})  # ImportError where it is not


@pytest.mark.parametrize("name", ["test", "release"])
def test_a_workflow_is_whole(name):
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    assert all(needed in jobs for job in jobs.values() for needed in [job.get("needs")] if needed)
    assert all("run" in step or "uses" in step for job in jobs.values() for step in job["steps"])
