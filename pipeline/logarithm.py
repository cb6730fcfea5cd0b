"""log1p for compiled loops: without a call or a branch, so that a loop over many numbers takes several at a time."""

import math

import numpy as np

from pipeline.compiled import inlined

LN2 = math.log(2.0)
EXPONENT = 52  # bits before it
ROOT_HALF = int(np.float64(0.5**0.5).view(np.int64))  # mantissas begin here: those of numbers near 1 lie around 1


@inlined
def log1p(x: float) -> float:
    """Return log(1 + x) for x >= 0, but for 1e-16 and 5e-14 of its value.

    By ln m = 2 artanh((m - 1) / (m + 1)) for m between the roots of 1/2 and 2, where the series leaves out less.
    """
    bits = np.float64(1.0 + x).view(np.int64)
    exponent = (bits - ROOT_HALF) >> EXPONENT
    m = np.int64(bits - (exponent << EXPONENT)).view(np.float64)
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    series = 1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13 + q * (1 / 15))))))
    return float(exponent * LN2 + 2.0 * s * (1.0 + q * series))
