"""Tensors by name in safetensors files of a bounded size, written as they come and read one by one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mosld.common.errors import UserError

MOST = 4 * 2**30  # bytes of one file, and so what is held in memory before it is written


def write_tensors(found: Iterable[tuple[str, Tensor | None]], folder: Path | None, stem: str, most: int = MOST) -> None:
    """Write the tensors to <stem>.safetensors, <stem>-2.safetensors and so on.

    Args:
        found: tensors on the processor; None in a process that only sends its parts of them.
        folder: where to; None: nowhere, the tensors are passed over.
        stem: of the files' names.
        most: bytes of one file, unless a single tensor is larger.
    """
    held, size, number = dict[str, Tensor](), 0, 1
    for name, tensor in found:
        if tensor is None or folder is None:
            continue
        if held and size + tensor.nbytes > most:
            save_file(held, folder / _name(stem, number))
            held, size, number = {}, 0, number + 1
        held[name], size = tensor, size + tensor.nbytes
    if folder is not None:
        save_file(held, folder / _name(stem, number))


class SavedTensors:
    """The tensors that `write_tensors` wrote."""

    def __init__(self, folder: Path, stem: str) -> None:
        """Open the files.

        Raises:
            UserError: one is no safetensors file.
        """
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob(f"{stem}*.safetensors")):
            try:
                file = safe_open(path, framework="pt")
            except SafetensorError as error:  # its checksum is right, so it was written thus: a pickle, say
                raise UserError(f"{path}: is no safetensors file ({error}); nothing else is read.") from error
            self._files.update(dict.fromkeys(file.keys(), file))

    def shapes(self) -> dict[str, torch.Size]:
        """The shape of each tensor by its name."""
        return {name: torch.Size(file.get_slice(name).get_shape()) for name, file in self._files.items()}

    def listed(self) -> list[tuple[str, bool]]:
        """The names, each with whether it is a single number, in the order of the files."""
        return [(name, not shape) for name, shape in self.shapes().items()]

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self._files[name].get_tensor(name)


def _name(stem: str, number: int) -> str:
    return f"{stem}.safetensors" if number == 1 else f"{stem}-{number}.safetensors"
