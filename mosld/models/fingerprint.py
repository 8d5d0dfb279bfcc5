"""What identifies the weights of a base model: a digest by tensor, the same however they are split into files.

Hashing a large base takes seconds, so the digest is kept in the cache under the path, size and time of the files.
"""

import hashlib
import json
import mmap
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from mosld.common.files import cache_directory, write_text
from mosld.config.schema import ModelConfig
from mosld.models.load import source_of
from mosld.models.stored_weights import weight_paths
from mosld.models.tiny import random_model

DIGITS = 16

# Name, type, shape and digest.
Tensor = tuple[str, str, list[int], str]


def base_fingerprint(config: ModelConfig, cached: bool = True) -> str | None:
    """Sixteen hex digits over the weights of a base model that is on this disk.

    Args:
        config: the model group.
        cached: False reads the weights even where their digest is in the cache.

    Returns:
        None where there are no safetensors to read.
    """
    generated = config.kind == "random" and not config.path
    try:
        files = [] if generated else weight_paths(*source_of(config))
        entry = cache_directory() / "bases" / (_recipe_name(config) if generated else _cache_name(files))
        if cached and (known := _read(entry)):
            return known
        tensors = sorted(_generated(config) if generated else (one for file in files for one in _tensors(file)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # The loading explains what is wrong with them.
        return None
    if not tensors:
        return None
    fingerprint = hashlib.sha256(json.dumps(tensors).encode()).hexdigest()[:DIGITS]
    # The run does not depend on the cache: the disk may be full, the folder read-only.
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_text(entry, fingerprint)
    return fingerprint


def _cache_name(files: Sequence[Path]) -> str:
    known = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(known).encode()).hexdigest()[:32]


def _recipe_name(config: ModelConfig) -> str:
    recipe = json.dumps([config.architecture, config.shape, torch.__version__], sort_keys=True)
    return hashlib.sha256(recipe.encode()).hexdigest()[:32]


def _read(entry: Path) -> str | None:
    """The digest in a file of the cache, if it is one."""
    try:
        text = entry.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return text if re.fullmatch(rf"[0-9a-f]{{{DIGITS}}}", text) else None


def _generated(config: ModelConfig) -> Iterator[Tensor]:
    """The tensors of random weights, as a file of them has them."""
    for name, parameter in random_model(config, torch.float32, "eager").named_parameters():
        content = parameter.detach().numpy().tobytes()
        yield name, "F32", list(parameter.shape), hashlib.sha256(content).hexdigest()


def _tensors(path: Path) -> Iterator[Tensor]:
    """The tensors of a safetensors file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = 8 + int.from_bytes(content[:8], "little")
        for name, tensor in json.loads(content[8:start]).items():
            if name != "__metadata__":
                first, end = tensor["data_offsets"]
                with memoryview(content) as view, view[start + first : start + end] as part:
                    yield name, tensor["dtype"], tensor["shape"], hashlib.sha256(part).hexdigest()
