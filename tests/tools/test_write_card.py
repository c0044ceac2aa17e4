import json
import shutil

import pytest
from tools.release import default_card, write_card

from cellwright.models import store


@pytest.fixture
def run_main(tmp_path, monkeypatch):
    """Function (arguments) that runs the command on a copy of the facts of a shipped model."""
    monkeypatch.setattr(default_card, "n_learned", lambda _: {})
    monkeypatch.setattr(write_card, "stages_of", lambda *_: [])

    def run(name, *arguments):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("spec.json", "evaluation.json", "curve.json"):
            if (store.find(name) / file).exists():
                shutil.copy(store.find(name) / file, folder / file)
        command = ["write_card", name, "--data", str(tmp_path), "--folder", str(folder), *arguments]
        monkeypatch.setattr("sys.argv", command)
        write_card.main()
        return (folder / "card.md").read_text()

    return run


def test_the_default_model_has_the_card_of_all_kinds(run_main, tmp_path):
    old, new = (
        {
            "n_images": 3,
            "f1": f1,
            "ap": {"0.50": 0.5},
            "score": 0.5,
            "mean_ap": 0.4,
            "count_median_error": 0.1,
        }
        for f1 in (0.61, 0.72)
    )
    (tmp_path / "scores.json").write_text(json.dumps({"dsb2018_train": [{"all": old}, {"all": new}]}))
    card = run_main("flow", "--scores", str(tmp_path / "scores.json"), "--remark", "Twice.")
    assert "tools.release.train_kinds" in card
    assert "| dsb2018 val, all | 3 | 0.610 | 0.720 |" in card
    assert "Twice." in card
    assert json.loads((tmp_path / "flow" / "scores.json").read_text())["count_error"] == 0.1


def test_its_card_is_not_made_of_another_recipe(run_main, capsys):
    with pytest.raises(SystemExit):
        run_main("flow", "--text-only")
    assert "flow needs --scores" in capsys.readouterr().err


def test_the_card_of_nuclei_names_its_own_command(run_main):
    assert "write_card nuclei --data DATA" in run_main("nuclei", "--text-only")
