"""A panel that opens after a count takes it up, as the layers show it now."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot

from cellwright.models import store
from cellwright.widgets.count.model import WholeCount, remember
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.plugin.commands import count_active_layer
from cellwright.widgets.shared.cells.followers import follow

Settled = Callable[[CountWidget], None]
Reopen = Callable[[], CountWidget]


@pytest.fixture
def reopened(viewer: ViewerModel, shelved: Any, qtbot: QtBot) -> Iterator[Reopen]:
    """Function that closes the panel, if there is one, and opens another one."""
    panels: list[CountWidget] = []

    def close() -> None:
        if panels:
            with qtbot.waitSignal(panels[-1].destroyed):
                panels.pop().deleteLater()

    def reopen() -> CountWidget:
        close()
        panels.append(CountWidget(viewer))
        return panels[0]

    yield reopen
    close()


@pytest.fixture
def widget(reopened: Reopen) -> CountWidget:
    return reopened()


def told(widget: CountWidget) -> tuple[str, ...]:
    panel = widget.panel
    shown = (panel.number, panel.line, panel.details, panel.legend, panel.message)
    return (*(label.text() for label in shown), panel.image.currentText(), panel.model.currentText())


def chosen(widget: CountWidget) -> Any:
    inputs = widget.choices.inputs()
    return replace(inputs, region_layers=None), inputs.region_layers.excluded, inputs.region_layers.mask


def counted(widget: CountWidget, settled: Settled) -> CountWidget:
    widget.panel.count.click()
    settled(widget)
    return widget


def test_a_count_is_taken_up_with_all_that_was_told_and_chosen(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, oracle_model: Any, settled: Settled,
    reopened: Reopen,
) -> None:  # fmt: skip
    oracle_model.fit = SimpleNamespace(expected_f1=lambda facts: 0.1, closer_below=0.0)
    viewer.add_image(np.stack([blobs.image * 0, blobs.image]), name="two")
    shapes = viewer.add_shapes([[[0, 0], [0, 30], [30, 30], [30, 0]]], name="dirt")
    panel = widget.panel
    panel.image.choose(viewer.layers["two"])
    panel.channel.setCurrentIndex(1)
    panel.exclude.choose(shapes)
    panel.rule.setCurrentIndex(2)
    panel.outputs["Points"].setChecked(True)
    panel.diameter.setValue(14.0)
    panel.thresholds.container["cell_probability"].value = 0.6
    counted(widget, settled)
    before, inputs, names = told(widget), chosen(widget), [one.name for one in viewer.layers]
    assert "unlike anything" in widget.panel.message.text()
    again = reopened()
    assert told(again) == before
    assert chosen(again) == inputs
    again.panel.thresholds.container["cell_probability"].value = 0.5  # goes on without the network
    settled(again)
    assert [one.name for one in viewer.layers] == names
    assert again.counted.result.provenance.settings["flow"]["cell_probability"] == 0.5


def test_cells_changed_while_there_was_no_panel_are_told(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled, reopened: Reopen, qtbot: QtBot
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    counted(widget, settled)
    with qtbot.waitSignal(widget.destroyed):
        reopened()
    labels = viewer.layers["blobs labels"]
    labels.name = "mine"
    labels.data_setitem(np.nonzero(labels.data == 1), 0)
    qtbot.waitUntil(lambda: not follow(viewer).is_busy, timeout=10_000)
    viewer.layers["blobs"].name = "renamed"
    again = reopened()
    assert again.panel.number.text() == str(len(blobs) - 1)
    assert "changed by hand" in again.panel.line.text()
    assert again.panel.image.currentText() == "renamed"


def test_of_several_images_the_chosen_one_is_told_and_a_closed_one_is_named(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled, reopened: Reopen
) -> None:
    first = viewer.add_image(blobs.image, name="first")
    counted(widget, settled)
    empty = viewer.add_image(blobs.image * 0, name="empty")
    counted(widget, settled)
    assert widget.panel.number.text() == "0"
    viewer.layers.selection.active = first
    assert reopened().panel.number.text() == str(len(blobs))
    viewer.layers.remove(first)
    viewer.layers.selection.active = viewer.layers["first labels"]
    again = reopened()
    assert (again.panel.image.currentText(), again.panel.number.text()) == ("empty", "0")
    viewer.layers.remove(empty)
    again = reopened()
    assert again.panel.line.text().startswith("of 'empty', which is closed: 0 cells")
    viewer.layers.selection.active = viewer.add_image(blobs.image, name="new")
    again = reopened()
    assert (again.panel.image.currentText(), again.panel.number.text()) == ("new", "0")
    viewer.layers.clear()
    assert reopened().panel.line.text() == "no cells counted yet"


def test_counts_of_the_menu_and_of_large_images_are_taken_up(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, reopened: Reopen, tmp_path: Any
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    job = count_active_layer(viewer)
    assert job is not None
    with qtbot.waitSignal(job.finished, timeout=20_000):
        pass
    again = reopened()
    assert again.panel.number.text() == str(len(blobs))
    request = again.counted.request
    expected = "Expect about 9 of 10 right."
    whole = WholeCount(request, 70_000, "70,000 cells", tmp_path, expected, ("Told.",), "", None)
    remember(viewer, whole)
    again = reopened()
    assert (again.panel.number.text(), again.panel.message.text()) == ("70,000", f"{expected} Told.")
    assert str(tmp_path) in again.panel.details.text().replace("\u200b", "")


def test_a_model_that_is_gone_is_told_with_the_count(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled, reopened: Reopen,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    viewer.add_image(blobs.image, name="blobs")
    counted(widget, settled)
    monkeypatch.setattr(store, "models", list)
    again = reopened()
    assert again.panel.number.text() == str(len(blobs))
    assert "There is no model 'flow' here" in again.panel.message.text()
