"""Tensors by name in safetensors files of a bounded size, written as they come and read one by one."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mosld.common.errors import UserError

# Of one file, and so what is held in memory before it is written.
MAX_FILE_BYTES = 4 * 2**30


def write_tensors(
    tensors: Iterable[tuple[str, Tensor | None]], folder: Path | None, stem: str, max_bytes: int = MAX_FILE_BYTES
) -> None:
    """Write the tensors to <stem>.safetensors, <stem>-2.safetensors and so on.

    Args:
        tensors: names with tensors in CPU memory; with None in a process that only sends its shards.
        folder: None: the tensors are only gathered, not written.
        stem: of the files' names.
        max_bytes: of one file, unless a single tensor is larger.
    """
    pending: dict[str, Tensor] = {}
    size = 0
    number = 1
    for name, tensor in tensors:
        if tensor is None or folder is None:
            continue
        if pending and size + tensor.nbytes > max_bytes:
            save_file(pending, folder / _name(stem, number))
            pending = {}
            size = 0
            number += 1
        pending[name] = tensor
        size += tensor.nbytes
    if folder is not None:
        save_file(pending, folder / _name(stem, number))


class SavedTensors:
    """The tensors that `write_tensors` wrote."""

    def __init__(self, folder: Path, stem: str) -> None:
        """Open the files.

        Raises:
            UserError: one is no safetensors file.
        """
        self._files: dict[str, safe_open] = {}
        for path in sorted(folder.glob(f"{stem}*.safetensors")):
            try:
                file = safe_open(path, framework="pt")
            except SafetensorError as error:
                # Its checksum is right, so it was written like this: a pickle, say.
                raise UserError(f"{path}: is no safetensors file ({error}); nothing else is read.") from error
            self._files.update(dict.fromkeys(file.keys(), file))

    def shapes(self) -> dict[str, torch.Size]:
        return {name: torch.Size(file.get_slice(name).get_shape()) for name, file in self._files.items()}

    def entries(self) -> list[tuple[str, bool]]:
        """The names, each with whether its tensor is a scalar, in the order of the files."""
        return [(name, not shape) for name, shape in self.shapes().items()]

    def read(self, name: str) -> Tensor:
        return self._files[name].get_tensor(name)


def _name(stem: str, number: int) -> str:
    return f"{stem}.safetensors" if number == 1 else f"{stem}-{number}.safetensors"
