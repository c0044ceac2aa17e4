"""Which file of a TIFF is opened: itself, or the first of a set that OME-XML describes."""

import os
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from cellwright.core.errors import ReadError, expecting
from cellwright.files.metadata import COMPANION
from cellwright.files.tiff_checks import files_of_set, is_split_off, ome_of, refuse_false_index


def opened(path: Path) -> tifffile.TiffFile:
    """Return an open TIFF, or the first of those that a companion file describes.

    OME-XML, if there is any, is believed before the shape that tifffile notes.
    """
    if path.name.lower().endswith(COMPANION):
        return _described_by(path, path)
    tiff = tifffile.TiffFile(path)
    with ExitStack() as closing:  # where its first page cannot be read, too
        closing.enter_context(tiff)
        if is_split_off(tiff):
            vars(tiff)["is_imagej"] = False
            _ = tiff.series  # made once: of the plane that is there, not of the stack that is described
            vars(tiff)["is_imagej"] = True
        if tiff.is_ome:
            vars(tiff)["is_shaped"] = False
            ome = ome_of(tiff.ome_metadata or "")
            elsewhere = ome.find("{*}BinaryOnly")
            if elsewhere is not None:
                return _described_by(path.parent / Path(elsewhere.get("MetadataFile", "")).name, path)
            names = list(files_of_set(ome))
            if len(names) == 1 and names[0] == Path(names[0]).name and not (path.parent / names[0]).is_file():
                return _renamed(ome, path)
        closing.pop_all()
    return tiff


def _renamed(ome: ElementTree.Element, path: Path) -> tifffile.TiffFile:
    """Return a TIFF that is not called as its OME-XML calls the one file of its planes."""
    for planes in ome.findall(".//{*}TiffData"):
        for place in planes.findall("{*}UUID"):
            planes.remove(place)
    return tifffile.TiffFile(path, omexml=ElementTree.tostring(ome, "unicode"), is_ome=True, is_shaped=False)


def _described_by(described: Path, path: Path) -> tifffile.TiffFile:
    """Return the first TIFF of a set, whose OME-XML it holds itself, or a companion file."""
    if not os.path.isfile(described):  # Path.is_file raises where the system refuses the name
        raise ReadError(
            f"{path} is one of a set that {described.name} describes, which does not lie beside it. Copy it "
            "there."
        )
    if not described.name.lower().endswith(COMPANION):
        return tifffile.TiffFile(described, is_shaped=False)
    what = f"OME-XML in {described}"
    with expecting(ReadError, what, "Export it again.", ElementTree.ParseError, UnicodeDecodeError):
        text = described.read_text(encoding="utf-8")
        named = files_of_set(ElementTree.fromstring(text))
    there = (described.parent / name for name in named if name == Path(name).name)
    first_there = next((file for file in there if os.path.isfile(file)), None)
    if first_there is None:
        raise ReadError(
            f"{described} describes {', '.join(named) or 'no file'}; none lies beside it. Copy them there."
        )
    return tifffile.TiffFile(first_there, omexml=text, is_ome=True, is_shaped=False)


def set_of(path: Path) -> tuple[str, ...]:
    """Return the names of the files that are read together with a file; empty where it is one alone.

    They are sets of OME, and stacks of Micro-Manager of which each file holds a part.
    """
    try:
        with opened(path) as file:
            names = set(files_of_set(ome_of(file.ome_metadata or "")))
            if file.is_micromanager:
                refuse_false_index(file, path)
                names = {
                    page.parent.filename for one in file.series for page in one.pages if page is not None
                }
    except Exception:  # noqa: BLE001 - tifffile fails in every possible way on damaged files; reading tells how
        return ()
    if len(names) < 2:
        return ()
    return tuple(sorted(names))
