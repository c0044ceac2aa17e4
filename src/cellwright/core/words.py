"""Numbers and names as they stand in sentences for people, and commands as they are typed."""

import os
import re
import shlex
from collections.abc import Sequence

PLAIN = re.compile(r"[\w.:/\\=+-]+")  # words that PowerShell and cmd take as they are; commas part them


def n_of(n: float, noun: str, form: str = ",") -> str:
    """Return a number, in this format, with its noun.

    Examples
    --------
    >>> n_of(1, "image"), n_of(2041, "image"), n_of(3, "box"), n_of(1203.0, "cell", ".0f")
    ('1 image', '2,041 images', '3 boxes', '1203 cells')
    """
    ending = ""
    if n != 1:
        ending = "es" if noun.endswith(("s", "x")) else "s"
    return f"{n:{form}} {noun}{ending}"


def few(names: Sequence[str], most: int = 5) -> str:
    """Return names for a sentence, of many the first ones.

    Examples
    --------
    >>> few(["a", "b", "c", "d", "e"], 2)
    'a, b and 3 more'
    """
    listed = ", ".join(names[:most])
    if len(names) > most:
        listed += f" and {len(names) - most} more"
    return listed


def shell_line(words: Sequence[str], *, on_windows: bool = os.name == "nt") -> str:
    """Return a command as it is typed: quoted for PowerShell and cmd on Windows, else for other shells."""
    if not on_windows:
        return shlex.join(words)
    return " ".join(word if PLAIN.fullmatch(word) else _in_quotes(word) for word in words)


def _in_quotes(word: str) -> str:
    inner = word.replace('"', '""')
    return f'"{inner}"'
