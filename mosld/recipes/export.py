"""Write what a run trained for other software: load, fit where no LoRA is exact, write."""

import dataclasses
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
import yaml
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mosld.adapters.load import Model, base_model_of
from mosld.common.errors import UserError
from mosld.common.files import write_folder, write_json, write_text
from mosld.common.process import silence_libraries
from mosld.config.groups import method_config
from mosld.config.schema import Config
from mosld.data.dataset import Dataset, load_dataset
from mosld.data.rows import AnyRow
from mosld.data.splits import sample
from mosld.data.tokens.encoding import encode_train
from mosld.evaluation.forward import context_length
from mosld.exporting.fitted_lora import Batch, fit_updates
from mosld.exporting.gguf_lora import check_architecture, write_gguf
from mosld.exporting.plain_lora import (
    VLLM_RANK,
    Updates,
    add_to_base,
    checked,
    expert_updates,
    lora_updates,
    rank_of,
    write_lora,
)
from mosld.exporting.standalone import write_standalone
from mosld.models.load import DTYPES, resolve_dtype
from mosld.recipes.context import RunContext
from mosld.recipes.load import load_trained
from mosld.runs.console import Console
from mosld.runs.model_card import GGUF_FILE, base_reference, write_exported_card
from mosld.runs.record import whole_results
from mosld.runs.saved import SavedRun
from mosld.training.batching import bucket_by_length, pad_batch

PROBE = "Question: What do plants need to grow?\nAnswer:"
BATCH_ROWS = 8
AS_IT_IS = "It is the mixture itself: every token has its own sum of experts."
# For each five rows of the fit one unseen row: of validation, or where there is none, every fifth of the train rows.
HELD_OUT = 5


@dataclass(frozen=True)
class Export:
    """What is exported, as what, and where to.

    Attributes:
        form: "model", "lora", "merged" or "gguf".
        per_task: fit one LoRA for each task, each in a directory of its name, and not one for all.
        rank: the largest rank of a fitted LoRA; None: the experts' own where they share A, else at least `VLLM_RANK`.
        rows: train rows to fit on.
        dtype: of a LoRA's weights, float32 or bfloat16; a model has that of the config.
    """

    run: SavedRun
    config: Config
    form: str
    output: Path
    per_task: bool = False
    rank: int | None = None
    rows: int = 1000
    dtype: str = "float32"

    @property
    def by_expert(self) -> bool:
        """Whether each expert is a LoRA by itself (MoA)."""
        return self.config.method.router == "domain"

    @property
    def fitted(self) -> bool:
        """Whether the method is no LoRA, and the nearest one is fitted."""
        return self.form != "model" and self.config.method.kind == "mixture" and not self.by_expert

    @property
    def largest_rank(self) -> int:
        """The largest rank of a fitted LoRA."""
        method = self.config.method
        return self.rank or (method.rank if method.share in ("A", "both") else max(method.rank, VLLM_RANK))


@dataclass(frozen=True)
class PlainLora:
    """One LoRA to write.

    Attributes:
        name: of its directory; "" where there is one alone.
        fact: how it was made, for the card.
    """

    name: str
    updates: Updates
    fact: str


def export_run(export: Export) -> None:
    """Write the directory.

    Raises:
        UserError: the weights or the rows cannot be had, or the directory cannot be written.
    """
    silence_libraries()
    console = Console()
    dataset = load_dataset(export.config.data, export.config.source) if export.fitted else None
    # Fits and sums are computed in float32 and rounded once.
    dtype = export.config.model.dtype if export.form == "model" else "float32"
    adapted, tokenizer = load_trained(replace(export.config.model, dtype=dtype), export.run, console)
    assert isinstance(adapted, PeftModel)
    base = base_model_of(adapted)
    if export.form == "gguf":
        check_architecture(base.config.get_text_config().model_type)
    loras, probe = [PlainLora("", {}, AS_IT_IS)], None
    if export.form != "model":
        loras = _plain_loras(export, adapted, tokenizer, dataset, console)
        probe = _probe(adapted, tokenizer)
        base = cast(PreTrainedModel, adapted.base_model.unload())  # type: ignore[operator]
    try:
        for lora in loras:
            target = export.output.resolve() / lora.name
            target.parent.mkdir(parents=True, exist_ok=True)
            model: Model = adapted if export.form == "model" else base
            if probe is not None and export.form == "merged":
                # Of several LoRAs, each is added to the same base.
                copied = deepcopy(base) if len(loras) > 1 else base
                model = _merge(export, copied, tokenizer, lora, probe, console)
            with console.working(f"writing {export.output / lora.name}"):
                write_folder(target, partial(_write_files, export, model, tokenizer, lora), prose=("README.md",))
    except OSError as error:
        raise UserError(f"output={export.output}: cannot be written: {error.strerror or error}.") from error
    if export.form == "merged":
        console.say("next", f"python -m mosld.eval run={export.output / loras[0].name}")


def _plain_loras(
    export: Export,
    adapted: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset | None,
    console: Console,
) -> list[PlainLora]:
    """What the adapter is as one plain LoRA, or as several; says what a fit costs and what rank vLLM has to be told."""
    method = export.config.method
    if export.by_expert:
        domains = enumerate(method.domains or [])
        fact = "It is the expert of {}, exactly; the choice of the expert is left to each request."
        loras = [PlainLora(name, checked(expert_updates(adapted, i)), fact.format(name)) for i, name in domains]
    elif dataset:
        context = RunContext(export.config, dataset, tokenizer, console, context_length(adapted))
        groups = {name: [name] for name in dataset.tasks} if export.per_task else {"": list(dataset.tasks)}
        loras = [_fit(export, adapted, context, name, tasks) for name, tasks in groups.items()]
    else:
        loras = [PlainLora("", checked(lora_updates(adapted)), "")]
    rank = max(rank_of(lora.updates) for lora in loras)
    if rank > VLLM_RANK and export.form == "lora":
        limit = 1 << (rank - 1).bit_length()
        console.say(f"rank {rank}: start vLLM with --max-lora-rank {limit} (its default is {VLLM_RANK})")
    return loras


def _fit(export: Export, adapted: PeftModel, context: RunContext, name: str, tasks: Sequence[str]) -> PlainLora:
    """The LoRA that is nearest to the mixture on rows of these tasks."""
    train = _some_rows(context.dataset, tasks, "train", export.rows)
    unseen = _some_rows(context.dataset, tasks, "validation", max(1, export.rows // HELD_OUT))
    if not unseen:
        train, unseen = [row for i, row in enumerate(train) if i % HELD_OUT], train[::HELD_OUT]
    with context.console.working(f"fitting {name}".strip()):
        train_batches, unseen_batches = (_batches(context, rows, adapted.device) for rows in (train, unseen))
        updates, errors = fit_updates(adapted, train_batches, unseen_batches, export.largest_rank)
    updates = checked(updates)
    mean = sum(errors.values()) / max(len(errors), 1)
    worst = max(errors, key=errors.__getitem__, default="")
    error = (
        f"on {len(unseen)} unseen rows its updates differ from the mixture's by {mean:.3f} of their size "
        f"(the mean of {len(errors)} layers; at most {errors.get(worst, 0):.3f}, {worst})"
    )
    fact = f"a LoRA of rank {rank_of(updates)}, fitted to the mixture on {len(train)} train rows of {', '.join(tasks)}"
    context.console.say(f"{fact}: {error}")
    return PlainLora(name, updates, f"It is {fact}; {error}.")


def _some_rows(dataset: Dataset, tasks: Sequence[str], split: str, count: int) -> list[AnyRow]:
    """At most about `count` rows of a split, of each task its share."""
    by_task = [getattr(dataset.tasks[task], split) for task in tasks]
    total = sum(map(len, by_task))
    return [row for rows in by_task for row in sample(rows, -(-count * len(rows) // max(total, 1)), "export")]


def _batches(context: RunContext, rows: Sequence[AnyRow], device: torch.device) -> list[Batch]:
    """The rows with their answers, as they are trained on."""
    tokenizer = context.tokenizer
    encoded = encode_train(rows, context.encoder, tokenizer.eos_token_id, context.config.data.too_long)
    if not encoded.examples:
        raise UserError(f"data.tasks={context.config.data.tasks}: no row to fit on fits into its task's cutoff.")
    padded = [
        pad_batch(batch, tokenizer.pad_token_id) for batch in bucket_by_length(encoded.examples, BATCH_ROWS, BATCH_ROWS)
    ]
    return [{key: batch[key].to(device) for key in ("input_ids", "attention_mask")} for batch in padded]


def _merge(
    export: Export,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lora: PlainLora,
    probe: torch.Tensor,
    console: Console,
) -> PreTrainedModel:
    """The base with the LoRA in its weights; says how far its logits are from those of the adapter."""
    with console.working("merging"):
        merged = add_to_base(base, lora.updates)
        difference = (_probe(merged, tokenizer) - probe).abs().max().item()
        torch.nn.Module.to(merged, resolve_dtype(export.config.model.dtype))
    dtype = str(merged.dtype).removeprefix("torch.")
    console.say(f"merged in float32 (on a probe, logits differ by {difference:.1g} at most), written in {dtype}")
    return merged


def _write_files(
    export: Export,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    lora: PlainLora,
    folder: Path,
) -> None:
    """The files of one directory."""
    form, run = export.form, export.run
    dtype = str(model.dtype).removeprefix("torch.")
    if form == "model":
        assert isinstance(model, PeftModel)
        write_standalone(model, tokenizer, folder)
    elif form == "merged":
        model.save_pretrained(str(folder))
        tokenizer.save_pretrained(folder)
    elif form == "lora":
        dtype = export.dtype
        write_lora(lora.updates, model, *base_reference(export.config.model), DTYPES[dtype], folder)
    else:
        write_gguf(lora.updates, model.config.get_text_config(), export.output.name, folder / GGUF_FILE)
    if form in ("lora", "merged"):
        _write_config(export, lora, folder)
    results = None if run.seal.fault(run.path / "results.json") else whole_results(run.path / "results.json")
    name = run.path.resolve().name
    write_exported_card(folder, export.config, results, form, lora.fact, export.output.resolve().name, name, dtype)


def _write_config(export: Export, lora: PlainLora, folder: Path) -> None:
    """The config by which mosld.eval and chat read the directory, and which rows the run was trained on."""
    config = export.config
    if config.method.kind != "lora":
        rank = rank_of(lora.updates)
        targets = "ffn" if config.method.targets == "block" else config.method.targets
        method, _ = method_config("lora", None, {"rank": rank, "alpha": float(rank), "targets": targets})
        config = replace(config, method=method)
    if record := export.run.record():
        write_json(folder / "rows.json", record.tree())
    write_text(folder / "config.yaml", yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))


@torch.inference_mode()
def _probe(model: Model, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """The logits of a short text, to see that the merged model computes the same."""
    ids_BS = tokenizer(PROBE, return_tensors="pt").input_ids.to(model.device)
    return model(input_ids=ids_BS).logits.float()
