"""What a mixture loses as a plain LoRA: accuracy of runs token-routed, and of the LoRAs that `mosld.export` makes.

    python benchmarks/export_cost.py RUN... --state DIR [--root DIR] [--rows 1000] [--json FILE]

Of each run: its own scores; as=lora per=task, each LoRA on its task; as=lora, one for all tasks; the mean gates over
train rows in place of the gates of each token; the untrained base. All are scored on the run's own test items. A row
is the mean of a method's runs over tasks and seeds. Differences to the token-routed scores are paired by item; the
interval is a bootstrap over the items of each task, so it holds for these seeds.

Scoring takes about as long as six evaluations of the run. What is scored lies in DIR, and the same command goes on
there.
"""

import argparse
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from side_by_side import report
from torch import Tensor, nn

from mosld.adapters.layers import MixtureFeedForward
from mosld.adapters.moa import mixtures_of
from mosld.common.files import read_json, write_folder
from mosld.config.schema import Config
from mosld.data.dataset import load_dataset
from mosld.data.splits import sample
from mosld.data.tokens.encoding import encode_train
from mosld.evaluation.forward import context_length
from mosld.exporting.plain_lora import checked, expert_update, write_lora
from mosld.recipes.context import RunContext
from mosld.recipes.evaluate import evaluate_run
from mosld.recipes.export import Export, export_run
from mosld.recipes.load import load_trained
from mosld.recipes.request import check_evaluation
from mosld.reporting.compare import Predictions
from mosld.reporting.run import Run
from mosld.reporting.significance import bootstrap_means, percentile_interval
from mosld.runs.console import Console
from mosld.runs.model_card import base_reference
from mosld.runs.saved import SavedRun, saved_run
from mosld.training.batching import bucket_by_length, pad_batch

ROUTED = "token-routed"
VARIANTS = ("fitted per task", "fitted for all", "mean gates")
RESAMPLES = 10_000
BATCH_ROWS = 8

Correct = dict[str, dict[str, dict[str, bool]]]
"""By variant and task, whether each test item is answered right, by its id."""


def measure(run: SavedRun, config: Config, rows: int, state: Path) -> Correct:
    """Export a run in each form, and score what is not in `state` yet."""
    tasks = config.data.tasks
    lora = partial(Export, run, config, "lora", rows=rows)
    forms = {
        VARIANTS[0]: lambda folder: export_run(lora(folder, per_task=True)),
        VARIANTS[1]: lambda folder: export_run(lora(folder)),
        VARIANTS[2]: lambda folder: export_mean_gates(run, config, rows, state / VARIANTS[1], folder),
    }
    correct: Correct = {ROUTED: {task: answers(run.path, task) for task in tasks}}
    for variant, export in forms.items():
        folder = state / variant
        if not folder.exists():
            export(folder)
        correct[variant] = {}
        for task in tasks:
            scored = state / "scored" / variant / task
            if not (scored / "results.json").is_file():
                directory = folder / task if variant == VARIANTS[0] else folder
                overrides = [f"data.tasks=[{task}]", "evaluation.base=false", f"source.root={config.source.root}"]
                evaluate_run(check_evaluation(str(directory), overrides), str(scored))
            correct[variant][task] = answers(scored, task)
    return correct


def answers(scored: Path, task: str) -> dict[str, bool]:
    """Whether each item of a task is right, from the results and predictions in a directory."""
    predictions = Predictions()
    correct = predictions.correct(Run(scored, read_json(scored / "results.json") or {}), task)
    if correct is None:
        raise SystemExit(f"{scored}: {predictions.problems}")
    return correct


def export_mean_gates(run: SavedRun, config: Config, count: int, fitted: Path, target: Path) -> None:
    """A plain LoRA with the mean gates of each layer over `count` train rows; the config is that of the fitted one."""
    model, tokenizer = load_trained(replace(config.model, dtype="float32"), run)
    assert isinstance(model, PeftModel)
    dataset = load_dataset(config.data, config.source)
    context = RunContext(config, dataset, tokenizer, Console(), context_length(model))
    share = -(-count // len(dataset.tasks))
    rows = [row for task in dataset.tasks.values() for row in sample(task.train, share, "gates")]
    examples = encode_train(rows, context.encoder, tokenizer.eos_token_id, config.data.too_long).examples
    batches = [pad_batch(batch, tokenizer.pad_token_id) for batch in bucket_by_length(examples, BATCH_ROWS, BATCH_ROWS)]
    updates = checked(dict(mean_updates(model, mean_gates(model, batches))))
    base = model.base_model.unload()

    def write(folder: Path) -> None:
        for name in ("config.yaml", "rows.json"):
            shutil.copy(fitted / name, folder / name)
        write_lora(updates, base, *base_reference(config.model), torch.float32, folder)

    write_folder(target, write)


@torch.no_grad()
def mean_gates(model: PeftModel, batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean gates [E] of each routed layer or block over the real tokens of these rows."""
    sums: dict[str, Tensor] = {}
    tokens = 0
    real_BS = torch.empty(0)

    def hook(key: str, _: nn.Module, __: object, outputs: Any) -> None:
        sums[key] = sums.get(key, 0) + outputs[1].gates_BSE[real_BS].double().sum(0)

    routed = {key: mixture for key, mixture in mixtures_of(model).items() if mixture.router is not None}
    modules = routed | dict(mixture_blocks(model))
    handles = [module.register_forward_hook(partial(hook, key)) for key, module in modules.items()]
    for batch in batches:
        real_BS = batch["attention_mask"].bool()
        tokens += int(real_BS.sum())
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], logits_to_keep=1)
    for handle in handles:
        handle.remove()
    return {key: (total / tokens).float() for key, total in sums.items()}


def mean_updates(model: PeftModel, gates: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """A and B of ``(alpha / r) sum_i g_i B_i A_i`` of every layer, its gates [E] being constant."""
    banks = {key: (mixture, gates.get(key, torch.ones(1))) for key, mixture in mixtures_of(model).items()}
    for key, block in mixture_blocks(model):
        banks |= {f"{key}.{name}_proj": (getattr(block, name), gates[key]) for name in ("gate", "up", "down")}
    for key, (bank, gates_E) in banks.items():
        As, Bs = zip(*(expert_update(bank, i) for i in range(bank.experts)), strict=True)
        weighted = [gate * B for gate, B in zip(gates_E, Bs, strict=True)]
        if bank.config.share == "A":
            yield key, (As[0], torch.stack(weighted).sum(0))
        else:
            yield key, (torch.cat(As), torch.cat(weighted, dim=1))


def mixture_blocks(model: PeftModel) -> Iterator[tuple[str, nn.Module]]:
    """The feed-forward blocks of MixLoRA."""
    for layer in model.modules():
        if isinstance(layer, MixtureFeedForward):
            yield layer.key, layer.mosld_mixture[model.active_adapter]


def summary(method: str, runs: Sequence[tuple[dict[str, Any], Correct]]) -> dict[str, Any]:
    """The line of a method: mean accuracies in per cent, and differences to the token-routed scores in points."""
    items = {task: list(scored) for task, scored in runs[0][1][ROUTED].items()}
    by_variant = {
        variant: [
            np.array([[correct[variant][task][item] for item in ids] for _, correct in runs], dtype=np.float64).mean(0)
            for task, ids in items.items()
        ]
        for variant in (ROUTED, *VARIANTS)
    }
    row: dict[str, Any] = {"method": method, "seeds": len(runs)}
    row |= {variant: f"{100 * np.mean([one.mean() for one in tasks]):.1f}" for variant, tasks in by_variant.items()}
    untrained = [results["base_average"] for results, _ in runs if "base_average" in results]
    row["untrained"] = f"{100 * np.mean(untrained):.1f}" if untrained else "-"
    for variant in VARIANTS:
        differences = [a - b for a, b in zip(by_variant[variant], by_variant[ROUTED], strict=True)]
        means_D = np.mean(
            [bootstrap_means(one[:, None], RESAMPLES, i)[:, 0] for i, one in enumerate(differences)], axis=0
        )
        low, high = percentile_interval(means_D)
        mean = np.mean([one.mean() for one in differences])
        row[f"{variant} - routed"] = f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return row


def main() -> None:
    """Measure every run, print a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="finished runs of mixtures, of one set of tasks")
    parser.add_argument("--state", type=Path, required=True, help="where exports and scores are kept")
    parser.add_argument("--root", help="where the runs' local data lies, if not where it did")
    parser.add_argument("--rows", type=int, default=1000, help="train rows of a fit, and of the mean gates")
    parser.add_argument("--json", help="write the figures to this file")
    flags = parser.parse_args()
    by_method: dict[str, list[tuple[dict[str, Any], Correct]]] = defaultdict(list)
    for directory in flags.runs:
        run = saved_run(directory)
        config = run.config([f"source.root={flags.root}"] if flags.root else [])
        state = flags.state / run.path.resolve().name
        state.mkdir(parents=True, exist_ok=True)
        results = read_json(run.path / "results.json") or {}
        by_method[config.method.name].append((results, measure(run, config, flags.rows, state)))
    rows = [summary(method, runs) for method, runs in by_method.items()]
    report("Accuracy in per cent, mean over tasks and seeds; differences in points (95 % interval)", rows, flags.json)


if __name__ == "__main__":
    main()
