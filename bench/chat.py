"""`ringzero chat`: a conversation about a picture, in the terminal or through a pipe."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console
from rich.text import Text

from bench.predict import Model

if TYPE_CHECKING:
    from bench.viewer import Seen, Viewer

HELP = "a line is a question; /image PATH shows another picture, /ask asks the trained question, /forget begins anew, /quit ends"


@dataclass(frozen=True, kw_only=True)
class Chat:
    """Ask about a picture, line by line; Ctrl-D ends. A later question knows the earlier ones and their answers."""

    image: tyro.conf.Positional[Path]
    """Picture of any size and mode."""
    normal: tuple[Path, ...] = ()
    """Normal pictures of the same thing: the map is then the distance from them (few-shot), not the decoder's."""
    class_name: str = "object"
    """What the pictures show, such as brick: for the text features and the trained question."""
    net: Model = field(default_factory=Model)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 at the end of the input."""
    asked = tyro.cli(Chat, args=argv, prog="ringzero chat", config=(tyro.conf.OmitArgPrefixes,))
    from bench.viewer import Viewer

    console = Console(highlight=False)
    viewer = Viewer(asked.net, asked.class_name)
    viewer.remember([viewer.photo(path).pixels for path in asked.normal])
    talk = Talk(viewer, console)
    talk.show(asked.image)
    console.print(Text(HELP, "dim"))
    for line in lines(console):
        if line == "/quit":
            break
        talk.hear(line)
    return 0


class Talk:
    """One picture at a time, and what was said about it."""

    def __init__(self, viewer: "Viewer", console: Console) -> None:
        self._viewer, self._console = viewer, console
        self._turns: list[tuple[str, str]] = []
        self._seen: Seen | None = None

    def show(self, path: Path) -> None:
        """Look at a picture; what was said about the last one is forgotten. Raises DataError for one that can't be read."""
        photo = self._viewer.photo(path)
        self._seen, self._turns = self._viewer.see(photo.pixels), []
        converted = f" ({photo.converted})" if photo.converted else ""
        largest = self._seen.anomaly_map.max()
        self._say(f"{path}{converted}: {self._viewer.source}, largest score {largest:.3g}", "dim")

    def hear(self, line: str) -> None:
        """A command or a question. A mistake is told, and the conversation goes on."""
        from model.data import DataError

        command, _, rest = line.partition(" ")
        try:
            if command == "/image" and rest.strip():
                self.show(Path(rest.strip()))
            elif command == "/ask":
                self._ask(self._viewer.question)
            elif command == "/forget":
                self._turns = []
                self._say("forgotten", "dim")
            elif command.startswith("/"):
                self._say(HELP, "dim")
            else:
                self._ask(line)
        except (DataError, ValueError) as error:
            self._say(str(error), "red")

    def _ask(self, question: str) -> None:
        assert self._seen is not None
        answer = self._viewer.ask(self._seen, question, self._turns)
        self._turns.append((question, answer.text))
        self._say(answer.shown, "bold")

    def _say(self, text: str, style: str) -> None:
        self._console.print(Text(text, style), soft_wrap=True)


def lines(console: Console) -> Iterator[str]:
    """What is typed or piped in, without empty lines, until it ends."""
    while True:
        try:
            line = console.input("> ") if sys.stdin.isatty() else next(sys.stdin)
        except (EOFError, StopIteration):
            return
        if line.strip():
            yield line.strip()
