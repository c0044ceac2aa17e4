"""How long the viewer's event loop stands still while cells are counted, or while a model is trained.

A timer ticks every 5 ms in a real napari window; a tick that comes late means a window that does not answer.
Prints the 50th, 99th and 100th percentile of the gaps, in milliseconds, for three counts, or for each minute
of a training with the quick preset, or for each step with an image that is counted block by block: opened,
counted in view, counted whole, and moved about with its labels at several zooms. That image and its count are
kept, with screenshots, in a folder; what is there is not made again.

    python -m benchmarks.speed.viewer_stalls --size 2048
    python -m benchmarks.speed.viewer_stalls --train FOLDER --minutes 3
    python -m benchmarks.speed.viewer_stalls --field FOLDER --size 32768
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QEventLoop, QTimer

from benchmarks.measure import draw_nuclei, peak_mb
from benchmarks.speed.streamed import TILE_PX, write_field
from cellwright.files.images import read_image
from cellwright.files.zarr import finish_array
from cellwright.inference.image_count import FOLDER
from cellwright.models import store
from cellwright.ops.simulation.simulate import simulate
from cellwright.widgets.count.background import TURN_MS, adding, layer_of
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.shared.layer_io import source_of
from cellwright.widgets.shared.napari_private import in_turns
from cellwright.widgets.train.widget import TrainWidget

TICK_MS = 5
ZOOMS = (1, 2, 4, 8, 16, 32)  # times that at which the whole image is seen
PAN_STEPS = 30


class Stalls:
    """Notes the time between ticks of a timer, and how much of it the GUI thread was at work.

    On a machine that does other work too, the rest of a gap is waiting for a core.
    """

    def __init__(self) -> None:
        self.gaps_ms: list[float] = []
        self.busy_ms: list[float] = []
        self._timer = QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._on_tick)
        self._last, self._last_busy = time.perf_counter(), time.thread_time()

    def __enter__(self) -> "Stalls":
        self._last, self._last_busy = time.perf_counter(), time.thread_time()
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.stop()
        self._on_tick()

    def percentile(self, q: float) -> float:
        """Milliseconds that this share of the gaps do not exceed."""
        return float(np.percentile(self.gaps_ms, q))

    def longest(self) -> str:
        """Return the longest gap and the most work between two ticks, for people."""
        return f"{max(self.gaps_ms):.0f} ms ({max(self.busy_ms):.0f} ms at work)"

    def _on_tick(self) -> None:
        now, busy = time.perf_counter(), time.thread_time()
        self.gaps_ms.append(1000 * (now - self._last))
        self.busy_ms.append(1000 * (busy - self._last_busy))
        self._last, self._last_busy = now, busy


def wait(seconds: float) -> None:
    """Let the event loop run."""
    loop = QEventLoop()
    QTimer.singleShot(int(1000 * seconds), loop.quit)
    loop.exec()


def measure(start: Callable[[], None], widget: CountWidget) -> Stalls:
    """Gaps from the start of a count until its layers have been drawn."""
    loop = QEventLoop()
    widget.finished.connect(loop.quit)
    with Stalls() as stalls:
        start()
        loop.exec()
        wait(0.5)
    widget.finished.disconnect(loop.quit)
    return stalls


def show(title: str, stalls: Stalls, line: str = "") -> None:
    """Print the percentiles of the gaps."""
    gaps = "  ".join(f"p{q}: {stalls.percentile(q):6.1f} ms" for q in (50, 99, 100))
    print(f"{title:16s} {line:32s} {gaps}  ({len(stalls.gaps_ms)} ticks)", flush=True)


def measure_training(viewer: napari.Viewer, folder: Path, minutes: int) -> None:
    """Print the gaps while the quick preset learns the images of a dataset; its models are thrown away."""
    with tempfile.TemporaryDirectory() as own:
        store.user_folder = lambda: Path(own)  # type: ignore[attr-defined]
        widget = TrainWidget(viewer)
        viewer.window.add_dock_widget(widget, name="Train a model")
        widget.panel.data.add_folder(folder)
        while widget.look.findings is None:
            wait(0.5)
        widget.begin()
        for minute in range(minutes):
            with Stalls() as stalls:
                wait(60)
            line = widget.jobs.line.text() if widget.is_busy else f"ended: {widget.panel.message.text()}"
            show(f"minute {minute + 1}", stalls, line)
        widget.leave()
        while widget.is_busy:
            wait(0.1)


def measure_field(viewer: napari.Viewer, folder: Path, side: int) -> None:
    """Print the gaps while a field is opened, counted and moved about, and the work of the GUI thread."""
    path = folder / f"field_{side}.zarr"
    if not path.exists():
        draw_field(path, side)
    with Stalls() as stalls:
        viewer.open(path, plugin="napari-cellwright")
        wait(3)
    show("opened", stalls, stalls.longest())
    widget = CountWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Count cells")
    wait(8)  # devices are looked for, and drawing labels is prepared, when the widget is first shown
    labels = folder / FOLDER / f"{path.stem}.labels.zarr"
    if not (labels.parent / f"{path.stem}.json").exists():
        count_field(viewer, widget, folder)
    else:
        build = layer_of(labels, source_of(viewer.layers[0]))
        with Stalls() as stalls:
            in_turns(adding(viewer, build()), TURN_MS)  # as the widget does
            wait(2)
        show("labels added", stalls, stalls.longest())
    fitting = viewer.camera.zoom
    for times in ZOOMS:
        viewer.camera.zoom = times * fitting
        wait(1)
        with Stalls() as stalls:
            pan(viewer, side)
        show(f"moved at x {times}", stalls, stalls.longest())
        viewer.screenshot(folder / f"moved_{side}_x{times}.png", canvas_only=False, flash=False)


def draw_field(path: Path, side: int) -> None:
    """Write a field of nuclei with the smaller copies of a pyramid."""
    with tempfile.TemporaryDirectory() as name:
        draw_nuclei(Path(name), TILE_PX)
        write_field(path, np.load(Path(name) / "image.npy"), (side, side))
    finish_array(path, read_image(path))


def count_field(viewer: napari.Viewer, widget: CountWidget, folder: Path) -> None:
    """Print the gaps until what is seen has been counted, then until the whole has."""
    whole: list[object] = []
    widget.model.whole_counted.connect(whole.append)
    n_layers = len(viewer.layers)
    for part, start, is_done in (
        ("view", widget.panel.count.click, lambda: len(viewer.layers) > n_layers),
        ("whole", lambda: None, lambda: bool(whole)),
    ):
        begun = time.perf_counter()
        with Stalls() as stalls:
            start()
            while not is_done():
                wait(0.1)
            seconds = time.perf_counter() - begun
            wait(2)
        show(f"{part} counted", stalls, f"{seconds:.0f} s, {stalls.longest()}, {peak_mb():.0f} MB")
        viewer.screenshot(folder / f"{part}.png", canvas_only=False, flash=False)


def pan(viewer: napari.Viewer, side: int) -> None:
    """Move what is seen across the image and down, an eighth of the window at each step."""
    step = min(viewer.window._qt_viewer.canvas.size) / viewer.camera.zoom / 8
    place = side / 4
    for _ in range(PAN_STEPS):
        place = (place + step * viewer.layers[0].scale[-1]) % side
        viewer.camera.center = (place, place)
        wait(0.03)


def main() -> None:
    """Measure counting, or training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--model", default="flow")
    parser.add_argument("--train", type=Path, help="folder of a dataset to learn from instead of counting")
    parser.add_argument("--minutes", type=int, default=3, help="of training")
    parser.add_argument("--field", type=Path, help="folder of a large image and its count")
    options = parser.parse_args()
    if options.train or options.field:
        viewer = napari.Viewer()
        if options.train:
            measure_training(viewer, options.train, options.minutes)
        else:
            measure_field(viewer, options.field, options.size)
        viewer.close()
        return
    drawn = simulate("fluorescence", (options.size, options.size), np.random.default_rng(0), diameter_px=26)
    viewer = napari.Viewer()
    viewer.add_image(drawn.image, name="nuclei")
    widget = CountWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Count cells")
    wait(8)  # devices are looked for when the widget is first shown
    for run in ("first", "second", "third"):
        stalls = measure(widget.panel.count.click, widget)
        line = widget.panel.line.text() or widget.panel.message.text()
        show(f"{run} {options.size}²", stalls, line)
    viewer.close()


if __name__ == "__main__":
    main()
