"""Files whose parts may claim any length."""

import io
from typing import Final

__all__ = ["Bounded"]

_SMALL: Final = 1 << 16


class Bounded(io.BufferedReader):
    """A file of which no more is asked for than there is.

    A part that claims 4 GiB would get room for them before one byte is read.

    Example:
        >>> len(Bounded(io.BytesIO(b"abc")).read(1 << 40))
        3
    """

    def __init__(self, source: io.FileIO | io.BytesIO) -> None:
        self._size = source.seek(0, io.SEEK_END)
        source.seek(0)
        super().__init__(source)

    def read(self, size: int | None = -1, /) -> bytes:
        """As much as is asked for, or as is left."""
        if size is None or size < 0 or size > _SMALL:
            left = max(0, self._size - self.tell())
            size = left if size is None or size < 0 else min(size, left)
        return super().read(size)
