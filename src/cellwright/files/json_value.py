"""A value in a file, which knows where it stands: what is wrong with it names file and field."""

import codecs
import csv
import io
import json
import math
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.errors import ReadError, expecting

if TYPE_CHECKING:
    from xml.etree import ElementTree

MOST_BYTES = 1 << 30  # of a text file
ENCODINGS = rb"iso-8859-\d+|windows-\d+|cp\d+|gb\w+|big5|shift_jis|euc-\w+|koi8-\w|us-ascii"
XML_ENCODING = re.compile(rb"<\?xml[^>]*encoding=[\"'](" + ENCODINGS + rb")[\"']", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class JsonValue:
    """One value of a file; every way to look at it raises ReadError when the value is of another kind."""

    value: Any
    path: Path
    where: str = ""

    def refuse(self, wanted: str) -> ReadError:
        """Return the error that says what this value should have been."""
        shown = repr(self.value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        field = self.where or "The content"
        return ReadError(f"{field} of {self.path} must be {wanted}; got {shown}. Export the file again.")

    def find(self, key: str) -> "JsonValue | None":
        """Return the value under a key, None where there is none or it is null."""
        if not isinstance(self.value, dict):
            raise self.refuse("an object with named fields")
        value = self.value.get(key)
        return None if value is None else JsonValue(value, self.path, f"{self.where}.{key}".lstrip("."))

    def at(self, key: str) -> "JsonValue":
        """Return the value under a key that must be there."""
        found = self.find(key)
        if found is None:
            missing = JsonValue(None, self.path, f"{self.where}.{key}".lstrip("."))
            raise missing.refuse("there")
        return found

    def fields(self) -> "dict[str, JsonValue]":
        """Return the values of an object by their keys, without those that are null."""
        if not isinstance(self.value, dict):
            raise self.refuse("an object with named fields")
        return {key: self.at(key) for key, value in self.value.items() if value is not None}

    def rows(self) -> "list[JsonValue]":
        """Return the values of a list."""
        if not isinstance(self.value, list | tuple):
            raise self.refuse("a list")
        return [JsonValue(value, self.path, f"{self.where}[{i}]") for i, value in enumerate(self.value)]

    def text(self) -> str:
        """Return a text."""
        if not isinstance(self.value, str):
            raise self.refuse("a text")
        return self.value

    def one_of(self, choices: Collection[str]) -> Any:
        """Return a text that is one of several."""
        if self.value not in choices:
            raise self.refuse(f"one of {', '.join(choices)}")
        return self.value

    def word(self) -> str:
        """Return a text, or a whole number as one."""
        if isinstance(self.value, int) and not isinstance(self.value, bool):
            return str(self.value)
        return self.text()

    def number(self, low: float = -math.inf, high: float = math.inf) -> float:
        """Return a finite number between two others."""
        value = self.value
        is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not is_number or not abs(value) <= sys.float_info.max or not low <= value <= high:
            raise self.refuse("a number" if math.isinf(high) else f"a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, low: int = 0, high: int = 2**31 - 1) -> int:
        """Return a whole number between two others."""
        value = self.number(low, high)
        if value != int(value):
            raise self.refuse("a whole number")
        return int(value)

    def split(self, separator: str | None = None) -> NDArray[np.float64]:
        """Return the numbers of a text with a separator, blanks by default, between them."""
        try:
            return np.array([float(word) for word in str(self.value).split(separator)])
        except ValueError as error:
            raise self.refuse("numbers") from error

    def pairs(self) -> NDArray[np.float64]:
        """Return a list of (x, y) as places (N, 2) in the order y, x; heights behind them are passed over."""
        table = self._table()
        if table.ndim != 2 or table.shape[1] not in (2, 3):
            raise self.refuse("a list of 2 numbers each")
        return table[:, 1::-1]

    def numbers(self, n: int) -> NDArray[np.float64]:
        """Return a list of exactly ``n`` numbers."""
        table = self._table()
        if table.shape != (n,):
            raise self.refuse(f"a list of {n} numbers")
        return table

    def sizes(self, n: int) -> tuple[float, ...]:
        """Return micrometres per pixel of ``n`` axes, 0 for a step between slices that is unknown."""
        sizes = self.numbers(n)
        if not (np.isfinite(sizes).all() and (sizes >= 0).all() and (sizes[-2:] > 0).all()):
            raise self.refuse("micrometres per pixel above 0")
        return tuple(sizes.tolist())

    def sizes_at(self, key: str, n: int) -> tuple[float, ...]:
        """Return the micrometres per pixel of ``n`` axes under a key, none where it is missing."""
        found = self.find(key)
        if found is None:
            return ()
        return found.sizes(n)

    def rows_at(self, key: str) -> "list[JsonValue]":
        """Return the values of the list under a key, none where it is missing."""
        found = self.find(key)
        if found is None:
            return []
        return found.rows()

    def texts_at(self, key: str) -> tuple[str, ...]:
        """Return the texts of the list under a key, none where it is missing."""
        return tuple(row.text() for row in self.rows_at(key))

    def stem(self) -> str:
        """Return the name, without its ending, of a file in whatever folder."""
        name = JsonValue(self.text().replace("\\", "/").rpartition("/")[2], self.path, self.where)
        return name.inside().stem

    def inside(self) -> PurePosixPath:
        """Return a path that does not leave the folder."""
        plain = PurePosixPath(self.text().replace("\\", "/"))
        leaves = plain.is_absolute() or ".." in plain.parts or ":" in str(plain)
        if leaves or not plain.name or "\0" in str(plain):
            raise self.refuse("the name of a file inside the folder")
        return plain

    def _table(self) -> NDArray[np.float64]:
        """Return nested lists of numbers as array, one without axes where there is anything else."""
        try:
            table = np.array(self.value)
        except (TypeError, ValueError, OverflowError):
            return np.zeros(())
        if table.dtype.kind not in "iuf":
            return np.zeros(())
        return table.astype(np.float64)


NO_JSON = (ValueError, RecursionError)  # what json raises where a text is none, or is nested without end


def read_text(path: Path) -> str:
    """Return the text of a file; ReadError where it is too large to be one, too."""
    what = f"a readable text file at {path}"
    with expecting(ReadError, what, "Check the path.", OSError, LookupError, UnicodeError):
        if path.stat().st_size > MOST_BYTES:
            raise ReadError(f"{path} must be smaller than {MOST_BYTES >> 20} MiB. Split it.")
        content = path.read_bytes()
        return content.decode(_encoding_of(content))


def _encoding_of(content: bytes) -> str:
    """Return what a text is written in, as its first bytes or its XML declaration say; else UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    declared = XML_ENCODING.match(content)
    return declared[1].decode("ascii") if declared else "utf-8-sig"


def read_lines(path: Path) -> list[JsonValue]:
    """Return the lines of a text file that are not empty."""
    lines = enumerate(read_text(path).splitlines(), 1)
    return [JsonValue(line, path, f"Line {number}") for number, line in lines if line.strip()]


def read_table(path: Path) -> tuple[list[str], list[JsonValue]]:
    """Return the names of the columns of a CSV file, in small letters, and its rows by them.

    What parts them is what is most in the first line: spreadsheets write semicolons in many countries.
    """
    text = read_text(path)
    first = text.partition("\n")[0]
    with expecting(ReadError, f"a whole CSV file at {path}", "Export it again.", csv.Error):
        reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=first.count), strict=True)
        reader.fieldnames = header = [str(name).strip().lower() for name in reader.fieldnames or ()]
        return header, [JsonValue(row, path, f"Line {number}") for number, row in enumerate(reader, 2)]


def read_xml(path: Path) -> "ElementTree.Element":
    """Return the root of an XML file."""
    from xml.etree import ElementTree

    text = read_text(path)
    if "<!ENTITY" in text:
        raise ReadError(f"{path} defines entities, which no such file needs. Export it again.")
    what = f"a whole XML file at {path}"
    with expecting(ReadError, what, "Copy it again.", ElementTree.ParseError, ValueError):
        return ElementTree.fromstring(text)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of ours; empty where there is none, or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, *NO_JSON):
        return {}
    return value if isinstance(value, dict) else {}


def read_json(path: Path) -> JsonValue:
    """Return the content of a JSON file."""
    advice = "It is damaged or cut short; copy it again."
    with expecting(ReadError, f"a whole JSON file at {path}", advice, *NO_JSON):
        return JsonValue(json.loads(read_text(path)), path)
