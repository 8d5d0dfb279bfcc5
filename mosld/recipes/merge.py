"""The stages of `mosld.merge`: load, add up, write."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
from mosld.runs.saved import SavedRun

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE = "Question: What do plants need to grow?\nAnswer:"

CARD = """---
library_name: transformers
{base_model}tags:
- mosld
- lora
---
# {name}

{model} with a LoRA (rank {rank}, alpha {alpha:g}) merged into its weights: a stand-alone model. The LoRA was trained by
mosld on {data} ({tasks}; source {source}), seed {seed}.
Run: `{run}`. Type of the weights: {dtype}.
{scores}
## Loading

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("path/to/this/directory")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")
```

Score it: `python -m mosld.eval run=path/to/this/directory`
"""


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

    def write(folder: Path) -> None:
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_text(folder / "config.yaml", yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
        write_text(folder / "README.md", _card(config, run, output, dtype))

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with console.working(f"writing {output}"):
            write_folder(output.resolve(), write, prose=("README.md",))
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written: {error.strerror or error}.") from error
    console.say(f"merged in float32 (on a probe, logits differ by {difference:.1g} at most), written in {dtype}")
    console.say(f"next: python -m mosld.eval run={output}")


@torch.inference_mode()
def _probe(model: "PreTrainedModel | PeftModel", tokenizer: Any) -> torch.Tensor:
    """The logits of a short text, to see that the merged model computes the same."""
    ids_BS = tokenizer(PROBE, return_tensors="pt").input_ids.to(model.device)
    return model(input_ids=ids_BS).logits.float()


def _card(config: Config, run: SavedRun, output: Path, dtype: str) -> str:
    model, method = config.model, config.method
    return CARD.format(
        base_model=f"base_model: {model.hub}\n" if model.hub else "",
        name=output.resolve().name,
        model=model.hub or model.name,
        rank=method.rank,
        alpha=method.alpha,
        data=config.data.name,
        tasks=", ".join(config.data.tasks),
        source=config.source.name,
        seed=config.seed,
        run=run.path.resolve().name,
        dtype=dtype,
        scores=_scores(config, run),
    )


def _scores(config: Config, run: SavedRun) -> str:
    """The run's own scores as a table; nothing where its results are not beside the weights."""
    try:
        results = json.loads((run.path / "results.json").read_text())
        rows = [
            f"| {task} | {100 * score['accuracy']:.1f} ± {100 * score['stderr']:.1f} | {score['n']} |"
            for task, score in results["scores"].items()
        ]
    except (OSError, ValueError, KeyError):
        return ""
    head = f"\nScores of base + adapter before merging:\n\n| task | accuracy (prompt {config.prompt}) | items |"
    return "\n".join([head, "|---|---|---|", *rows, ""])
