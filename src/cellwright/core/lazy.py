"""Arrays whose pixels are read, or worked out, where they are indexed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class LazyArray:
    """Base of such arrays, which numpy takes, too."""

    def __getitem__(self, index: Any) -> NDArray[Any]:
        raise NotImplementedError

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype)


def index_of_each_axis(index: Any, ndim: int) -> list[Any]:
    """Return an index of an array as one for each of its axes.

    Examples
    --------
    >>> index_of_each_axis((0, ..., slice(2)), 4)
    [0, slice(None, None, None), slice(None, None, None), slice(None, 2, None)]
    """
    parts = list(index) if isinstance(index, tuple | list) else [index]
    at = next((place for place, part in enumerate(parts) if part is ...), None)
    if at is None:
        at = len(parts)
        parts.append(...)
    parts[at : at + 1] = [slice(None)] * (ndim + 1 - len(parts))
    if len(parts) != ndim:
        raise IndexError(f"Expected at most {ndim} indices; got {index}.")
    return parts
