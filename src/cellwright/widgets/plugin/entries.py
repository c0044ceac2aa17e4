"""What ``napari.yaml`` names; its code is loaded in a thread when napari first asks for it.

Loading it takes a quarter of a second, in which the window goes on drawing. What the user does meanwhile is
kept until then: a second click would open a second panel.
"""

from functools import partial
from importlib import import_module
from typing import Any

from cellwright.widgets.plugin.meanwhile import beside_window

MODULES = {
    "CountWidget": "count.widget",
    "AnnotateWidget": "annotate.widget",
    "TrainWidget": "train.widget",
    "CompareWidget": "compare.widget",
    "FolderWidget": "folder.widget",
    "ResultsWidget": "results.widget",
    "show_active_colours": "count.channels",
    "count_active_layer": "plugin.commands",
    "classify_active_layer": "plugin.commands",
    "get_image_reader": "plugin.image_reader",
    "get_cells_reader": "plugin.readers_writers",
}
SAMPLES = ("nuclei_2d", "tissue_rgb", "phase_2d", "nuclei_3d", "nuclei_time")


def __getattr__(name: str) -> Any:
    if name in SAMPLES:
        return partial(_module("plugin.image_reader").sample_layers, name)
    if name.startswith("write_"):
        return _module("plugin.readers_writers").writer(name)
    if name in MODULES:
        return getattr(_module(MODULES[name]), name)
    raise AttributeError(f"{__name__} has no {name}.")


def _module(name: str) -> Any:
    return beside_window(import_module, f"cellwright.widgets.{name}", takes_input=False)
