"""Files of microscope vendors, each read by a package of its own (extra ``vendor``), scene by scene.

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
