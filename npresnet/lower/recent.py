"""What was made last, kept."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

T = TypeVar("T")


class Recent(OrderedDict[Hashable, T]):
    """A dict of the `limit` values that were last asked for."""

    def __init__(self, limit: int):
        super().__init__()
        self.limit = limit

    def get_or_make(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value under `key`, made if there is none; the one asked for longest ago goes."""
        if key not in self:
            self[key] = make()
            while len(self) > self.limit:                         # a fork may have come between
                self.popitem(last=False)
        self.move_to_end(key)
        return self[key]
