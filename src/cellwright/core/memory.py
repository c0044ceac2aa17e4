"""How much memory there is, and what is given back."""

import ctypes
import math
import sys


def free_memory() -> float:
    """Return the bytes of memory that programs may still take; infinite where nobody tells."""
    try:
        import psutil
    except ImportError:
        return math.inf
    return float(psutil.virtual_memory().available)


def give_back_memory() -> None:
    """Give the system back the pieces of memory that nothing is kept in; glibc keeps them between others.

    They grow with every block of a large image: by 200 MB in sixty blocks. Where another library allocates,
    nothing is done.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
