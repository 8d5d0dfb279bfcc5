"""Merge a plain LoRA into its base: load, add, write."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import yaml
from peft import LoraModel, PeftModel

from mosld.common.errors import UserError
from mosld.common.files import write_folder, write_text
from mosld.common.process import silence_libraries
from mosld.config.schema import Config
from mosld.models.load import resolve_dtype
from mosld.recipes.load import load_trained
from mosld.runs.console import Console
from mosld.runs.model_card import write_merged_card
from mosld.runs.record import whole_results
from mosld.runs.saved import SavedRun

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBE = "Question: What do plants need to grow?\nAnswer:"


def merge_adapter(config: Config, run: SavedRun, output: Path) -> None:
    """Merge a LoRA into its base in float32, compare the logits of a probe, and write the model to `output`.

    Raises:
        UserError: the weights cannot be had, or the directory cannot be written.
    """
    silence_libraries()
    console = Console()
    adapted, tokenizer = load_trained(replace(config.model, dtype="float32"), run, console)
    assert isinstance(adapted, PeftModel)
    assert isinstance(adapted.base_model, LoraModel)
    with console.working("merging"):
        before = _probe(adapted, tokenizer)
        merged = cast("PreTrainedModel", adapted.base_model.merge_and_unload(safe_merge=True))
        difference = (_probe(merged, tokenizer) - before).abs().max().item()
        torch.nn.Module.to(merged, resolve_dtype(config.model.dtype))
    dtype = str(merged.dtype).removeprefix("torch.")
    results = whole_results(run.path / "results.json")

    def write(folder: Path) -> None:
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_text(folder / "config.yaml", yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
        write_merged_card(folder, config, results, output.resolve().name, run.path.resolve().name, dtype)

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with console.working(f"writing {output}"):
            write_folder(output.resolve(), write, prose=("README.md",))
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written: {error.strerror or error}.") from error
    console.say(f"merged in float32 (on a probe, logits differ by {difference:.1g} at most), written in {dtype}")
    console.say(f"next: python -m mosld.eval run={output}")


@torch.inference_mode()
def _probe(model: "PreTrainedModel | PeftModel", tokenizer: "PreTrainedTokenizerBase") -> torch.Tensor:
    """The logits of a short text, to see that the merged model computes the same."""
    ids_BS = tokenizer(PROBE, return_tensors="pt").input_ids.to(model.device)
    return model(input_ids=ids_BS).logits.float()
