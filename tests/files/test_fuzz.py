"""A short search for files that readers take badly; ``fuzz.py`` looks for longer."""

import importlib.util
import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image as Picture

from cellwright.core.errors import ReadError
from cellwright.files.formats.registry import recognise
from cellwright.files.images import read_image

SPEC = importlib.util.spec_from_file_location("fuzz", Path(__file__).with_name("fuzz.py"))
fuzz = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzz)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return fuzz.write_corpus(tmp_path_factory.mktemp("corpus"))


def test_every_kind_is_read_whole(samples):
    assert [sample.name for sample in samples if not sample.read(sample.path)] == []


@pytest.mark.parametrize("seed", [0, 1])
def test_damaged_files_give_an_answer_or_an_error_of_ours(samples, seed):
    search = fuzz.Search(samples, seed)
    assert len(search.samples) > 40
    search.run(iter(range(300)))
    assert sum(tally.n_files for tally in search.tallies.values()) == 300
    assert search.wrong == []


def test_the_reader_that_was_searched_least_is_next(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "FINDINGS", tmp_path / "found")
    ledger, few = tmp_path / "ledger.json", [one for one in samples if one.reader in ("via", "voc")]
    for _ in range(3):
        fuzz.search_in_want(few, 0.01, None, ledger)
    noted = json.loads(ledger.read_text())
    assert sorted(one["searches"] for one in noted.values()) == [1, 2]
    fuzz.search_in_want([replace(few[0], read=lambda path: 1 / 0)], 0.0, 7, ledger)
    noted = json.loads(ledger.read_text())[few[0].reader]
    assert noted["faults"] > 0
    assert noted["seconds_since_fault"] == 0 < noted["seconds"]
    assert "ZeroDivisionError" in noted["found"][0]


def test_a_search_that_is_stopped_is_noted(samples, tmp_path, monkeypatch):
    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(fuzz, "FINDINGS", tmp_path / "found")
    one, ledger = replace(next(one for one in samples if one.reader == "via"), read=stop), tmp_path / "ledger"
    assert fuzz.search_in_want([one], 9, None, ledger).wrong == []
    assert json.loads(ledger.read_text())["via"]["seconds"] < 9
    monkeypatch.setattr(fuzz, "MOST_SECONDS", 0)  # it was stuck in a file
    assert ": stopped" in fuzz.search_in_want([one], 0.01, None, ledger).wrong[0]


def peak_mib_of(read):
    """Return what a function gives, and the MiB that it needs at most; 0 where the system does not tell."""
    fuzz.forget_peak()
    before = fuzz.peak_mib()
    return read(), fuzz.peak_mib() - before


def test_a_large_picture_is_not_copied_again_and_again(tmp_path):
    Picture.new("RGBA", (3000, 3000)).save(tmp_path / "a.png", compress_level=1)
    image, mib = peak_mib_of(lambda: read_image(tmp_path / "a.png"))
    assert image.shape == (3000, 3000, 3)
    assert mib < 110  # 26 as an array, 34 in Pillow


def test_cells_far_apart_take_little_memory(tmp_path):
    corners = ([[x, x], [x + 9, x], [x + 9, x + 9], [x, x + 9], [x, x]] for x in (0, 30_000))
    shapes = [{"type": "Polygon", "coordinates": [ring]} for ring in corners]
    features = [{"type": "Feature", "geometry": shape, "properties": {}} for shape in shapes]
    (tmp_path / "a.geojson").write_text(json.dumps(features))
    (found,), mib = peak_mib_of(lambda: recognise(tmp_path / "a.geojson").read(tmp_path / "a.geojson"))
    assert (found.shape, len(found)) == ((30_009, 30_009), 2)
    assert mib < 200  # of the 3.4 GiB that the labels would fill


def test_a_frame_that_claims_gigabytes_is_refused(tmp_path):
    frames = [Picture.new("L", (30, 20), shade) for shade in (0, 99)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    content = bytearray((tmp_path / "a.gif").read_bytes())
    start = content.rindex(b"\x2c\0\0\0\0" + struct.pack("<HH", 30, 20))  # of the second frame
    content[start + 5 : start + 9] = struct.pack("<HH", 13_000, 13_000)
    (tmp_path / "a.gif").write_bytes(content)

    def refuse():
        with pytest.raises(ReadError, match="must have one size"):
            read_image(tmp_path / "a.gif")

    assert peak_mib_of(refuse)[1] < 200
