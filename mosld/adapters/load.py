"""Loading saved adapters and counting what is trained.

Every fault of an adapter's files is an error, so that no score is computed from half an adapter.
"""

import re
import warnings
from functools import partial
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from mosld.adapters.config import MosldConfig
from mosld.adapters.router import Router
from mosld.common.errors import UserError
from mosld.common.files import JsonObject
from mosld.common.machine import foreign_code, time_limit
from mosld.common.reading import load_json
from mosld.models.load import not_finite
from mosld.models.quantization import count_weights

# With an adapter or without one.
Model = PreTrainedModel | PeftModel
WEIGHTS_FILE = "adapter_model.safetensors"
NAME_PREFIX = "base_model.model."  # of every weight in an adapted model and in PEFT's files
PATTERN_SECONDS = 5.0


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Put the adapter in `folder` on its base model.

    Raises:
        UserError: the files are damaged, incomplete, of another base model, or a pickle.
    """
    check_weights_file(folder)
    config = load_json(folder / "adapter_config.json", JsonObject)
    with foreign_code(partial(_explain, folder)):
        _check_patterns(config, model)
        with warnings.catch_warnings():  # missing weights are an error below
            warnings.simplefilter("ignore", UserWarning)
            adapted = PeftModel.from_pretrained(model, str(folder))
        saved = load_file(folder / WEIGHTS_FILE)
        _require_loaded(adapted, saved, folder)
    return adapted


def load_into(adapted: PeftModel, folder: Path) -> None:
    """Take the weights of a saved adapter over into a model that was adapted alike.

    Raises:
        UserError: as `load_adapter`.
    """
    check_weights_file(folder)
    with foreign_code(partial(_explain, folder)):
        saved = load_file(folder / WEIGHTS_FILE)
        set_peft_model_state_dict(adapted, saved)
        config = adapted.active_peft_config
        if isinstance(config, MosldConfig):
            config.grown = cast(MosldConfig, MosldConfig.from_pretrained(str(folder))).grown
        _require_loaded(adapted, saved, folder)


def _explain(folder: Path, error: BaseException) -> str:
    reason = str(error).strip().splitlines()
    return f"{folder}: is damaged or belongs to another base model: {' '.join(reason[:2])}"


def _require_loaded(adapted: PeftModel, saved: dict[str, torch.Tensor], folder: Path) -> None:
    """Compare an adapter's weights with those in its file."""
    if name := not_finite(saved.items()):
        raise UserError(f"{folder}: holds NaN or inf in {name}: every number computed with it would be wrong.")
    loaded = _weights(adapted)
    if odd := sorted(saved.keys() ^ loaded.keys()):
        raise UserError(f"{folder}: is damaged: {len(odd)} weights are missing or unknown, the first: {odd[0]}")
    wrong = [name for name, one in saved.items() if one.is_floating_point() != loaded[name].is_floating_point()]
    if wrong:
        raise UserError(f"{folder}: is damaged: {wrong[0]} has the type {saved[wrong[0]].dtype}.")
    # PEFT only warns of a key that it cannot load, and the layer would keep its random start.
    lost = [name for name, tensor in saved.items() if not torch.equal(tensor, loaded[name].cpu().to(tensor.dtype))]
    if lost:
        raise UserError(f"{folder}: {len(lost)} weights could not be loaded, the first: {lost[0]}")


def _check_patterns(config: JsonObject, model: nn.Module) -> None:
    """Match the regular expressions of an adapter's config in a limited time: PEFT would match them without one.

    Raises:
        UserError: one takes too long.
    """
    patterns = [config.get(key) for key in ("target_modules", "exclude_modules", "layers_pattern", "target_parameters")]
    patterns += [key for name in ("rank_pattern", "alpha_pattern") for key in config.get(name) or {}]
    texts = [entry for value in patterns for entry in (value if isinstance(value, list) else [value])]
    with time_limit(PATTERN_SECONDS, "adapter_config.json: matching the names of modules"):
        for text in (text for text in texts if isinstance(text, str)):
            for name, _ in model.named_modules():
                # As PEFT matches these keys: the whole name, or its end.
                re.fullmatch(text, name)
                re.search(rf"(.*\.)?({text})$", name)


def _weights(model: PeftModel) -> dict[str, torch.Tensor]:
    """The weights of the active adapter; PEFT would ask the hub about embeddings, which are no part of it."""
    return get_peft_model_state_dict(model, save_embedding_layers=False)


def check_weights_file(folder: Path) -> None:
    """Refuse an adapter without weights as safetensors."""
    if not (folder / WEIGHTS_FILE).is_file():
        raise UserError(f"{folder}: {WEIGHTS_FILE} is missing (pickled weights are not loaded).")


def base_model_of(model: Model) -> PreTrainedModel:
    """The transformers model under an adapter, or the model itself."""
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def layers_without_gradient(model: nn.Module) -> list[str]:
    """The adapted layers in which some weight has no gradient, and such weights outside them, as the base names them.

    Read after a backward pass: the model did not run such a layer, or it read the base's weight past the adapter.
    """
    owners = {
        parameter: name
        for name, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer)
        for parameter in cast(nn.Module, layer).parameters()
    }
    unreached = [(name, weight) for name, weight in trained_parameters(model).items() if weight.grad is None]
    return list(dict.fromkeys(owners.get(weight, name).removeprefix(NAME_PREFIX) for name, weight in unreached))


def router_biases(model: nn.Module) -> dict[str, torch.Tensor]:
    """The biases of routers with balance "bias", by name: they are learned without gradients."""
    biases = {f"{name}.bias": module.bias for name, module in model.named_modules() if isinstance(module, Router)}
    return {name: bias for name, bias in biases.items() if bias is not None}


def learned_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """All that training changes, by name."""
    return {**trained_parameters(model), **router_biases(model)}


def adapter_size(model: PeftModel) -> int:
    """The number of weights of the active adapter; buffers, which nothing trains by its gradient, are none."""
    weights = get_peft_model_state_dict(model, dict(model.named_parameters()), save_embedding_layers=False)
    return sum(tensor.numel() for tensor in weights.values())


def parameter_counts(model: Model) -> dict[str, int]:
    """Trained parameters and all parameters; of an adapter all weights count, also those frozen in MoA's stage 2."""
    trained = sum(map(count_weights, trained_parameters(model).values()))
    if isinstance(model, PeftModel) and model.device.type != "meta":
        trained = adapter_size(model)
    return {"trainable": trained, "total": sum(map(count_weights, model.parameters()))}
