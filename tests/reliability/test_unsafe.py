"""Row 11: files that could run code are refused or left unread, and nothing in them is executed."""

import json
import os
import pickle
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.cases import Case, check_case, command, toy_data
from tests.helpers.fork_server import nursery

pytestmark = pytest.mark.slow


class Bomb:
    """What a pickle can do: it runs a command while it is loaded."""

    def __init__(self, mark: Path) -> None:
        """`mark` is the file that shows that it ran."""
        self.mark = mark

    def __reduce__(self):
        """The command, as pickle calls it."""
        return os.system, (f"touch {self.mark}",)


def cases(full: bool) -> list[Case]:
    """Pickles as checkpoint and adapter, scripts beside data and model, objects and targets in configs."""
    found = {
        "a pickle as a checkpoint": _checkpoint,
        "a pickle as an adapter": partial(_adapter, "adapter_model.bin"),
        "a pickle called safetensors": partial(_adapter, "adapter_model.safetensors"),
        "a pickle as a model": _model_pickle,
        "a model with remote code": _remote_code,
        "a data set script": _script,
        "an object in a config": _yaml_object,
        "a target in an override": _target,
    }
    return [Case(name, partial(_harmless, check)) for name, check in found.items()]


def _harmless(check, folder: Path) -> None:
    check(folder, folder / "executed")
    assert not (folder / "executed").exists()
    for log in folder.glob("log*"):
        assert "Traceback" not in log.read_text(), log


def _evaluate(arguments: list[str], log: Path) -> int | None:
    return nursery().wait(nursery().start("mosld.eval:main", [arguments], log))


def _checkpoint(folder: Path, mark: Path) -> None:
    from mosld.runs.directory import RunDirectory

    stop = {"at": "mosld.training.step:Stepper.step", "call": 2, "do": "SIGTERM"}
    assert nursery().train(command(folder), folder / "log", [stop]) == 75
    newest = folder / "run" / "checkpoints" / "step-000002"
    files = {path.name: path.read_bytes() for path in newest.iterdir() if path.name != "manifest.json"}
    files["weights.safetensors"] = pickle.dumps(Bomb(mark))  # and manifests that vouch for it
    RunDirectory(folder / "run").seal.write_folder(
        newest, lambda aside: [(aside / name).write_bytes(content) for name, content in files.items()]
    )
    assert nursery().train(command(folder), folder / "log") == 2
    assert "is no safetensors file" in (folder / "log").read_text()


def _adapter(name: str, folder: Path, mark: Path) -> None:
    assert nursery().train(command(folder), folder / "log") == 0
    adapter = folder / "run" / "adapter"
    for unwanted in ("adapter_model.safetensors", "manifest.json"):
        (adapter / unwanted).unlink()
    (adapter / name).write_bytes(pickle.dumps(Bomb(mark)))
    (folder / "run" / "manifest.json").unlink()  # with it the adapter would be made again from the best checkpoint
    shutil.rmtree(folder / "run" / "checkpoints")
    assert _evaluate([f"run={adapter}"], folder / "log") == 2


def _saved_model(folder: Path) -> Path:
    import mosld

    model, tokenizer = mosld.load_base("tiny")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def _model_pickle(folder: Path, mark: Path) -> None:
    model = _saved_model(folder)
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    assert nursery().train(command(folder, f"model.path={model}"), folder / "log") == 2


def _remote_code(folder: Path, mark: Path) -> None:
    model = _saved_model(folder)
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    for name in ("configuration_bomb.py", "modeling_bomb.py", "tokenization_bomb.py"):
        (model / name).write_text(code)
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_bomb.Bomb", "AutoModelForCausalLM": "modeling_bomb.Bomb"}
    (model / "config.json").write_text(json.dumps({**config, "model_type": "bomb"}))
    assert nursery().train(command(folder, f"model.path={model}"), folder / "log") == 2
    (model / "config.json").write_text(json.dumps(config))  # a known type: its own code is not looked at
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["tokenization_bomb.Bomb", None]}
    (model / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert nursery().train(command(folder, f"model.path={model}"), folder / "log") in (0, 2)


def _script(folder: Path, mark: Path) -> None:
    root = toy_data(folder / "data")
    for place in (root / "data.py", root / "obqa" / "obqa.py", root / "obqa" / "train.py"):
        place.write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    shutil.move(root / "obqa" / "train.jsonl", root / "obqa" / "kept")
    assert nursery().train(command(folder), folder / "log") == 2
    assert "train.jsonl" in (folder / "log").read_text()


def _yaml_object(folder: Path, mark: Path) -> None:
    assert nursery().train(command(folder), folder / "log") == 0
    config = folder / "run" / "adapter" / "config.yaml"
    config.write_text(f"seed: !!python/object/apply:os.system ['touch {mark}']\n")
    (folder / "run" / "adapter" / "manifest.json").unlink()
    assert _evaluate([f"run={folder / 'run' / 'adapter'}"], folder / "log") == 2
    assert "could not determine a constructor" in (folder / "log").read_text()


def _target(folder: Path, mark: Path) -> None:
    for number, text in enumerate(
        (f"+method._target_=os.system +method.command='touch {mark}'", f"model={{_target_: 'os.system', a: {mark}}}")
    ):
        arguments = text.split(" +") if text.startswith("+") else [text]
        assert nursery().train(command(folder, *arguments), folder / f"log-{number}") == 2


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
