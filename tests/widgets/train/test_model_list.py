from pathlib import Path

from cellwright.models import store
from cellwright.widgets.train.widget import TrainWidget


def test_own_models_are_renamed_shared_taken_and_deleted(
    trainer: TrainWidget, home: Path, tmp_path: Path
) -> None:
    own = home / "models" / "mine"
    own.mkdir(parents=True)
    for file in ("spec.json", "weights.safetensors"):
        (own / file).write_bytes((store.shipped_folder() / "flow" / file).read_bytes())
    trainer.own.refresh()
    trainer.own.rename_to("ours")
    assert trainer.panel.start.findData("ours") >= 0
    trainer.own.share_to(tmp_path / "ours.zip")
    trainer.own.delete_chosen()
    assert trainer.panel.start.findData("ours") < 0
    trainer.own.take_from(tmp_path / "ours.zip")
    assert trainer.own.chosen == "ours"
    trainer.own.rename_to("../x")
    assert "Choose another name" in trainer.panel.message.text()
