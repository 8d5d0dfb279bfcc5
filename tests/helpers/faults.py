"""Faults that are planted in a process before it starts: death, a signal or an error at a chosen call of a function.

A fault is a JSON object:
  {"at": "module:Class.function", "call": 3, "when": "before" | "after", "do": DO}
  {"inside": "module:Class.function", "call": 2, "operation": 5, "when": "before" | "half" | "after", "do": DO}
The second counts the file operations (mkdir, write, fsync, rename, delete) that this one call makes; "half" writes the
first half of a file and dies. DO is the name of a signal or of two, "nan" or "inf" (a loss), "nan gradient", "overflow"
(of a weight), "full" (no room on the disk), "memory", "scarce
memory" (32 MiB are left to the process from then on), "error", or "say WORDS" (an error with these words). With "only"
those calls count whose arguments show these words, such as one job of a sweep by its seed.
"""

import errno
import importlib
import os
import resource
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

OPERATIONS = {
    "os": ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"),
    "pathlib:Path": ("write_text",),
    "mosld.training.tensor_files": ("save_file",),
    "peft.peft_model": ("safe_save_file",),
    "shutil": ("copyfile",),
}
WRITES = ("fsync", "write_text", "save_file", "safe_save_file", "copyfile")
FULL = OSError(errno.ENOSPC, "No space left on device")


def plant(faults: list[dict[str, Any]]) -> None:
    """Put every fault in its place."""
    for fault in faults:
        if "inside" in fault:
            _plant_inside(fault)
        else:
            _wrap(fault["at"], lambda whole, fault=fault: _at(whole, fault))


def find(place: str) -> tuple[Any, str]:
    """The object that holds what "module:Class.function" names, and the last part of its name."""
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


def _wrap(place: str, make: Callable[[Any], Any]) -> None:
    owner, name = find(place)
    setattr(owner, name, make(getattr(owner, name)))


def _at(whole: Any, fault: dict[str, Any]) -> Any:
    calls, last = 0, fault.get("until", fault["call"])

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        counts = "only" not in fault or fault["only"] in repr(arguments)
        calls += counts
        due = counts and fault["call"] <= calls <= last
        if due and fault.get("when", "before") == "before":
            _do(fault["do"])
        result = whole(*arguments, **named)
        if due and fault.get("when") == "after":
            return _do(fault["do"], result, arguments)
        return result

    return wrapped


def _do(what: str, result: Any = None, arguments: Any = ()) -> Any:
    """Do it; returns the result, spoilt where that is the fault."""
    if what == "error":
        raise RuntimeError("planted")
    if what.startswith("say "):
        raise RuntimeError(what.removeprefix("say "))
    if what == "memory":
        raise RuntimeError("CUDA out of memory. (planted)")
    if what == "scarce memory":
        return _limit_memory(32 * 2**20)
    if what == "full":
        raise FULL
    if what in ("nan", "inf", "-inf"):
        result.loss = result.loss * float(what)
    elif what == "overflow":  # after an optimiser's step
        arguments[0].param_groups[0]["params"][0].data.fill_(float("inf"))
    elif what == "nan gradient":
        result.loss.register_hook(lambda gradient: gradient * float("nan"))
    else:
        for name in what.upper().replace("CTRL-C", "SIGINT").split(" "):
            os.kill(os.getpid(), signal.Signals[name])
    return result


def _limit_memory(left: int) -> None:
    """Let the system refuse this process whatever it asks for beyond `left` bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + left
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _plant_inside(fault: dict[str, Any]) -> None:
    calls = seen = 0
    counting = False

    def operation(name: str, whole: Any) -> Any:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            seen += counting
            due = counting and seen == fault["operation"]
            if due and fault["when"] == "before":
                _do(fault["do"])
            try:
                return whole(*arguments, **named)
            finally:
                # A rename is whole or not made.
                if due and fault["when"] == "half" and name in WRITES:
                    _halve(arguments)
                if due:
                    _do(fault["do"])

        return wrapped

    for place, names in OPERATIONS.items():
        for name in names:
            _wrap(f"{place}{'.' if ':' in place else ':'}{name}", partial(operation, name))

    def inside(whole: Any) -> Any:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal calls, counting
            calls += 1
            counting = calls == fault["call"]
            try:
                return whole(*arguments, **named)
            finally:
                counting = False

        return wrapped

    _wrap(fault["inside"], inside)


def _halve(arguments: tuple[Any, ...]) -> None:
    """What a write leaves that is cut short: the first half of the file."""
    opened = [Path(f"/proc/self/fd/{one}").resolve() for one in arguments if type(one) is int]
    named = [Path(one) for one in arguments if isinstance(one, str | Path) and len(str(one)) < 200]
    paths = opened or named
    for path in [path for path in paths if path.is_file()][-1:]:  # of a copy, the target
        os.truncate(path, path.stat().st_size // 2)
