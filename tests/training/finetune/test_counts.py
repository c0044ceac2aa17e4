from dataclasses import replace

import numpy as np
import pytest
import tifffile

from cellwright.core.errors import CheckpointError, ReadError
from cellwright.core.tasks import run
from cellwright.files.images import read_image
from cellwright.inference.pipeline import count_cells
from cellwright.models.checkpoint import load_checkpoint, save_checkpoint
from cellwright.models.families.density import build
from cellwright.training.finetune.counts import CountedImage, finetune_counts, read_counts


@pytest.fixture
def start(tmp_path):
    """Folder of a density model with random weights."""
    model = build("small")
    spec = replace(model.spec, diameter_range_px=(1.0, 500.0))
    save_checkpoint(tmp_path / "start", model.with_network(model.network, spec=spec))
    return tmp_path / "start"


@pytest.fixture
def counted(tmp_path, rng, start):
    """Function (true cells for each that the model finds) -> images with these counts."""

    def make(*factors):
        images = []
        for index, factor in enumerate(factors):
            path = tmp_path / f"{index}.tif"
            tifffile.imwrite(path, rng.integers(0, 255, (48, 48 + 16 * index)).astype(np.uint8))
            found = run(count_cells(read_image(path), (load_checkpoint(start),))).count
            images.append(CountedImage(path, factor * found))
        return images

    return make


def test_the_factor_that_all_images_share_is_learned(start, counted, tmp_path):
    images = counted(3.0, 3.0, 3.0, 3.0)
    outcome = run(finetune_counts(images, start, tmp_path / "tuned"))
    assert outcome.is_better
    assert outcome.after["score"] == pytest.approx(1.0, abs=1e-4)
    assert outcome.before["count_mape"] == pytest.approx(2 / 3, abs=1e-3)
    model = load_checkpoint(tmp_path / "tuned")
    result = run(count_cells(read_image(images[1].path), (model,)))
    assert result.count == pytest.approx(images[1].count, rel=1e-3)
    assert result.count == pytest.approx(result.maps["density"].sum(), rel=1e-4)
    low, high = result.interval
    assert low <= result.count <= high
    assert "multiplied by 3.00" in (tmp_path / "tuned" / "card.md").read_text()


def test_learning_again_multiplies_the_factors(start, counted, tmp_path):
    images = counted(3.0, 3.0, 3.0)
    run(finetune_counts(images, start, tmp_path / "first"))
    doubled = [replace(image, count=2 * image.count) for image in images]
    run(finetune_counts(doubled, tmp_path / "first", tmp_path / "second"))
    assert load_checkpoint(tmp_path / "second").spec.options["learned_factor"] == pytest.approx(6.0, rel=1e-3)


def test_a_factor_that_others_contradict_is_not_kept(start, counted, tmp_path):
    outcome = run(finetune_counts(counted(1.0, 1.1, 9.0), start, tmp_path / "tuned"))
    assert not outcome.is_better
    spec = load_checkpoint(tmp_path / "tuned").spec
    assert "learned_factor" not in spec.options
    assert spec.title == load_checkpoint(start).spec.title


def test_other_weights_do_not_share_what_was_learned_of_counts():
    spec = replace(build("small").spec, count_error=(1.0, 1.0, 0.5))
    tuned = replace(spec, options={**spec.options, "learned_factor": 2.0})
    assert tuned.without_counts() == replace(spec, count_error=())


def test_a_model_that_gives_no_density_and_its_own_folder_are_refused(start, counted, tmp_path):
    images = counted(1.0, 1.0, 1.0)
    with pytest.raises(CheckpointError, match="of the family flow"):
        run(finetune_counts(images, "flow", tmp_path / "tuned"))
    with pytest.raises(CheckpointError, match="folder of its own"):
        run(finetune_counts(images, start, start))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,count\na.tif,3\n", "columns image and count"),
        ("image,count\na.tif\n", "line 2 lacks one"),
        ("image,count\na.tif,many\n", "line 2 of .* has 'many'"),
        ("image,count\na.tif,-1\n", "has '-1'"),
        ("image,count\na.tif,nan\n", "has 'nan'"),
        ("image,count\nb.tif,3\n", "as line 2 of"),
        ("image,count\na.tif,3\na.tif,4\n", "at least 3 images"),
        ("image,count\n" + 4 * "a.tif,0\n", "not all without cells"),
        ("image,count\na.tif,3\nc.tif,3\na.tif,5\n", "a.tif is listed with 3 and, as a.tif, with 5 in"),
        ("image,count\na.tif,3\nc.tif,3\ncopy.tif,5\n", "c.tif is listed with 3 and, as copy.tif, with 5 in"),
        (
            "image,count\na.tif,3\nc.tif,3\n./../x/a.tif,3\n",
            "a.tif is listed with 3 and, as a.tif, with 3 in",
        ),
    ],
)
def test_a_table_says_what_is_wrong_with_it(tmp_path, text, words):
    tmp_path = tmp_path / "x"
    tmp_path.mkdir()
    for name, content in (("a.tif", b"a"), ("c.tif", b"c"), ("copy.tif", b"c")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "counts.csv").write_text(text)
    with pytest.raises(ReadError, match=words):
        read_counts(tmp_path / "counts.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_is_read(tmp_path, delimiter):
    names = ("a b.tif", "c.tif", "d.tif")
    for name in names:
        (tmp_path / name).write_text(name)
    rows = ["Image,Count,who", *(f"{name},12,me" for name in names)]
    (tmp_path / "counts.csv").write_text("\n".join(rows).replace(",", delimiter))
    assert read_counts(tmp_path / "counts.csv") == tuple(
        CountedImage(tmp_path / name, 12.0) for name in names
    )
