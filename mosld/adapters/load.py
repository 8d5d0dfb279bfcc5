"""Loading a saved adapter, with every fault of its files named before a score is computed from half an adapter."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mosld.common.errors import UserError
from mosld.models.quantization import weights_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"


def base_model_of(model: "PreTrainedModel | PeftModel") -> "PreTrainedModel":
    """The transformers model under an adapter, or the model itself."""
    return cast("PreTrainedModel", model.get_base_model() if isinstance(model, PeftModel) else model)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Trainable and total parameters; all weights of an adapter count, those frozen in its last stage too."""
    trainable = sum(map(weights_of, trained_parameters(model).values()))
    if isinstance(model, PeftModel) and model.device.type != "meta":
        trainable = adapter_size(model)
    return {"trainable": trainable, "total": sum(map(weights_of, model.parameters()))}


def adapter_size(model: PeftModel) -> int:
    """The number of weights of the active adapter: what was trained."""
    return sum(tensor.numel() for tensor in get_peft_model_state_dict(model).values())


def load_adapter(model: Any, folder: Path) -> PeftModel:
    """Put the adapter in `folder` on its base model.

    Raises:
        UserError: the files are damaged, incomplete, of another base model, or a pickle.
    """
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder}: {WEIGHTS} is missing (pickled weights are not loaded).")
    try:
        with warnings.catch_warnings():  # what is missing is an error here, said once
            warnings.simplefilter("ignore", UserWarning)
            adapted = PeftModel.from_pretrained(model, str(folder))
        saved = load_file(folder / WEIGHTS)
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines()
        raise UserError(f"{folder}: is damaged or belongs to another base model: {' '.join(reason[:2])}") from error
    loaded = get_peft_model_state_dict(adapted)
    odd = sorted(saved.keys() ^ loaded.keys())
    if odd:
        raise UserError(f"{folder}: is damaged: {len(odd)} weights are missing or unknown, the first: {odd[0]}")
    # PEFT only warns of a key that it could not place: a layer would keep its random start.
    lost = [name for name, tensor in saved.items() if not torch.equal(tensor, loaded[name].cpu().to(tensor.dtype))]
    if lost:
        raise UserError(f"{folder}: {len(lost)} weights could not be put in their place, the first: {lost[0]}")
    return adapted
