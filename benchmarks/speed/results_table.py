"""How fast the results panel is with many cells: opening, its pages, choosing a row, a cut-off, painting.

A real napari window, labels of a grid of cells. Prints milliseconds, and the longest time for which the event
loop stood still.

    python -m benchmarks.speed.results_table --cells 100000
"""

import argparse
import time
from collections.abc import Callable

import napari
import numpy as np
from napari.layers import Labels
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from benchmarks.speed.viewer_stalls import Stalls, wait
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.napari_private import camera_of

PITCH, SIDE = 12, 8
N_CHOSEN, N_DRAGGED = 50, 60
LIMIT_S = 300.0


def grid(n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels of cells in rows, their sizes and intensities at random."""
    n = int(np.ceil(n_cells**0.5))
    rng = np.random.default_rng(0)
    labels = np.zeros((n * PITCH, n * PITCH), np.int32)
    for number in range(n_cells):
        y, x = divmod(number, n)
        height, width = rng.integers(4, SIDE + 1, 2)
        labels[y * PITCH : y * PITCH + height, x * PITCH : x * PITCH + width] = number + 1
    levels = np.concatenate([[10], rng.gamma(4, 30, n_cells)])
    return (levels[labels] + rng.normal(0, 2, labels.shape)).astype(np.float32), labels


def settle(widget: ResultsWidget) -> None:
    """Let the event loop run until the cells are measured."""
    end = time.perf_counter() + LIMIT_S
    while widget.measurer.is_busy and time.perf_counter() < end:
        wait(0.02)
    wait(0.3)


def timed_ms(action: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds of an action, with what it leaves to the event loop to draw; and those at work."""
    start, busy = time.perf_counter(), time.thread_time()
    action()
    QApplication.processEvents()
    return 1000 * (time.perf_counter() - start), 1000 * (time.thread_time() - busy)


def show(title: str, values_ms: list[tuple[float, float]]) -> None:
    """Print median and longest, and the same of the time at work."""
    whole, busy = np.array(values_ms).T
    texts = [f"median {np.median(one):6.1f} longest {one.max():6.1f}" for one in (whole, busy)]
    print(f"{title:28s} {texts[0]} ms; at work {texts[1]} ms", flush=True)


def opened(viewer: napari.Viewer) -> ResultsWidget:
    """Open the panel and print how long that takes."""
    with Stalls() as stalls:
        start = time.perf_counter()
        _, widget = viewer.window.add_plugin_dock_widget("napari-cellwright", "Results")
        docked_ms = 1000 * (time.perf_counter() - start)
        while widget.model.measured is None:
            wait(0.005)
        opened_ms = 1000 * (time.perf_counter() - start)
        settle(widget)
    print(f"open: docked {docked_ms:.0f} ms, table {opened_ms:.0f} ms, stall {stalls.longest()}")
    return widget


def try_measuring(widget: ResultsWidget) -> None:
    """Measure the intensity."""
    widget.view.groups["intensity"].setChecked(True)
    with Stalls() as stalls:
        start = time.perf_counter()
        widget.view.measure.click()
        settle(widget)
    print(f"intensity: {time.perf_counter() - start:.1f} s, stall {stalls.longest()}")


def try_table(viewer: napari.Viewer, widget: ResultsWidget, n_cells: int) -> None:
    """Choose rows and sort; the redraw of the canvas alone is told for comparison."""
    rows = np.random.default_rng(1).integers(0, n_cells, N_CHOSEN).tolist()
    table = widget.view.table
    table.selectRow(0)
    wait(0.3)
    show("choose a row and draw", [timed_ms(lambda row=row: table.selectRow(row)) for row in rows])
    camera = camera_of(viewer)
    moved = [timed_ms(lambda at=at: setattr(camera, "center", (0, at, at))) for at in rows[:20]]
    show("(move the camera and draw)", moved)
    heading = widget.view.frame.names.index("area_px")
    orders = (Qt.SortOrder.AscendingOrder, Qt.SortOrder.DescendingOrder)
    show("sort", [timed_ms(lambda order=order: table.sortByColumn(heading, order)) for order in orders])


def try_cuts(widget: ResultsWidget) -> None:
    """Drag a cut-off of the histogram."""
    titles = [widget.view.tabs.tabText(at) for at in range(widget.view.tabs.count())]
    widget.view.tabs.setCurrentIndex(titles.index("Plots"))
    wait(0.5)
    cuts, steps = widget.plots.histogram.cuts, np.linspace(17, 40, N_DRAGGED)
    dragged = [timed_ms(lambda low=low: cuts.setRegion((low, 60.0))) for low in steps]
    show("drag a cut-off and draw", dragged)
    print(f"that is {1000 / np.mean(dragged, axis=0)[0]:.0f} frames a second")
    with Stalls() as stalls:
        for low in steps:
            cuts.setRegion((low, 60.0))
            wait(0.02)
        wait(0.5)
    print(f"dragged with the mouse: stall {stalls.longest()}")
    widget.view.no_gate.click()
    wait(0.5)


def try_pages(widget: ResultsWidget) -> None:
    """Open each page for the first time."""
    tabs = widget.view.tabs
    for place in (*range(1, tabs.count()), 0):
        if tabs.isTabVisible(place):
            with Stalls() as stalls:
                tabs.setCurrentIndex(place)
                wait(0.5)
            print(f"page {tabs.tabText(place)}: stall {stalls.longest()}")


def try_painting(layer: Labels, widget: ResultsWidget, number: int) -> None:
    """Paint one more cell."""
    with Stalls() as stalls:
        start = time.perf_counter()
        layer.data_setitem((np.array([PITCH - 1, PITCH - 1]), np.array([0, 1])), number)
        settle(widget)
    seconds = time.perf_counter() - start
    print(f"painted cell in the table: {seconds:.1f} s, stall {stalls.longest()}")
    assert widget.view.number.text() == f"{number:,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--intensity", action="store_true", help="measure the intensity too")
    arguments = parser.parse_args()
    image, labels = grid(arguments.cells)
    viewer = napari.Viewer(show=True)
    viewer.add_image(image, name="grid")
    layer = viewer.add_labels(labels, name="cells")
    wait(1.0)
    widget = opened(viewer)
    try_pages(widget)
    if arguments.intensity:
        try_measuring(widget)
    try_table(viewer, widget, arguments.cells)
    try_cuts(widget)
    try_painting(layer, widget, arguments.cells + 1)
    viewer.close()


if __name__ == "__main__":
    main()
