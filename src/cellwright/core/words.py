"""Numbers and names as they stand in sentences for people."""

from collections.abc import Sequence


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
