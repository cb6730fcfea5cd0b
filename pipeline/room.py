"""Room in an array for more than it holds."""

from typing import Any

import numpy as np
import numpy.typing as npt


def with_room(array: npt.NDArray[Any], capacity: int) -> npt.NDArray[Any]:
    """Return a copy of `array` with zeros behind it: `capacity` rows in all.

    numpy's `resize` needs no second copy in memory, but seconds for a gigabyte that lies on huge pages.
    """
    roomy = np.zeros((capacity, *array.shape[1:]), array.dtype)
    roomy[: len(array)] = array
    return roomy
