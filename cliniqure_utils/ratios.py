"""Ratios whose denominator may be 0, as in the precision of a model that says nothing."""

import numpy as np


def ratio(part, whole, empty: float = np.nan) -> np.ndarray:
    """`part / whole`, elementwise; `empty` where `whole` is 0.

    Args:
        part, whole: Numbers or arrays that broadcast; `whole` is 0 or more.
        empty: The value without a denominator: NaN leaves it out of later means, 0 counts it as a failure.

    Returns:
        float array of the common shape; of shape () for two numbers.
    """
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(part.shape, empty, float), where=whole > 0)
