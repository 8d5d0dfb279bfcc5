"""Commands in a process that lacks what Windows lacks: ``python without_posix.py MODULE ARGUMENT ... [-- MODULE ...]``.

Only mosld and filelock lose the modules, since other libraries have builds of their own for Windows; what `os` and
`signal` lose is gone for all. Of Windows' file systems come the names that cannot be written, the rename that does not
replace, and the fsync of what is only read. Processes that it spawns run this file first, too.
"""

import builtins
import errno
import fcntl
import importlib
import os
import re
import shutil
import signal
import sys
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

MODULES = ("fcntl", "resource", "grp", "pwd", "termios", "tty", "pty", "readline")
LACKING = {
    os: ("fork", "getuid", "geteuid", "getgid", "setsid", "killpg", "getpgid", "statvfs", "sched_getaffinity"),
    signal: ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "SIGKILL", "setitimer", "alarm"),
}
NAMES = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)


def hide() -> None:
    """Take it all away."""
    whole_import = builtins.__import__

    def import_module(name: str, scope: Any = None, *rest: Any, **named: Any) -> Any:
        importer = (scope or {}).get("__name__", "").partition(".")[0]
        if name in MODULES and importer in ("mosld", "filelock"):
            raise ModuleNotFoundError(name, name=name)
        return whole_import(name, scope, *rest, **named)

    builtins.__import__ = import_module
    for name in ("asyncio", "torch", "transformers", "peft", "datasets", "accelerate", "hydra", "wandb"):
        importlib.import_module(name)
    for module, names in LACKING.items():
        for name in names:
            delattr(module, name)
    # Removing a folder without opening it is what shutil does there.
    shutil._use_fd_functions = False
    sys.addaudithook(_refuse_name)
    os.rename = _limited(os.rename, lambda _, target: os.path.lexists(target), errno.EEXIST)
    os.open = _limited(os.open, lambda path, *_, **__: os.path.isdir(path), errno.EACCES)
    os.fsync = _limited(os.fsync, lambda handle: not fcntl.fcntl(handle, fcntl.F_GETFL) & 3, errno.EBADF)
    importlib.import_module("mosld.common.files").sys = SimpleNamespace(platform="win32", stderr=sys.stderr)


def _limited(whole: Any, refuses: Any, code: int) -> Any:
    def limited(*arguments: Any, **named: Any) -> Any:
        if refuses(*arguments, **named):
            raise OSError(code, os.strerror(code), str(arguments[0]))
        return whole(*arguments, **named)

    return limited


def _refuse_name(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.mkdir", "os.rename") and isinstance(arguments[0], str | Path):
        for path in map(Path, filter(None, arguments[: 2 if event == "os.rename" else 1])):
            if path.is_relative_to(Path.cwd()) and NAMES.search(path.name):
                raise OSError(errno.EINVAL, "no file name of Windows", str(path))


hide()

if __name__ == "__main__":
    commands = [list(words) for end, words in groupby(sys.argv[1:], "--".__eq__) if not end]
    codes = [int(importlib.import_module(module).main(arguments)) for module, *arguments in commands]
    print(codes, file=sys.stderr)
