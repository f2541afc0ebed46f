"""A cache for values that are computed from weights, which seldom change."""

from collections.abc import Callable, Sequence

import torch


class Kept:
    """One value computed from tensors, kept until one of them is replaced, moved or written into."""

    def __init__(self):
        self.forget()

    def forget(self) -> None:
        self._mark, self._tensors, self._value = None, (), None

    def get(self, tensors: Sequence[torch.Tensor], make: Callable, *settings):
        """The value of `make()` for these tensors and settings; `make` is called only where one has changed."""
        mark = (*settings, *map(_version, tensors))
        if self._mark != mark:
            # The tensors are kept too: while they live, no other tensor gets their id.
            self._mark, self._tensors, self._value = mark, tuple(tensors), make()
        return self._value

    def __reduce__(self):
        return Kept, ()  # a copy or a pickle of a model works it out anew


def _version(tensor: torch.Tensor) -> tuple[int, int, int]:
    return id(tensor), tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
