"""How much memory there is."""

import math


def free_memory() -> float:
    """Return the bytes of memory that programs may still take; infinite where nobody tells."""
    try:
        import psutil
    except ImportError:
        return math.inf
    return float(psutil.virtual_memory().available)
