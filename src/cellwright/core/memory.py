"""How much memory there is, and what is given back."""

import ctypes
import math
import sys

from cellwright.core.tasks import Progress, T, Task, map_progress


def free_memory() -> float:
    """Return the bytes of memory that programs may still take; infinite where nobody tells."""
    try:
        import psutil
    except ImportError:
        return math.inf
    return float(psutil.virtual_memory().available)


def giving_back(task: Task[T]) -> Task[T]:
    """Return the same task, which gives memory back at each step that has a note, and at its end.

    Notes tell that cells are found now: what a network took is not kept beside what that takes.
    """

    def tell(progress: Progress) -> Progress:
        if progress.note:
            give_back_memory()
        return progress

    result = yield from map_progress(task, tell)
    give_back_memory()
    return result


def give_back_memory() -> None:
    """Give the system back the pieces of memory that nothing is kept in; glibc keeps them between others.

    They grow with every block of a large image: by 200 MB in sixty blocks. Where another library allocates,
    nothing is done.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
