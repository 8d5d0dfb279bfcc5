"""The console script `mosld`: ``mosld train ...`` is ``python -m mosld.train ...``."""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import mosld
from mosld.cli import FlagParser, run_flags
from mosld.common.errors import ExitCode, nearest

# Each command and the module whose `main` runs it; "mosld.__main__:NAME" is a function of this file.
COMMANDS = {
    "train": ("mosld.train", "fine-tune a base model with one method, or a sweep of them"),
    "eval": ("mosld.eval", "score a run or a saved adapter on any data"),
    "chat": ("mosld.chat", "talk to what a run trained"),
    "export": ("mosld.export", "write a run for other software: a model, a LoRA, GGUF"),
    "merge": ("mosld.merge", "write base + LoRA as one model"),
    "inspect": ("mosld.inspect", "compare the experts of runs"),
    "verify": ("mosld.verify", "check that runs are whole and agree with themselves"),
    "plan": ("mosld.plan", "memory, FLOPs and hours of a run, before it starts"),
    "report": ("mosld.report", "tables and figures of many runs"),
    "dashboard": ("mosld.dashboard", "a W&B workspace over all runs"),
    "copy-config": ("mosld.copy_config", "copy packaged config files, to change them"),
    "version": ("", "the versions of mosld and of the libraries that matter"),
}
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "hydra-core", "safetensors")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:
        # Only where the shell asks for completions.
        from mosld.config.completion import complete

        complete({name: module for name, (module, _) in COMMANDS.items()})
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_usage())
    elif name in ("-V", "--version"):
        print(f"mosld {mosld.__version__}")
    elif name == "version":
        return run_flags(
            _print_versions, FlagParser("version", "Print the versions of mosld and its libraries."), arguments[1:]
        )
    elif name in COMMANDS:
        return importlib.import_module(COMMANDS[name][0]).main(arguments[1:])
    else:
        print(f"error: {name}: unknown command; {nearest(name, COMMANDS)}", file=sys.stderr)
        return ExitCode.USER_ERROR
    return ExitCode.FINISHED


def _usage() -> str:
    commands = [f"  {name:12} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join([
        "Fine-tune language models with mixtures of LoRA experts.", "", "  mosld COMMAND ...", *commands, "",
        "`mosld COMMAND --help` prints what a command takes; `python -m mosld.COMMAND` is the same command.",
        "Completion in bash: eval \"$(register-python-argcomplete mosld)\"",
    ])  # fmt: skip


def _print_versions(_: object) -> int:
    print(f"mosld {mosld.__version__}\npython {sys.version.split()[0]}")
    for library in LIBRARIES:
        try:
            print(f"{library} {version(library)}")
        except PackageNotFoundError:
            print(f"{library} is not installed")
    return ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
