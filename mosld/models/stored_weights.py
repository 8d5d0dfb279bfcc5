"""The files of a checkpoint's weights, and whether what they hold fits its config.json, by their headers alone."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file, cached_files
from typing_extensions import TypedDict

from mosld.common.reading import load_json
from mosld.models.config import empty_model

FLOATING = ("F", "BF")


class _Index(TypedDict):
    weight_map: dict[str, str]


def weight_files(index: str | Path | None) -> list[str]:
    """The names of the files of a checkpoint's weights, by its index; without one there is one file."""
    return sorted({*load_json(Path(index), _Index)["weight_map"].values()}) if index else [SAFE_WEIGHTS_NAME]


def weight_paths(source: str, revision: str | None) -> list[Path]:
    """The safetensors files on this disk that transformers would load.

    Raises:
        OSError: there are none.
    """
    if Path(source).is_dir():
        whole = (Path(source) / SAFE_WEIGHTS_NAME).is_file()
        names = weight_files(None if whole else Path(source) / SAFE_WEIGHTS_INDEX_NAME)
        return [Path(source) / name for name in names]
    index = cached_file(
        source,
        SAFE_WEIGHTS_INDEX_NAME,
        revision=revision,
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
    )
    names = weight_files(index)
    return [Path(file) for file in cached_files(source, names, revision=revision, local_files_only=True) or ()]


def misfit(folder: str, shape: PretrainedConfig) -> str | None:
    """The first stored tensor that is no weight of this shape; None: none was found, or it cannot be told.

    transformers would first make the weights of the whole shape, and would cast integers without a word. Tensors that
    it renames or transposes as it loads them are not compared.
    """
    if hasattr(shape, "quantization_config"):
        return None
    model = empty_model(shape, dtype=None, attn_implementation=None)
    parameters = dict(model.named_parameters())
    # The loading says what is wrong with a file that cannot be read.
    with suppress(OSError, ValueError, SafetensorError):
        for name, dtype, sizes in _headers(weight_paths(folder, None)):
            parameter = parameters.get(name, parameters.get(f"{model.base_model_prefix}.{name}"))
            if parameter is None:
                continue
            if sorted(parameter.shape) != sorted(sizes):
                return f"{name} has the shape {sizes}, by config.json it is {list(parameter.shape)}"
            if not dtype.startswith(FLOATING):
                return f"{name} holds {dtype}, no floating-point numbers, and config.json names no quantization_config"
    return None


def _headers(files: list[Path]) -> Iterator[tuple[str, str, list[int]]]:
    """Name, type and sizes of each tensor."""
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no dict)
                part = tensors.get_slice(name)
                yield name, part.get_dtype(), part.get_shape()
