"""What can go wrong, named; each error is also the built-in it resembles.

A message says what was wanted, what was got and what to do. None derives from RuntimeError, because
napari's workers swallow that one.

Whatever reads a file may raise ReadError where it is missing, damaged or does not fit, whatever writes one
WriteError; docstrings name the errors beyond these.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class CellwrightError(Exception):
    """Base of all errors this package raises on purpose."""


class AxesError(CellwrightError, ValueError):
    """The axes of an image do not fit what was asked."""


class ImageError(CellwrightError, ValueError):
    """The pixels of an image cannot be used (empty, no finite value, unknown type)."""


class SettingsError(CellwrightError, ValueError):
    """A setting is out of its range or contradicts another."""


class DeviceError(CellwrightError, ValueError):
    """The device asked for is unknown or not in this machine."""


class ReadError(CellwrightError, OSError):
    """A file or folder is missing, damaged or of another kind."""


class WriteError(CellwrightError, OSError):
    """A file or folder cannot be written."""


class CheckpointError(CellwrightError, ValueError):
    """A model folder is unknown, incomplete, damaged or of another shape."""


class OutOfMemoryError(CellwrightError, MemoryError):
    """An image, or even the smallest tile on the last device, does not fit into memory."""


class WrongLayerError(CellwrightError, TypeError):
    """The active napari layer is not of the type the action needs."""


class JobError(CellwrightError):
    """A long job failed for a reason outside this package (a torch error, say)."""


class AnnotationError(CellwrightError, ValueError):
    """An annotation lacks what a model family learns from (masks, say)."""


class QueryError(CellwrightError, ValueError):
    """A point that is asked about lies outside the image."""


@contextmanager
def needed(kind: type[CellwrightError], what: str, extra: str, package: str = "") -> Iterator[None]:
    """Raise an error of this kind where a package that is imported inside is not installed.

    ``what`` needs it; pip installs it by our ``extra``, and alone where ``package`` names it.
    """
    try:
        yield
    except ImportError as error:
        install = f"'napari-cellwright[{extra}]'"
        if package:
            install = f"{package} (or {install} for all of its kind)"
        raise kind(
            f"{what} needs a package that is not installed ({error}). Run: pip install {install}"
        ) from error


@contextmanager
def expecting(
    kind: type[CellwrightError], what: str, advice: str, *causes: type[Exception]
) -> Iterator[None]:
    """Turn errors of these types in the block into one of ours: what was expected, what was got, what to do.

    Those that are ours already pass as they are.
    """
    try:
        yield
    except CellwrightError:
        raise
    except causes as error:
        got = getattr(error, "strerror", None) or error
        raise kind(f"Expected {what}; got: {got}. {advice}") from error


def error_line(error: Exception) -> str:
    """Return an error as one line for people; one of ours explains itself, others need their type."""
    if isinstance(error, CellwrightError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def repeated(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once, sorted."""
    return sorted(name for name, n in Counter(names).items() if n > 1)
