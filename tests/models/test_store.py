import shutil

import pytest

from cellwright.core.errors import CheckpointError
from cellwright.models import store
from cellwright.models.checkpoint import save_checkpoint
from cellwright.models.registry import FAMILIES


def test_the_users_models_are_in_no_cache_unless_they_were(tmp_path, monkeypatch):
    """A cache may be emptied by the system: no place for what took an hour to train."""
    data, cache = tmp_path / "data" / "cellwright", tmp_path / "cache" / "cellwright"
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *_, **__: str(data))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(cache))
    assert store.user_folder() == data / "models"
    cache.mkdir(parents=True)  # as earlier versions had it
    assert store.user_folder() == cache / "models"
    (data / "models").mkdir(parents=True)
    assert store.user_folder() == data / "models"


def test_models_of_both_shelves_are_listed(shelves, make_model):
    shipped, own = shelves
    save_checkpoint(shipped / "flow", make_model(), {"ap50": 0.9})
    save_checkpoint(own / "mine", make_model(seed=8))
    entries = {entry.name: entry for entry in store.models()}
    assert {name: entry.folder for name, entry in entries.items()} == {
        "flow": shipped / "flow",
        "mine": own / "mine",
    }
    assert entries["flow"].scores == {"ap50": 0.9}
    assert entries["mine"].spec.family == "flow"


def test_a_users_model_hides_the_shipped_one_of_its_name(shelves, make_model):
    shipped, own = shelves
    save_checkpoint(shipped / "flow", make_model())
    assert store.find("flow") == shipped / "flow"
    save_checkpoint(own / "flow", make_model(seed=8))
    assert [entry.folder for entry in store.models()] == [own / "flow"]
    assert store.find("flow") == own / "flow"


def test_a_damaged_model_hides_no_other(shelves, make_model):
    shipped, _ = shelves
    save_checkpoint(shipped / "good", make_model())
    (shipped / "bad").mkdir()
    (shipped / "bad" / "spec.json").write_text("{")
    (shipped / "empty").mkdir()
    assert [entry.name for entry in store.models()] == ["good"]
    for name in ("bad", "empty"):
        with pytest.raises(CheckpointError, match=r"spec\.json"):
            store.load(name)


def test_a_damaged_model_of_the_user_does_not_block_the_shipped_one_unsaid(shelves, make_model):
    shipped, own = shelves
    save_checkpoint(shipped / "flow", make_model())
    (own / "flow").mkdir(parents=True)
    assert store.find("flow") == shipped / "flow"  # an empty folder is no model
    for name in ("spec.json", "weights.safetensors"):
        save_checkpoint(own / "flow", make_model(seed=8))
        (own / "flow" / name).write_bytes(b"{")
        with pytest.raises(
            CheckpointError, match=r"rename or delete the folder .*flow to count with that one"
        ):
            store.load("flow")
        shutil.rmtree(own / "flow")
    assert store.load("flow").spec.preset == "small"


@pytest.mark.parametrize("text", ["{", "3", "[1, 2]", '"high"', "null"])
def test_scores_that_cannot_be_read_are_no_scores(shelves, make_model, text):
    shipped, _ = shelves
    save_checkpoint(shipped / "flow", make_model())
    (shipped / "flow" / "scores.json").write_text(text)
    (entry,) = store.models()
    assert entry.scores == {}


def test_a_model_is_found_by_its_folder(tmp_path, shelves, make_model):
    save_checkpoint(tmp_path / "elsewhere", make_model())
    assert store.find(tmp_path / "elsewhere") == tmp_path / "elsewhere"
    assert store.load(str(tmp_path / "elsewhere")).spec.preset == "small"


def test_a_folder_of_images_that_is_named_like_a_model_is_none(tmp_path, shelves, make_model, monkeypatch):
    shipped, _ = shelves
    save_checkpoint(shipped / "flow", make_model())
    (tmp_path / "here" / "flow").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert store.find("flow") == shipped / "flow"
    save_checkpoint(tmp_path / "here" / "flow", make_model(seed=8))
    assert store.find("flow").resolve() == tmp_path / "here" / "flow"


@pytest.mark.parametrize("name", ["absent", "../shipped", "flow/spec.json", "/nowhere/flow"])
def test_an_unknown_model_is_refused(shelves, make_model, name):
    save_checkpoint(shelves[0] / "flow", make_model())
    with pytest.raises(CheckpointError, match="folder or one of: flow; got"):
        store.find(name)


def test_an_empty_shelf_says_so(shelves):
    with pytest.raises(CheckpointError, match="one of: none"):
        store.find("flow")


def test_a_model_is_read_once_and_again_when_it_changed(shelves, make_model):
    shipped, _ = shelves
    save_checkpoint(shipped / "flow", make_model())
    first = store.load("flow")
    assert store.load("flow") is first
    save_checkpoint(shipped / "flow", make_model(seed=8))
    second = store.load("flow")
    assert second.sha256 != first.sha256
    shutil.rmtree(shipped / "flow")
    with pytest.raises(CheckpointError, match="one of: none"):
        store.load("flow")


@pytest.mark.parametrize("name", ["weights.safetensors", "fit.json"])
def test_no_file_of_a_model_that_was_loaded_stays_as_it_was(shelves, make_model, name):
    save_checkpoint(shelves[0] / "flow", make_model())
    store.load("flow")
    (shelves[0] / "flow" / name).write_text("other")
    with pytest.raises(CheckpointError, match=name):
        store.load("flow")


def test_every_shipped_model_is_whole_and_light():
    shipped = [path.parent for path in store.shipped_folder().glob("*/spec.json")]
    assert "flow" in {path.name for path in shipped}
    for folder in shipped:
        model = store.load(folder)
        assert model.spec.family in FAMILIES
        assert len(model.sha256) == 64
        assert sum(path.stat().st_size for path in folder.rglob("*")) <= 15_000_000


def test_a_model_whose_files_could_not_all_be_removed_is_in_no_list(shelves, make_model, monkeypatch):
    _, own = shelves
    save_checkpoint(own / "mine", make_model())
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a program has them open
        store.delete("mine")
    assert store.models() == []
    assert (store.is_taken("mine"), len(list(own.iterdir()))) == (False, 1)
    save_checkpoint(own / "other", make_model())
    store.delete("other")
    assert list(own.iterdir()) == []
