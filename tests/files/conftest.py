"""A training folder of three small images."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture


def _write_pair(folder, name, image, labels, suffix="tif"):
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    if suffix == "png":
        Picture.fromarray(image).save(folder / "images" / f"{name}.png")
    else:
        tifffile.imwrite(folder / "images" / f"{name}.tif", image)
    tifffile.imwrite(folder / "masks" / f"{name}.tif", labels)


def _write_meta(folder, meta):
    (folder / "meta.json").write_text(meta if isinstance(meta, str) else json.dumps(meta))


@pytest.fixture
def write_pair():
    return _write_pair


@pytest.fixture
def write_meta():
    return _write_meta


@pytest.fixture
def listing():
    """What meta.json of the folder says."""
    return {
        "split": {"train": ["a", "b.c"], "val": ["d"]},
        "items": {"a": {"group": "fluo"}, "d": {"group": "phase", "source": "ours"}},
    }


@pytest.fixture
def folder(tmp_path, rng, listing):
    """Three small images with two cells each, one of them in colour."""
    folder = tmp_path / "cells"
    labels = np.zeros((20, 24), np.uint16)
    labels[2:8, 2:8], labels[10:18, 10:18] = 300, 7
    _write_pair(folder, "a", rng.integers(0, 255, (20, 24)).astype(np.uint8), labels)
    _write_pair(folder, "b.c", rng.integers(0, 60_000, (20, 24)).astype(np.uint16), labels)
    _write_pair(folder, "d", rng.integers(0, 255, (20, 24, 3)).astype(np.uint8), labels, "png")
    _write_meta(folder, listing)
    return folder
