"""A conversation with a trained model: one question, the lines of a pipe, or a user at a terminal.

Answers go to stdout, everything else to stderr.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace

from accelerate.utils import set_seed
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mosld.adapters.config import MosldConfig
from mosld.common.errors import UserError, nearest
from mosld.common.process import silence_libraries
from mosld.config.schema import Config
from mosld.evaluation.expert_use import token_experts
from mosld.recipes.generate import PROMPTS_WITH_OPTIONS, Answer, Answerer
from mosld.recipes.load import load_trained
from mosld.runs.console import SafeConsole
from mosld.runs.saved import SavedRun
from mosld.runs.tables import LEGEND, WHOLE, experts_summary, experts_tables

COMMANDS = ("/experts", "/system", "/reset", "/new", "/help", "/exit")
HELP = """/experts           the experts that the last answer took most, in every layer
/experts 12        those that each token took in layer 12
/experts v_proj    in the modules v_proj; both may be named
/system TEXT       a system prompt from the next question on; without a text: none
/reset             a new conversation: what was said before is forgotten (also /new)
/exit, Ctrl-D      end; Ctrl-C stops an answer"""


def answer_questions(
    config: Config,
    run: SavedRun,
    *,
    prompt: str | None,
    form: str,
    experts: bool,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    system: str,
) -> bool:
    """Load what the run trained and answer what is asked; returns whether every question could be answered.

    Args:
        prompt: one question; None: a terminal or a pipe.
        experts: whether the experts are shown after each answer.
        form, max_new_tokens, temperature, system: as in `Answerer`.
    """
    silence_libraries()
    interactive = prompt is None and sys.stdin.isatty()
    model, tokenizer = load_trained(config.model, run)
    # The prompt format is filled in when the config is checked.
    assert config.prompt is not None
    answerer = Answerer(model, tokenizer, config.prompt, form, max_new_tokens, temperature, system)
    set_seed(seed)
    session = Session(answerer, config.method.name, experts, interactive)
    if prompt is not None:
        return session.answer_all([prompt], commands=False)
    if interactive:
        session.greet(config.model.name)
        return session.answer_all(_typed_lines(session.console))
    return session.answer_all(_piped_lines())


class Session:
    """A conversation: questions and commands.

    Attributes:
        turns: the conversation so far, where the questions at a terminal form one.
    """

    def __init__(self, answerer: Answerer, method: str, show_experts: bool, interactive: bool) -> None:
        self.answerer = answerer
        self.method = method
        self.experts_after_each = show_experts
        self.interactive = interactive
        self.console = SafeConsole(stderr=True, soft_wrap=True)
        self.out = SafeConsole(file=sys.stdout)
        self.last: Answer | None = None
        self.turns: list[tuple[str, str]] = []

    def greet(self, model: str) -> None:
        """Print what a user should know before the first question."""
        memory = "it reads the turns before" if self.answerer.converses else "each question stands alone"
        self.say(f"{self.method} on {model}; {memory}; /help shows the commands")
        if self.answerer.form == "question" and self.answerer.style in PROMPTS_WITH_OPTIONS:
            self.say("it was trained to choose: give options as in  Which is hot? | the sun | an ice cube")

    def answer_all(self, lines: Iterable[str], commands: bool = True) -> bool:
        """Answer line after line; empty ones are skipped. Returns whether every line could be answered."""
        answered = True
        for line in lines:
            if line.strip() == "/exit" and commands:
                break
            try:
                self._take(line, commands)
            except UserError as error:
                self.say("\n".join(f"error: {message}" for message in error.messages))
                answered = self.interactive
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                self.say("stopped")
        return answered

    def _take(self, line: str, commands: bool) -> None:
        if not line.strip():
            return
        if line.startswith("/") and commands:
            self._run_command(line)
            return
        self.last = self.answerer.answer(line, controls=not self.out.is_terminal, history=self.turns)
        if self.last.forgotten:
            self.say("the earliest turns do not fit the model and were left out")
        if self.interactive and self.answerer.converses and self.last.text:
            self.turns.append((line.strip(), self.last.text))
        if self.last.stopped:
            raise KeyboardInterrupt
        if self.experts_after_each:
            self.show_experts()

    def _run_command(self, line: str) -> None:
        name, *words = line.split()
        if name == "/help":
            self.say(HELP)
        elif name == "/experts":
            self.show_experts(*words)
        elif name == "/system":
            self.answerer = replace(self.answerer, system=line.strip().removeprefix(name).strip())
            self.say(f"system prompt: {self.answerer.system or 'none'}")
        elif name in ("/reset", "/new"):
            self.turns.clear()
            self.say("a new conversation")
        else:
            raise UserError(f"{name}: unknown command; {nearest(name, COMMANDS)} A question may not begin with /.")

    def show_experts(self, *wanted: str) -> None:
        """Print the experts of the last answer, or why there are none; `wanted` names layer and module.

        Without a name it is a summary of at most a screen.

        Raises:
            UserError: there is nothing to show, and why.
        """
        model = self.answerer.model
        if getattr(model, "context", None) is None:
            self.say(f"{self.method} has no router: every token takes the same weights")
            return
        if self.last is None:
            raise UserError("/experts: nothing was asked yet.")
        config = model.active_peft_config
        assert isinstance(config, MosldConfig)
        names = config.domains
        if not self.last.tokens and not names:
            self.say("the last answer is empty: no token took an expert")
            return
        experts = token_experts(model, self.last.prompt, self.last.tokens)
        if not wanted and not names:
            table, legend = experts_summary(experts, self.out.width, self.out.height if self.out.is_terminal else None)
            self.out.print(Group(table, Text(f"{self.method}; {legend}", "dim")))
            return
        texts = self.answerer.tokenizer.batch_decode([[token] for token in self.last.tokens])
        tables = experts_tables(experts, texts, names, wanted, self.out.width)
        self._print_tables(tables, f"{self.method}; {WHOLE if names else LEGEND}")

    def _print_tables(self, tables: list[Table], legend: str) -> None:
        """Print through a pager where the tables are longer than the user's screen."""
        lines = sum(table.row_count + 3 for table in tables)
        paged = self.interactive and self.out.is_terminal and lines > self.out.height
        with self.out.pager() if paged else nullcontext():
            self.out.print(Group(*(part for table in tables for part in (table, "")), Text(legend, "dim")))

    def say(self, text: str) -> None:
        self.console.print(text)


def _typed_lines(console: SafeConsole) -> Iterator[str]:
    """What the user types, with editing and history where the platform has them."""
    with suppress(ImportError):
        # Its import changes what `input` does.
        import readline  # noqa: F401
    mark = "> "
    while True:
        try:
            if sys.stdout.isatty():
                yield input(mark)
            else:
                # The answers go into a file or pipe; the mark must not.
                console.print(mark, end="")
                yield input()
        except KeyboardInterrupt:
            console.print("\n(Ctrl-D or /exit ends)")
        except EOFError:
            console.print()
            return


def _piped_lines() -> Iterator[str]:
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    for line in sys.stdin:
        yield line.rstrip("\n")
