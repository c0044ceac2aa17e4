import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from magicgui.widgets import Dialog
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QFileDialog, QInputDialog

from cellwright.models import store, zoo
from cellwright.widgets.train.widget import TrainWidget, ZooDetails

LIMIT_MS = 60_000


@pytest.fixture
def mine(trainer: TrainWidget, home: Path) -> Path:
    """A model of the user's, chosen."""
    own = home / "models" / "mine"
    own.mkdir(parents=True)
    shipped = store.shipped_folder() / "flow"
    shutil.copy(shipped / "weights.safetensors", own)
    spec = json.loads((shipped / "spec.json").read_text())
    (own / "spec.json").write_text(json.dumps({**spec, "halo": 32}))  # so is the image in a package small
    trainer.own.box.refresh()
    return own


@pytest.fixture
def copied(trainer: TrainWidget, qtbot: QtBot) -> Callable[[], None]:
    """Function that returns once no model is exported or imported."""
    return lambda: qtbot.waitUntil(lambda: not trainer.own.job.is_busy, timeout=LIMIT_MS)


@pytest.mark.usefixtures("mine")
def test_own_models_are_renamed_shared_taken_and_deleted(
    trainer: TrainWidget, tmp_path: Path, copied: Callable[[], None]
) -> None:
    trainer.own.rename_to("ours")
    assert trainer.panel.start.findData("ours") >= 0
    trainer.own.export_to(tmp_path / "ours.zip")
    assert not trainer.own.rename.isEnabled()
    copied()
    assert trainer.own.rename.isEnabled()
    trainer.own.delete_chosen()
    assert trainer.panel.start.findData("ours") < 0
    trainer.own.import_from(tmp_path / "ours.zip")
    copied()
    assert trainer.own.chosen == "ours"
    trainer.own.rename_to("../x")
    assert "Choose another name" in trainer.panel.message.text()


def test_a_folder_is_imported_under_a_name_that_is_asked_for(
    trainer: TrainWidget, mine: Path, copied: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(mine))
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **given: (f"{given['text']} too", True))
    trainer.own.add.menu().actions()[1].trigger()
    copied()
    assert trainer.own.chosen == "mine too"
    assert trainer.panel.message.text() == "Imported mine too."
    trainer.own.import_from(mine)
    copied()
    assert "There is already a model 'mine'" in trainer.panel.message.text()


@pytest.mark.usefixtures("mine")
def test_a_package_for_the_zoo_names_authors_and_licence(
    trainer: TrainWidget, tmp_path: Path, copied: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_in(dialog: Dialog) -> bool:
        dialog["authors"].value = "A. Person, B. Person,"
        assert dialog["licence"].value == "BSD-3-Clause"
        return True

    path = tmp_path / "mine-zoo.zip"
    monkeypatch.setattr(zoo, "_write_files", lambda *_: 1.0)  # its own tests trace networks
    monkeypatch.setattr(Dialog, "exec", fill_in)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))
    trainer.own.export.menu().actions()[1].trigger()
    copied()
    assert trainer.panel.message.text() == f"Written to {path}."
    with zipfile.ZipFile(path) as archive:
        text = archive.read("rdf.yaml").decode()
    assert '"A. Person"' in text
    assert '"B. Person"' in text
    assert "BSD-3-Clause" in text
    trainer.own.export_to(path, ZooDetails(()))
    copied()
    assert "names its authors" in trainer.panel.message.text()
