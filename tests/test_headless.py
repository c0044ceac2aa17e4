"""The command line in fresh processes: it needs no napari and no Qt, and its help no torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from cellwright.models.checkpoint import save_checkpoint
from cellwright.models.families.flow import build

CHECKED = """
import json, sys
from cellwright.__main__ import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
    heavy = {"napari", "qtpy", "magicgui", "torch", "pandas", "zarr", "scipy.spatial"} & set(sys.modules)
    print(*arguments, "loads:", *sorted(heavy), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, build("small"))
    return folder


def run(*commands):
    """Run these commands one after the other in a process of their own."""
    command = [sys.executable, "-c", CHECKED, json.dumps([list(map(str, one)) for one in commands])]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_counting_loads_neither_napari_nor_qt(tmp_path, model_folder):
    tifffile.imwrite(tmp_path / "a.tif", np.eye(64, dtype=np.uint8))
    done = run(["count", tmp_path / "a.tif", "--model", model_folder, "--json", "--device", "cpu"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["image"] == str(tmp_path / "a.tif")
    assert done.stderr.strip().endswith("loads: torch")


def test_what_needs_no_network_loads_no_torch():
    done = run(["--help"], ["count", "--help"], ["models"], ["--version"])
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines == ["--help loads:", "count --help loads:", "models loads:", "--version loads:"]


KINDS_OF_FILES = """
import sys
readers = {"tifffile", "zarr", "h5py", "czifile", "nd2", "liffile", "oiffile", "imagecodecs", "fsspec",
           "aiohttp", "s3fs", "dask", "yaml", "xml.etree.ElementTree", "PIL"}
def met():
    return readers & set(sys.modules)
import cellwright
from cellwright.files import images
from cellwright.files.formats import registry
import cellwright.cli.app
print(*sorted(met()))
images.read_image(sys.argv[1]).read()
print(*sorted(met()))
registry.recognise(sys.argv[2]).read(sys.argv[2])
print(*sorted(met()))
"""


def test_no_reader_is_imported_before_its_file_is_met(tmp_path):
    Picture.new("L", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("y,x\n1,2\n")
    command = [sys.executable, "-c", KINDS_OF_FILES, tmp_path / "a.png", tmp_path / "a.csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["", "PIL", "PIL"]


SCRIPT = shutil.which("cellwright", path=Path(sys.executable).parent)


@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "cellwright"], [SCRIPT]], ids=["module", "script"]
)
def test_the_command_is_installed(command):
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "count" in done.stdout
