import json
from dataclasses import replace

import pytest

from cellwright.core.errors import CheckpointError
from cellwright.models.families.flow import SPECS
from cellwright.models.spec import MAY_LACK, SPEC_VERSION, read_spec

SPEC = replace(
    SPECS["small"], classes=("resting", "dividing"), weights_sha256="ab" * 32, count_error=(0.5, 1, 2)
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spec.json"


def written(path, **changes):
    path.write_text(json.dumps({**SPEC.to_json(), **changes}))
    return path


def test_what_is_written_is_what_is_read(path):
    assert read_spec(written(path)) == SPEC
    assert json.loads(path.read_text())["version"] == SPEC_VERSION


def test_types_survive_the_journey(path):
    spec = read_spec(written(path, diameter_px=30, percentiles=[1, 99]))
    assert (spec.diameter_px, spec.percentiles) == (30.0, (1.0, 99.0))
    assert isinstance(spec.diameter_px, float)
    assert isinstance(spec.percentiles, tuple)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '"spec"', "{}"],
    ids=["empty", "cut", "list", "number", "null", "text", "bare"],
)
def test_what_is_no_spec_is_refused(path, text):
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"spec\.json"):
        read_spec(path)


def test_bytes_that_are_no_text_are_refused(path):
    path.write_bytes(b"\x93NUMPY\xff\xfe")
    with pytest.raises(CheckpointError, match="readable"):
        read_spec(path)


def test_a_missing_file_and_a_folder_in_its_place_are_refused(path):
    with pytest.raises(CheckpointError, match="Choose a complete model folder"):
        read_spec(path)
    path.mkdir()
    with pytest.raises(CheckpointError, match="Choose a complete model folder"):
        read_spec(path)


@pytest.mark.parametrize("version", [SPEC_VERSION + 1, 0, None, "1"])
def test_another_version_is_refused(path, version):
    with pytest.raises(CheckpointError, match=f"Expected version {SPEC_VERSION} .* Update cellwright"):
        read_spec(written(path, version=version))


@pytest.mark.parametrize("name", sorted(set(SPEC.to_json()) - {"version"} - MAY_LACK.keys()))
def test_a_missing_field_is_named(path, name):
    values = SPEC.to_json()
    del values[name]
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=rf"missing \['{name}'\]"):
        read_spec(path)


def test_a_spec_of_earlier_days_is_read(path):
    values = SPEC.to_json()
    for name in MAY_LACK:
        del values[name]
    path.write_text(json.dumps(values))
    assert read_spec(path) == replace(SPEC, count_error=(), tuned_diameter_px=0.0)


def test_an_unknown_field_is_named(path):
    with pytest.raises(CheckpointError, match=r"unknown \['colour'\]"):
        read_spec(written(path, colour="red"))


@pytest.mark.parametrize(
    "changes",
    [
        {"map_channels": ["flow"]},
        {"map_channels": {"flow": "two"}},
        {"in_channels": "three"},
        {"in_channels": None},
        {"divisor": [16]},
        {"halo": {}},
        {"diameter_px": "wide"},
        {"percentiles": [1]},
        {"percentiles": [1, 2, 3]},
        {"percentiles": 5},
        {"diameter_range_px": ["a", "b"]},
        {"classes": 4},
        {"count_error": ["far"]},
        {"tuned_diameter_px": "wide"},
        {"density_variance": "narrow"},
        {"diameter_px": -1},
        {"diameter_px": float("nan")},
        {"halo": -1},
        {"halo": float("inf")},
        {"divisor": 0},
        {"tuned_diameter_px": float("nan")},
        {"diameter_range_px": [80, 8]},
        {"percentiles": [99, 1]},
    ],
    ids=lambda changes: json.dumps(changes),
)
def test_a_field_of_the_wrong_type_is_refused(path, changes):
    with pytest.raises(CheckpointError, match="wrong type"):
        read_spec(written(path, **changes))
