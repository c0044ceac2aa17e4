"""Three steps from an empty viewer to results, which come once by themselves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel
from npe2 import PluginManifest
from pytestqt.qtbot import QtBot

import cellwright
from cellwright.widgets.count import widget
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.shared.messages import news_of


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that tells that the guide was left, not there yet."""
    monkeypatch.setattr(widget, "guide_file", lambda: tmp_path / "cellwright" / "guide_left")
    return tmp_path / "cellwright" / "guide_left"


@pytest.fixture
def opened(viewer: ViewerModel, qtbot: QtBot, shelved: Any) -> Callable[[], CountWidget]:
    def new() -> CountWidget:
        widget = CountWidget(viewer)
        qtbot.addWidget(widget)
        return widget

    return new


def test_the_guide_leads_to_results_and_comes_once(
    viewer: ViewerModel,
    opened: Callable[[], CountWidget],
    blobs: Any,
    left: Path,
    qtbot: QtBot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def open_sample(own: ViewerModel, plugin: str, sample: str) -> None:
        manifest = PluginManifest.from_file(Path(cellwright.__file__).with_name("napari.yaml"))
        assert (manifest.name, sample in [one.key for one in manifest.contributions.sample_data]) == (
            plugin,
            True,
        )
        own.add_image(blobs.image, name=sample)

    monkeypatch.setattr(ViewerModel, "open_sample", open_sample)
    widget = opened()
    guide = widget.panel.guide
    assert (guide.isHidden(), guide.text.text()[:6], guide.go_on.text()) == (False, "1 of 3", "Open sample")
    guide.go_on.click()
    assert guide.text.text().startswith("2 of 3")
    viewer.layers.clear()
    assert guide.text.text().startswith("1 of 3")
    guide.go_on.click()
    with qtbot.waitSignal(widget.finished, timeout=60_000):
        guide.go_on.click()
        guide.go_on.click()  # a second click does not cancel
    assert widget.counted is not None
    assert guide.text.text().startswith("3 of 3")
    assert left.exists()
    sent = []
    news_of(widget.viewer).sent.connect(lambda panel, _: sent.append(panel))
    guide.go_on.click()
    assert (guide.isHidden(), sent) == (True, ["Results"])
    viewer.layers.clear()
    again = opened()
    assert again.panel.guide.isHidden()
    again.panel.show_guide.click()  # as often as it is asked for
    assert not again.panel.guide.isHidden()


def test_the_guide_is_left_at_any_time(
    viewer: ViewerModel, opened: Callable[[], CountWidget], blobs: Any, left: Path
) -> None:
    widget = opened()
    widget.panel.guide.leave.click()
    assert (widget.panel.guide.isHidden(), left.exists()) == (True, True)
    viewer.add_image(blobs.image)
    assert widget.panel.guide.isHidden()
    left.unlink()
    assert opened().panel.guide.isHidden()  # with an image there is nothing to begin with
    assert not left.exists()
