"""Which files a package of their own reads (extra ``vendor``), scene by scene, and which none reads here.

=========  ==========================  =============
ending     program                     package
=========  ==========================  =============
.czi       Zeiss ZEN                   czifile
.nd2       Nikon NIS-Elements          nd2
.lif       Leica LAS X                 liffile
.oif .oib  Olympus FluoView            oiffile
.h5 .hdf5  ilastik (one dataset)       h5py
=========  ==========================  =============

LSM (Zeiss) and STK (MetaMorph) are TIFF, see ``files.tiff``. No package is imported before its file is met.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from cellwright.core.data import Image
from cellwright.files.vendors.czi import CZI
from cellwright.files.vendors.hdf5 import read_hdf5
from cellwright.files.vendors.lif import LIF
from cellwright.files.vendors.nd2 import read_nd2
from cellwright.files.vendors.oif import OIF

READERS: dict[str, Callable[[Path], Iterator[Image]]] = {
    ".czi": CZI.read,
    ".nd2": read_nd2,
    ".lif": LIF.read,
    ".oif": OIF.read,
    ".oib": OIF.read,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
}
HDF5_START = b"\x89HDF\r\n\x1a\n"
OVERVIEWS = (".vsi", ".mrxs")  # read as pictures they are small ones of a slide whose pixels lie beside them
WITH_FIJI = "Open it in Fiji (File > Import > Bio-Formats) and save it as OME-TIFF."
WITH_QUPATH = "Open it in QuPath and export it as OME-TIFF."
AS_PICTURE = "Save it as PNG or TIFF with the program it comes from."
AS_FRAMES = "Save its frames as a TIFF stack."
NOT_READ = {
    (".vsi", ".ets", ".oir", ".ims", ".nd", ".dv", ".r3d", ".zvi", ".sld"): WITH_FIJI,
    (".lei", ".lof", ".xlef", ".xlif"): WITH_FIJI,
    (".dcm", ".nii", ".nii.gz", ".mrc", ".rec", ".nrrd"): WITH_FIJI,
    (".mrxs", ".vms", ".svslide"): WITH_QUPATH,
    (".heic", ".heif", ".jxl", ".xcf", ".svg", ".cr2", ".nef", ".arw"): AS_PICTURE,
    (".mp4", ".avi", ".mov", ".mkv", ".wmv"): AS_FRAMES,
}
NO_IMAGES = {
    b"%PDF": "a PDF",
    b"PK\3\4": "a zip archive or an office document",
    b"\xd0\xcf\x11\xe0": "an office document or another compound file",
    b"version https://git-lfs": "a pointer of Git LFS",
}


def why_not_read(path: Path, start: bytes) -> str:
    """Return what a file is that no reader here knows, and what to do with it; '' where it cannot be told.

    ``start`` are its first bytes.
    """
    for endings, advice in NOT_READ.items():
        ending = next((one for one in endings if path.name.lower().endswith(one)), "")
        if ending:
            return f"Expected an image of a kind that is read here; {path} is a {ending} file. {advice}"
    if start.startswith(HDF5_START):
        return f"Expected an image; {path} is HDF5 of an unknown kind. {WITH_FIJI}"
    kind = next((kind for first, kind in NO_IMAGES.items() if start.startswith(first)), "")
    if not start:
        kind = "empty"
    elif not kind and start.isascii() and start.decode().replace("\n", " ").replace("\r", " ").isprintable():
        kind = "text"
    if kind:
        return f"Expected an image; {path} is {kind}, not an image. Copy or export the image itself again."
    return ""
