"""Loading a saved adapter, with every fault of its files named before a score is computed from half an adapter."""

from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open

from mosld.config import UserError

WEIGHTS = "adapter_model.safetensors"


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
        adapted = PeftModel.from_pretrained(model, str(folder))
        with safe_open(folder / WEIGHTS, "pt") as file:
            saved = set(file.keys())
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines()
        raise UserError(f"{folder}: is damaged or belongs to another base model: {' '.join(reason[:2])}") from error
    expected = set(get_peft_model_state_dict(adapted))
    if saved != expected:
        odd = sorted(saved ^ expected)
        raise UserError(f"{folder}: is damaged: {len(odd)} weights are missing or unknown, the first: {odd[0]}")
    return adapted
