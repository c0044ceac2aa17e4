"""Models as ONNX: another program gives the same maps, for images of any size that fits."""

import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch

from cellwright.core.errors import WriteError
from cellwright.models import zoo
from cellwright.models.checkpoint import load_checkpoint, save_checkpoint


@pytest.mark.parametrize("family", ["flow", "centroid", "query", "pseudocolor", "density"])
def test_another_program_gives_the_same_maps(make_model, tmp_path, rng, family):
    model = make_model(family)
    save_checkpoint(tmp_path / "mine", model)
    path = zoo.export_onnx(tmp_path / "mine", tmp_path / "out" / "mine.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    model = load_checkpoint(tmp_path / "mine")
    for batch, height, width in ((1, 2, 3), (2, 5, 2)):
        divisor = model.spec.divisor
        shape = (batch, model.spec.in_channels, height * divisor, width * divisor)
        image = rng.random(shape, np.float32)
        (maps,) = session.run(["maps"], {"image": image})
        with torch.inference_mode():
            expected = model.to_maps(model.network(torch.from_numpy(image))).numpy()
        np.testing.assert_allclose(maps, expected, atol=2e-3 * max(1, np.abs(expected).max()))
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["spec"]) == json.loads(json.dumps(model.spec.to_json()))


def test_the_command_writes_it(make_model, tmp_path, capsys):
    from cellwright.__main__ import main

    save_checkpoint(tmp_path / "mine", make_model("flow"))
    with pytest.raises(SystemExit) as ended:
        main(["models", "export", str(tmp_path / "mine"), str(tmp_path / "out"), "--onnx"])
    assert (ended.value.code or 0, "mine.onnx" in capsys.readouterr().out) == (0, True)
    assert onnxruntime.InferenceSession(tmp_path / "out" / "mine.onnx").get_inputs()[0].name == "image"


def test_without_the_package_it_says_what_to_install(make_model, tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "mine", make_model("flow"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(WriteError, match="pip install"):
        zoo.export_onnx(tmp_path / "mine", tmp_path / "mine.onnx")
    assert not (tmp_path / "mine.onnx").exists()
