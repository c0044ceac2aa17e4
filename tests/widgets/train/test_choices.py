from pathlib import Path

import pytest
from napari.components import ViewerModel

from cellwright.training.settings import PRESETS
from cellwright.widgets.train.widget import TrainWidget


@pytest.mark.parametrize("place", [0, 1, 2])
def test_presets_fill_the_form(trainer: TrainWidget, place: int) -> None:
    trainer.panel.preset.setCurrentIndex(place)
    wanted = list(PRESETS.values())[place]
    assert trainer.panel.settings == wanted
    for name, value in trainer.panel.form.values().items():
        assert value == pytest.approx(getattr(wanted, name), rel=1e-6), name
    trainer.panel.form.set_values({"rate": 2e-4})
    assert trainer.panel.settings.rate == pytest.approx(2e-4)


@pytest.mark.parametrize("name", ["", "../x", "taken"])
def test_names_are_checked(trainer: TrainWidget, home: Path, name: str) -> None:
    (home / "models" / "taken").mkdir(parents=True)
    trainer.panel.name.setText(name)
    trainer.panel.train.click()
    assert not trainer.is_busy
    assert "Choose another name" in trainer.panel.message.text()


def test_the_list_is_there_while_layers_are_learned_from(
    trainer: TrainWidget, viewer: ViewerModel, tmp_path: Path
) -> None:
    panel = trainer.panel
    assert (panel.pairs.isHidden(), panel.complete.isHidden()) == (False, False)
    trainer.panel.data.add_folder(tmp_path)
    assert (panel.pairs.isHidden(), panel.complete.isHidden()) == (True, True)
    panel.data.setCurrentIndex(0)
    panel.data.activated.emit(0)
    assert not panel.pairs.isHidden()
    viewer.layers.clear()
    assert (panel.pairs.isHidden(), panel.complete.isHidden()) == (True, True)
