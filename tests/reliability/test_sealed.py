"""Row 15: a run that is damaged, mixed with another or edited is noticed; an honest run or copy never is."""

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.helpers.cases import Case, Outcome, check_case, command, weights
from tests.helpers.fork_server import nursery

pytestmark = pytest.mark.slow

# What nobody reads back, or the user may edit.
FREE = {"train.log", "README.md", ".lock", ".manifest.lock", "figures"}


def cases(full: bool) -> list[Case]:
    """Tamperings and honest copies of one run, and what commands say and make again."""
    return [
        Case("tamperings", partial(_tamperings, 200 if full else 52)),
        Case("honest runs and copies", partial(_honest, 200 if full else 20)),
        Case("what is whole makes the rest again", _remade),
        Case("another base, and one that is not finite", _other_base),
        Case("killed between a file and the manifest", _killed),
    ]


def _train(folder: Path, name: str, *more: str, faults: object = ()) -> Path:
    run = folder / name
    code = nursery().train(command(folder, f"output_dir={run}", "training.keep_last=2", *more), folder / "log", faults)
    assert code == (-9 if faults else 0), (folder / "log").read_text()
    return run


def verify(run: str) -> int:
    """In a child: the number of faults of a run."""
    from mosld.recipes.verify import verify_run
    from mosld.runs.directory import RunDirectory

    faults = [fault for check in verify_run(RunDirectory(Path(run))) for fault in check.faults]
    print(run, faults)
    return min(len(faults), 99)


def _faults(folder: Path, run: Path) -> int | None:
    return nursery().wait(nursery().start("tests.reliability.test_sealed:verify", [str(run)], folder / "log-verify"))


def _tamperings(count: int, folder: Path) -> Outcome:
    outcome = Outcome(0)
    rng = random.Random(0)
    run, other = _train(folder, "run"), _train(folder, "other", "seed=1")
    for path in (run, other):
        assert nursery().wait(nursery().start("mosld.eval:main", [[f"run={path}"]], folder / "log-eval")) == 0
    assert _faults(folder, run) == 0
    kinds = list(TAMPERINGS)
    while outcome.cases < count:
        kind = kinds[outcome.cases % len(kinds)]
        copy = shutil.copytree(run, folder / "copy")
        files = [path for path in sorted(copy.rglob("*")) if path.is_file() and not FREE & {*path.parts}]
        path = rng.choice(files)
        name = path.relative_to(copy)
        if TAMPERINGS[kind](path, other / name, rng):
            outcome.cases += 1
            # 1 is a bug of the child, too; a fault is named in its log.
            if not _faults(folder, copy) or f"{copy} [" not in (folder / "log-verify").read_text():
                outcome.failures.append(f"{kind}: {name}")
        shutil.rmtree(copy)
    return outcome


def _flip(path: Path, _other: Path, rng: random.Random) -> bool:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return True


def _cut(path: Path, _other: Path, rng: random.Random) -> bool:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
    return True


def _delete(path: Path, _other: Path, _rng: random.Random) -> bool:
    path.unlink()
    return True


def _swap(path: Path, other: Path, _rng: random.Random) -> bool:
    if not other.is_file() or other.read_bytes() == path.read_bytes():
        return False
    shutil.copy(other, path)
    return True


def _swap_folder(path: Path, other: Path, _rng: random.Random) -> bool:
    """Folders that were written as a whole agree with their own manifest in any run."""
    if path.parent.name not in ("adapter", "step-000004", "step-000006") or not other.parent.is_dir():
        return False
    shutil.rmtree(path.parent)
    shutil.copytree(other.parent, path.parent)
    return True


def _edit_digit(path: Path, _other: Path, rng: random.Random) -> bool:
    if path.suffix not in (".json", ".jsonl", ".yaml"):
        return False
    text = path.read_text()
    place = rng.choice([place for place, letter in enumerate(text) if letter.isdigit()])
    path.write_text(text[:place] + str((int(text[place]) + 1 + rng.randrange(9)) % 10) + text[place + 1 :])
    return True


def _write_again(path: Path, _other: Path, _rng: random.Random) -> bool:
    """The same content in another form, as other programs leave it."""
    forms: dict[str, Callable[[str], str]] = {
        ".json": lambda text: json.dumps(json.loads(text), indent=3),
        ".jsonl": lambda text: "".join(json.dumps(json.loads(line), indent=None) + " \n" for line in text.splitlines()),
        ".yaml": lambda text: yaml.safe_dump(yaml.safe_load(text), sort_keys=True),
    }  # fmt: skip
    if path.suffix not in forms:
        return False
    path.write_text(forms[path.suffix](path.read_text()))
    return True


def _rename(path: Path, _other: Path, _rng: random.Random) -> bool:
    path.rename(path.with_name(f"old-{path.name}"))
    return True


def _rename_step(path: Path, _other: Path, _rng: random.Random) -> bool:
    if not path.parent.name.startswith(("step-", "best-")):
        return False
    path.parent.rename(path.parent.with_name("step-000009"))
    return True


def _add(path: Path, _other: Path, _rng: random.Random) -> bool:
    # At the top of a run users may keep notes.
    if (path.parent / "data.json").is_file():
        return False
    shutil.copy(path, path.with_name(f"copy-{path.name}"))
    return True


TAMPERINGS: dict[str, Callable[[Path, Path, random.Random], bool]] = {
    "flip a bit": _flip, "cut off": _cut, "delete": _delete, "file of another run": _swap,
    "folder of another run": _swap_folder, "edit a digit": _edit_digit, "write again": _write_again,
    "rename": _rename, "rename a checkpoint": _rename_step, "add": _add,
}  # fmt: skip


def _honest(count: int, folder: Path) -> Outcome:
    """Runs after everything that people and mosld do with them, each seen by verify."""
    outcome = Outcome(0)
    run = _train(folder, "run")
    for number, change in zip(range(count), _honest_changes(folder, run), strict=False):
        outcome.cases += 1
        if _faults(folder, change) != 0:
            outcome.failures.append(f"{number}: {change}")
    return outcome


def _honest_changes(folder: Path, run: Path) -> Iterator[Path]:
    yield run
    yield shutil.copytree(run, folder / "elsewhere" / "copy", copy_function=shutil.copy)
    yield Path(shutil.move(shutil.copytree(run, folder / "to-move"), folder / "moved"))
    for arguments in ([f"run={run}"], [f"run={run}", "prompt=cloze", "evaluation.base=true"], [f"run={run}/adapter"]):
        for _ in range(2):
            nursery().wait(nursery().start("mosld.eval:main", [arguments], folder / "log-eval"))
            yield run
    assert nursery().train(command(folder), folder / "log") == 0
    (run / "adapter" / "README.md").write_text("ours")
    (run / "notes.txt").write_text("ours")
    yield run
    for path in run.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    yield run
    stops = ((step, name) for step in (1, 2, 3, 4, 5, 6) for name in ("SIGTERM", "SIGKILL"))
    for step, signal in stops:
        stopped = folder / f"stopped-{step}-{signal}"
        arguments = command(folder, f"output_dir={stopped}", "evaluation.base=true")
        fault = {"at": "mosld.training.step:Stepper.step", "call": step, "do": signal}
        nursery().train(arguments, folder / "log", [fault])
        yield stopped
        assert nursery().train(arguments, folder / "log") == 0
        yield stopped
        yield shutil.copytree(stopped, folder / f"copy-{step}-{signal}")
    for number in range(200):
        yield _train(folder, f"run-{number}", f"seed={number}", "training.max_steps=2")


def _remade(folder: Path) -> None:
    run = _train(folder, "run", "evaluation.base=true")
    whole = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    straight = weights(run)
    adapter = run / "adapter" / "adapter_model.safetensors"

    def evaluate(*more: str) -> tuple[int | None, str]:
        log = folder / f"log-{random.random()}"
        return nursery().wait(nursery().start("mosld.eval:main", [[f"run={run}", *more]], log)), log.read_text()

    for damaged, words in (("adapter/adapter_model.safetensors", "made again from"), ("config.yaml", "restored from")):
        (run / damaged).write_bytes((run / damaged).read_bytes()[:-9])
        code, said = evaluate()
        assert code == 0
        assert f"{damaged}" in said or "adapter was damaged" in said
        assert words in said
        assert weights(run) == straight
        assert (run / damaged).read_bytes() == whole[run / damaged]
        assert _faults(folder, run) == 0
    # Without the checkpoint there is nothing to make it from.
    adapter.write_bytes(b"")
    with contextlib.suppress(FileNotFoundError):
        shutil.move(run / "checkpoints", folder / "checkpoints")
    code, said = evaluate()
    assert code == 2
    assert "adapter/adapter_model.safetensors differs from its checksum" in said
    assert nursery().train(command(folder, "evaluation.base=true"), folder / "log-refused") == 2
    shutil.move(folder / "checkpoints", run / "checkpoints")
    (run / "base_scores.json").write_text('{"base_scores": 5}')
    assert nursery().train(command(folder, "training.keep_last=2", "evaluation.base=true"), folder / "log-again") == 0
    said = (folder / "log-again").read_text()
    assert "base_scores.json differs from its checksum; it is made again" in said
    assert weights(run) == straight
    for name in ("base_scores.json", "predictions/obqa.jsonl", "routing.json"):
        assert (run / name).read_bytes() == whole[run / name]
    assert _faults(folder, run) == 0


def change_base(path: str, value: float | None) -> int:
    """In a child: save the tiny base, or set one of its weights."""
    from safetensors.torch import load_file, save_file

    import mosld

    file = Path(path) / "model.safetensors"
    if value is None:
        model, tokenizer = mosld.load_base("tiny")
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    else:
        tensors = load_file(file)
        tensors[sorted(tensors)[3]].view(-1)[5] = value
        save_file(tensors, file, metadata={"format": "pt"})
    return 0


def _other_base(folder: Path) -> None:
    def change(value: float | None) -> None:
        call = "tests.reliability.test_sealed:change_base"
        assert nursery().wait(nursery().start(call, [str(folder / "base"), value], folder / "log")) == 0

    def said(call: str, arguments: list[str], code: int) -> str:
        log = folder / f"log-{random.random()}"
        assert nursery().wait(nursery().start(call, [arguments], log)) == code, log.read_text()
        return log.read_text()

    change(None)
    run, half = folder / "run", folder / "half"
    path = f"model.path={folder / 'base'}"
    assert nursery().train(command(folder, path), folder / "log") == 0
    stopped = command(folder, path, f"output_dir={half}")
    fault = {"at": "mosld.training.step:Stepper.step", "call": 3, "do": "SIGTERM"}
    assert nursery().train(stopped, folder / "log", [fault]) == 75
    evaluated = [f"run={run}", path]
    said("mosld.eval:main", evaluated, 0)
    # The same weights, generated in place of read.
    said("mosld.eval:main", [f"run={run}", "model.path=null"], 0)
    change(3.0)
    commands = {
        "mosld.eval:main": evaluated, "mosld.train:main": stopped, "mosld.chat:main": [str(run), "--prompt", "hot"]
    }  # fmt: skip
    for call, arguments in commands.items():
        assert "the run was trained on" in said(call, arguments, 2)
    said("mosld.eval:main", [*evaluated, "model.allow_other_base=true"], 0)
    said("mosld.chat:main", [str(run), "--prompt", "hot", "--allow-other-base", "--max-new-tokens", "2"], 0)
    assert _faults(folder, run) == 1
    change(float("nan"))
    exported = [str(run), "as=lora", f"output={folder / 'lora'}"]
    for call, arguments in {**commands, "mosld.export:main": exported}.items():
        assert "holds NaN or inf in" in said(call, arguments, 2)
    said("mosld.train:main", [*stopped, "model.allow_other_base=true"], 2)
    change(3.0)
    said("mosld.train:main", [*stopped, "model.allow_other_base=true"], 0)


def _killed(folder: Path) -> Outcome:
    """SIGKILL at every file operation of the end of a run, from the scores of the base to results.json."""
    outcome = Outcome(0)
    inside = {"inside": "mosld.common.seal:Seal.write_json", "do": "SIGKILL"}
    for call in (1, 2, 3, 4):
        for operation in range(1, 7):
            run = folder / f"run-{call}-{operation}"
            arguments = command(folder, f"output_dir={run}", "evaluation.base=true", steps=2)
            fault = {**inside, "call": call, "operation": operation, "when": "after"}
            if nursery().train(arguments, folder / "log", [fault]) == -9:
                outcome.cases += 1
                if run.is_dir() and _faults(folder, run):
                    outcome.failures.append(f"{call}, {operation}: a killed run looks damaged")
                if nursery().train(arguments, folder / "log") != 0 or _faults(folder, run):
                    outcome.failures.append(f"{call}, {operation}: the resumed run looks damaged")
    if outcome.cases < 20:
        outcome.failures.append(f"only {outcome.cases} kills: the hooks miss most operations")
    return outcome


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
