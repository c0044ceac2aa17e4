"""``python -m cellwright.widgets.plugin.demo``: napari on a sample image whose cells are counted beside it.

Without a screen, or with ``--screenshot``, it leaves a picture and the table of cells in a folder and quits.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import napari
from PIL import Image as Picture
from qtpy.QtCore import QTimer

from cellwright.files.tables import write_table
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.plugin.image_reader import sample_layers

SAMPLE = "nuclei_2d"
WINDOW_PX = (1500, 940)
SETTLE_MS = 1500  # until napari has drawn what was added


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the demo and return the exit status: 0 when cells were counted."""
    parser = argparse.ArgumentParser(prog="python -m cellwright.widgets.plugin.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for picture and table")
    parser.add_argument("--screenshot", action="store_true", help="write picture and table, then quit")
    options = parser.parse_args(arguments)
    viewer, widget = open_demo()
    counts: list[Any] = []
    widget.model.outcome_changed.connect(lambda counted: counts.append(counted))
    if options.screenshot or not has_screen():
        leaving = QTimer(widget)
        leaving.setSingleShot(True)
        leaving.timeout.connect(lambda: _leave(viewer, widget, options.output))
        widget.finished.connect(lambda: leaving.start(SETTLE_MS))
    QTimer.singleShot(0, widget.panel.count.click)
    napari.run()
    if not counts:  # what is shown goes when the viewer closes
        sys.stderr.write(f"{widget.panel.message.text()}\n")
        return 1
    return 0


def open_demo() -> tuple[napari.Viewer, CountWidget]:
    """Return a viewer with the sample image, and the count widget docked in it."""
    viewer = napari.Viewer()
    viewer.window.resize(*WINDOW_PX)
    for data, arguments, _ in sample_layers(SAMPLE):
        viewer.add_image(data, **arguments)
    overlays = viewer
    if hasattr(viewer, "canvas"):  # napari 0.9 moved the scale bar there
        overlays = viewer.canvas.overlays
    overlays.scale_bar.visible = True
    widget = CountWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Count cells", area="right")
    return viewer, widget


def has_screen() -> bool:
    """Return whether someone can see the window: no for Qt's offscreen platform and under xvfb-run."""
    is_offscreen = os.environ.get("QT_QPA_PLATFORM") in ("offscreen", "minimal")
    return not is_offscreen and "xvfb-run" not in os.environ.get("XAUTHORITY", "")


def _leave(viewer: napari.Viewer, widget: CountWidget, folder: Path) -> None:
    """Write what was counted and close the viewer, which ends napari's event loop."""
    if widget.counted is not None:
        write_table(folder / "cells.csv", widget.counted.result)
        viewer.reset_view(margin=0.02)
        picture = viewer.screenshot(canvas_only=False, flash=False)
        Picture.fromarray(picture).save(folder / "screenshot.png")
    viewer.close()


if __name__ == "__main__":
    raise SystemExit(main())
