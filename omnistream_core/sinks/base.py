"""What every writer can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from omnistream_core.errors import SinkError
from omnistream_core.types import Frame, Prediction


class Sink(ABC):
    """Takes frames with their predictions in order and leaves a file. Use it in a ``with`` block, or close it.

    The folder of ``path`` is made; a file of that name is replaced. What was written before an error stays a valid file
    once the sink is closed.

    Raises:
        SinkError: a path that cannot be written, at once; a write that fails later, from ``write`` or ``close``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._is_closed = False
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("wb").close()

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Add one frame.

        Raises:
            SinkError: the sink is closed, or the file cannot be written.
        """
        if self._is_closed:
            raise SinkError(f"{self.path}: write after close")
        with writing(self.path):
            self._write(frame, prediction)

    def close(self) -> None:
        """Finish the file. May be called more than once."""
        if not self._is_closed:
            self._is_closed = True
            with writing(self.path):
                self._close()

    @abstractmethod
    def _write(self, frame: Frame, prediction: Prediction) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says of a file into a SinkError of one line."""
    try:
        yield
    except OSError as error:
        raise SinkError(f"{path}: cannot be written: {error.strerror or error}") from None
