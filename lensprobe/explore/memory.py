"""Earlier answers, kept up to a number of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

__all__ = ["Memory"]


class Memory:
    """What was made under each key; beyond `size` the one that was not asked for longest goes.

    >>> memory = Memory(1)
    >>> memory.of("a", lambda: 1), memory.of("a", lambda: 2), memory.of("b", lambda: 3)
    (1, 1, 3)
    >>> memory.of("a", lambda: 4)
    4
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What is kept under a key, made now where there is nothing yet.

        What fails to be made is not kept.
        """
        if key not in self._kept:
            self._kept[key] = make()
            if len(self._kept) > self.size:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
