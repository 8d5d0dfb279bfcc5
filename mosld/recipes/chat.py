"""The stages of `mosld.chat`: load, then answer one question, the lines of a pipe, or a person."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any

from accelerate.utils import set_seed
from rich.console import Console as RichConsole
from rich.console import Group
from rich.text import Text

from mosld.cli import FINISHED, USER_ERROR
from mosld.common.errors import UserError, nearest
from mosld.common.process import silence_libraries
from mosld.config.schema import Config
from mosld.evaluation.expert_use import token_experts
from mosld.recipes.generate import LISTING, Answer, Answerer
from mosld.recipes.load import load_trained
from mosld.runs.saved import SavedRun
from mosld.runs.tables import LEGEND, WHOLE, experts_tables

COMMANDS = ("/experts", "/help", "/exit")
HELP = """/experts           the experts that each token of the last answer took, in every layer
/experts 12        in layer 12
/experts v_proj    in the modules v_proj; both may be named
/exit, Ctrl-D      end; Ctrl-C stops an answer"""


def talk(config: Config, run: SavedRun, flags: argparse.Namespace) -> int:
    """Load what the run trained and answer what is asked; returns the exit code."""
    silence_libraries()
    person = flags.prompt is None and sys.stdin.isatty()
    console = RichConsole(stderr=True, highlight=False, soft_wrap=True)
    model, tokenizer = load_trained(config, run)
    assert config.prompt is not None  # filled in when the config was checked
    answerer = Answerer(model, tokenizer, config.prompt, flags.format, flags.max_new_tokens, flags.temperature)
    set_seed(flags.seed)
    session = Session(answerer, config, console, flags.experts, person)
    if flags.prompt is not None:
        return session.take([flags.prompt], commands=False)
    if person:
        session.greet()
    return session.take(_typed(console) if person else _piped())


class Session:
    """A conversation: questions and commands.

    Attributes:
        last: the last answer.
    """

    def __init__(self, answerer: Answerer, config: Config, console: Any, experts: bool, person: bool) -> None:
        """Keep who answers; `experts`: after each answer; `person`: someone types and reads."""
        self.answerer, self.config, self.console = answerer, config, console
        self.experts, self.person = experts, person
        self.out = RichConsole(file=sys.stdout, highlight=False)
        self.last: Answer | None = None

    def greet(self) -> None:
        """What a person should know before the first question."""
        config, answerer = self.config, self.answerer
        self.say(f"{config.method.name} on {config.model.name}; each question stands alone; /help shows the commands")
        if answerer.form == "question" and answerer.style in LISTING:
            self.say("it was trained to choose: give options as in  Which is hot? | the sun | an ice cube")

    def take(self, lines: Any, commands: bool = True) -> int:
        """Answer line after line; empty ones are skipped. Returns the exit code."""
        code = FINISHED
        for line in lines:
            if line.strip() == "/exit" and commands:
                break
            try:
                self._take_one(line, commands)
            except UserError as error:
                self.say("\n".join(f"error: {message}" for message in error.messages))
                code = FINISHED if self.person else USER_ERROR
            except KeyboardInterrupt:
                if not self.person:
                    raise
                self.say("stopped")
        return code

    def _take_one(self, line: str, commands: bool) -> None:
        if not line.strip():
            return
        if line.startswith("/") and commands:
            self._command(*line.split())
            return
        self.last = self.answerer.answer(line, controls=not self.out.is_terminal)
        if self.last.stopped:
            raise KeyboardInterrupt
        if self.experts:
            self.show_experts()

    def _command(self, name: str, *words: str) -> None:
        if name == "/help":
            self.say(HELP)
        elif name == "/experts":
            self.show_experts(*words)
        else:
            raise UserError(f"{name}: unknown command; {nearest(name, COMMANDS)} A question may not begin with /.")

    def show_experts(self, *wanted: str) -> None:
        """The experts of the last answer, or why there are none; `wanted` names layer and module.

        Raises:
            UserError: there is nothing to show, and why.
        """
        answerer, method = self.answerer, self.config.method
        if getattr(answerer.model, "context", None) is None:
            self.say(f"{method.name} has no router: every token takes the same weights")
            return
        if self.last is None:
            raise UserError("/experts: nothing was asked yet.")
        names = answerer.model.active_peft_config.domains
        if not self.last.tokens and not names:
            self.say("the last answer is empty: no token took an expert")
            return
        experts = token_experts(answerer.model, self.last.prompt, self.last.tokens)
        texts = [answerer.tokenizer.decode([token]) for token in self.last.tokens]
        self._show(
            experts_tables(experts, texts, names, wanted, self.out.width),
            f"{method.name}; {WHOLE if names else LEGEND}",
        )

    def _show(self, tables: list[Any], legend: str) -> None:
        """Through a pager where it is longer than a person's screen."""
        lines = sum(table.row_count + 3 for table in tables)
        long = self.person and self.out.is_terminal and lines > self.out.height
        with self.out.pager() if long else nullcontext():
            self.out.print(Group(*(part for table in tables for part in (table, "")), Text(legend, "dim")))

    def say(self, text: str) -> None:
        """One message beside the answers."""
        self.console.print(text, markup=False)


def _typed(console: Any) -> Iterator[str]:
    """What a person types, with editing and history where the platform has them."""
    with suppress(ImportError):
        import readline  # noqa: F401  (its import changes what `input` does)
    mark = "> "
    while True:
        try:
            if sys.stdout.isatty():
                yield input(mark)
            else:  # the answers go elsewhere: the mark must not go with them
                console.print(mark, end="")
                yield input()
        except KeyboardInterrupt:
            console.print("\n(Ctrl-D or /exit ends)")
        except EOFError:
            console.print()
            return


def _piped() -> Iterator[str]:
    """The lines of a pipe or file."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    for line in sys.stdin:
        yield line.rstrip("\n")
