"""One plain process: the yardstick that every engine's loss and speed is held against."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from backends.replica import Replica


class Single(Replica):
    """No engine at all."""

    name: ClassVar[str] = "single"

    def without_exchange(self) -> AbstractContextManager[None]:
        return nullcontext()

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def sent_bytes(self) -> int | None:
        return 0

    def past_sockets(self) -> str | None:
        return None
