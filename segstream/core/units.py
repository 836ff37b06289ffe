"""Amounts as whole minor units: integers add up to the same sum in any order."""

from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import numpy.typing as npt


def minor_units(values: npt.NDArray[np.float64], decimals: int) -> npt.NDArray[np.int64]:
    """Values × 10^decimals, rounded half to even on the shortest decimal text of the float64.

    int64 [n]; NaN counts as 0. Binary floating point decides all but the near ties.
    """
    scaled = np.where(np.isnan(values), 0.0, values) * 10.0**decimals
    rounded = np.rint(scaled)
    near = np.abs(np.abs(scaled - np.floor(scaled)) - 0.5) < 1e-3
    for i in np.flatnonzero(near).tolist():
        rounded[i] = exact_units(float(values[i]), decimals)
    return rounded.astype(np.int64)


def exact_units(value: float, decimals: int, rate: Decimal = Decimal(1)) -> int:
    """value × rate × 10^decimals in decimal arithmetic, rounded half to even; at most 10^15.

    More than that fills a pane in any case, and sums of a batch must fit 64 bits.
    """
    exact = (Decimal(repr(value)) * rate).scaleb(decimals)
    return min(int(exact.quantize(Decimal(1), ROUND_HALF_EVEN)), 10**15)
