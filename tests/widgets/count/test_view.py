from dataclasses import asdict

import pytest
from pytestqt.qtbot import QtBot

from cellwright.models import registry
from cellwright.widgets.count.view import OUTPUTS, CountPanel, usual_outputs


@pytest.fixture
def panel(qtbot: QtBot) -> CountPanel:
    made = CountPanel()
    qtbot.addWidget(made)
    return made


@pytest.mark.parametrize("family", registry.FAMILIES.values(), ids=list(registry.FAMILIES))
def test_outputs_and_forms_follow_the_family(panel: CountPanel, family: registry.Family) -> None:
    panel.show_family(registry.get("flow"))
    panel.show_family(family)
    shown = {output for output, box in panel.outputs.items() if not box.isHidden()}
    ticked = {output for output, box in panel.outputs.items() if box.isChecked()}
    assert shown == set(family.returns) <= set(OUTPUTS)
    assert ticked == set(usual_outputs(family)) != set()
    values = panel.thresholds.values() | panel.filters.values()
    assert family.settings(**values) == family.settings()
    assert set(values) == set(asdict(family.settings()))


def test_the_usual_outputs() -> None:
    usual = {name: usual_outputs(registry.get(name)) for name in ("flow", "centroid", "density")}
    assert usual == {"flow": ("Labels",), "centroid": ("Points", "Shapes"), "density": ("Image",)}


def test_tools_follow_the_family(panel: CountPanel) -> None:
    shown = {}
    for name in ("query", "pseudocolor", "density"):
        panel.show_family(registry.get(name))
        buttons = {"ask": panel.ask, "calibrate": panel.calibrate, "colours": panel.colours}
        shown[name] = [button for button, widget in buttons.items() if not widget.isHidden()]
        assert panel.classes.isEnabled() == (name != "density")
    assert shown == {"query": ["ask"], "pseudocolor": ["ask", "colours"], "density": ["calibrate"]}


def test_a_long_number_is_written_smaller(panel: CountPanel) -> None:
    for number, is_long in (("2,041", "false"), ("412 ± 18", "true"), ("7", "false")):
        panel.show_count(number, "", "")
        assert panel.number.property("long") == is_long


def test_a_long_name_does_not_widen_the_panel(panel: CountPanel) -> None:
    panel.show_count("7", "7 cells", "5d58600efa0c2667ec85595bf456a54e2bd6e6e9a5c0dff42d807bc9fe2b822e")
    assert panel.details.minimumSizeHint().width() < 300


def test_what_can_be_left_as_it_is_is_out_of_sight_to_begin_with(panel: CountPanel, qtbot: QtBot) -> None:
    panel.show_family(registry.get("flow"))
    panel.show()
    assert panel.count.isVisible()
    assert panel.more.content.isHidden()
    assert panel.device.visibleRegion().isEmpty()
    panel.more.title.click()
    qtbot.waitUntil(lambda: not panel.device.visibleRegion().isEmpty())
