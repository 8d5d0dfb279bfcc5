"""Talk to a trained model on the terminal: ``python -m mosld.chat outputs/...``."""

import argparse
import sys
from collections.abc import Sequence

from mosld.cli import FlagParser, add_run, at_least, base_model, ending_on_ctrl_c, run_flags
from mosld.common.errors import ExitCode, UserError
from mosld.runs.saved import saved_run

USAGE = """Talk to the base model with what a run trained: a session on a terminal, one question with --prompt, or a
question per line of a pipe. Answers are on stdout, all else on stderr.

  python -m mosld.chat outputs/mixture/smollm2_135m/mosld-...
  python -m mosld.chat RUN --prompt "What do plants need to grow?" --experts
  python -m mosld.chat RUN < questions.txt > answers.txt

A question is put as the run was trained. With prompt=chat, or with --format chat, the questions at a terminal are the
turns of a conversation. With the other prompts each question stands alone, in the form "Question: ...\\nAnswer:"; a run
whose prompt lists options (letter, list) expects them: type two or more after the question, as in
Which is hot? | the sun | an ice cube

A line that begins with / is a command:
  /experts                   the experts that the last answer took most, in every layer
  /experts [LAYER] [MODULE]  those that each token took, as in /experts 12 v_proj
  /system TEXT               a system prompt from the next question on; without a text: none
  /reset                     a new conversation (also /new)
  /help, /exit (or Ctrl-D); Ctrl-C stops an answer"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_flags(chat, _parser(), argv)


def chat(flags: argparse.Namespace) -> int:
    """The run and its config, then model and conversation."""
    if flags.prompt is not None and not flags.prompt.strip():
        raise UserError("--prompt: is empty.")
    run = saved_run(flags.run)
    config = run.config([], **base_model(flags))
    with ending_on_ctrl_c():
        # torch, transformers and peft: only now is everything checked.
        from mosld.recipes.chat import answer_questions

    answered = answer_questions(
        config,
        run,
        prompt=flags.prompt,
        form=flags.format,
        experts=flags.experts,
        max_new_tokens=flags.max_new_tokens,
        temperature=flags.temperature,
        seed=flags.seed,
        system=flags.system,
    )
    return ExitCode.FINISHED if answered else ExitCode.USER_ERROR


def _parser() -> FlagParser:
    parser = FlagParser("chat", USAGE)
    add_run(parser)
    parser.add_argument("--prompt", metavar="TEXT", help="answer this and end")
    parser.add_argument("--system", metavar="TEXT", default="", help="a system prompt before the questions")
    parser.add_argument("--experts", action="store_true", help="print the experts after each answer")
    parser.add_argument("--max-new-tokens", type=at_least(1), default=128, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--temperature",
        type=at_least(0.0),
        default=0.0,
        metavar="T",
        help="0: the likeliest token each time (default)",
    )
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of temperatures above 0; default: 0")
    parser.add_argument(
        "--format",
        choices=("question", "plain", "chat"),
        default="question",
        help="question: as the run was trained (default); plain: the text as it is, to be continued; chat: the "
        "tokenizer's chat template, for an instruction model",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
