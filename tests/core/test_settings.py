from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest

from cellwright.core.errors import SettingsError
from cellwright.core.settings import about, check_bounds


@dataclass(frozen=True)
class Settings:
    share: Annotated[float, about("Of the whole.", 0.0, 1.0)] = 0.5
    steps: Annotated[int, {"min": 1}] = 1
    channel: Annotated[int | None, {"min": 0}] = None
    name: Annotated[str, about("Free.")] = ""

    def __post_init__(self):
        check_bounds(self)


@pytest.mark.parametrize(
    "values", [{}, {"share": 0}, {"share": np.float32(1)}, {"steps": 10**9}, {"channel": 0}]
)
def test_values_within_their_bounds_are_taken(values):
    assert Settings(**values) is not None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"share": -0.01},
            "share must lie between 0.0 and 1.0; got -0.01. Choose a value in that range. Of the whole.$",
        ),
        ({"share": float("nan")}, "share must lie between"),
        ({"share": np.float32(1.5)}, "share must lie between"),
        ({"steps": 0}, "steps must be at least 1; got 0. Choose a value in that range.$"),
        ({"channel": -1}, "channel must be at least 0; got -1"),
        ({"steps": 2.5}, "steps must be a whole number; got 2.5"),
        ({"steps": True}, "steps must be a whole number; got True"),
        ({"share": None}, "share must be a number; got None. Of the whole"),
        ({"channel": "1"}, "channel must be a whole number; got the text '1'"),
    ],
)
def test_values_beyond_are_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        Settings(**values)
