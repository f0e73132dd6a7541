"""How transfers tell how far they are."""

from __future__ import annotations

from typing import Protocol


class TransferProgress(Protocol):
    """Hears of a transfer of several files; all calls come from the event loop's thread."""

    def begin(self, files: int, size_bytes: int) -> None:
        """The transfer begins: so many files of so many bytes together."""
        ...

    def begin_file(self, path: str, size_bytes: int) -> None:
        """A file begins."""
        ...

    def advance(self, path: str, size_bytes: int) -> None:
        """Bytes were moved; negative when some have to be moved again."""
        ...

    def end_file(self, path: str) -> None:
        """A file is in place."""
        ...


class Silence:
    """Tells nobody."""

    def begin(self, files: int, size_bytes: int) -> None:
        pass

    def begin_file(self, path: str, size_bytes: int) -> None:
        pass

    def advance(self, path: str, size_bytes: int) -> None:
        pass

    def end_file(self, path: str) -> None:
        pass
