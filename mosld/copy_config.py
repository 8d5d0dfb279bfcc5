"""Copy packaged config files, to change them: ``python -m mosld.copy_config accelerate/fsdp``."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mosld.cli import FlagParser, run_flags
from mosld.common.errors import ExitCode, UserError, nearest
from mosld.config.options import config_directory

USAGE = """Copy config files of the package into a directory, to read or change them.

  mosld copy-config method/mosld              # ./mosld.yaml; then mosld train method=mosld.yaml
  mosld copy-config accelerate/fsdp my/conf   # my/conf/fsdp.yaml, for accelerate launch --config_file
  mosld copy-config training my/conf          # every file of the group
  mosld copy-config                           # list what there is

An option is also found by its name in conf/<group>/ of the working directory, or of --config-dir, if the name is its
own. The last line printed is the file, or the directory."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_flags(copy_config, _parser(), argv)


def copy_config(flags: argparse.Namespace) -> int:
    """Copy what is named and print where it is; without a name list what there is."""
    files = sorted(config_directory().rglob("*.yaml"))
    names = {path.relative_to(config_directory()).with_suffix("").as_posix(): path for path in files}
    if flags.name is None:
        print("\n".join(names))
        return ExitCode.FINISHED
    wanted = flags.name.removesuffix(".yaml").strip("/")
    chosen = [
        path for name, path in names.items() if wanted in (name, name.rpartition("/")[0]) or name.endswith(f"/{wanted}")
    ]
    groups = {path.parent.name for path in chosen}
    if not chosen:
        raise UserError(
            f"{flags.name}: no such config; {nearest(wanted, {*names, *(name.split('/')[0] for name in names)})}"
        )
    if len(groups) > 1:
        raise UserError(f"{flags.name}: is in {', '.join(sorted(groups))}; name one, as in {min(groups)}/{wanted}.")
    directory = Path(flags.output or flags.directory)
    taken = [path.name for path in chosen if (directory / path.name).exists()]
    if taken:
        raise UserError(f"{directory / taken[0]}: exists; move it away, or name another directory.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in chosen:
            shutil.copyfile(path, directory / path.name)
    except OSError as error:
        raise UserError(f"{directory}: cannot be written: {error.strerror}.") from error
    print(directory / chosen[0].name if len(chosen) == 1 else directory)
    return ExitCode.FINISHED


def _parser() -> FlagParser:
    parser = FlagParser("copy_config", USAGE)
    parser.add_argument(
        "name", metavar="[GROUP/]NAME", nargs="?", help="a file of conf/, or a group; without it: a list"
    )
    parser.add_argument("directory", metavar="DIR", nargs="?", default=".", help="where to; default: here")
    parser.add_argument("--output", metavar="DIR", help="the same as DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
