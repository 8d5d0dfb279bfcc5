"""Training end to end on real rows, beside transformers' Trainer with PEFT's LoRA: rows a second and share of the peak.

    python benchmarks/end_to_end.py [--data DIR] [--batch-size 16] [--trainer-sizes 2,4,8,16] [--json FILE]
    python benchmarks/end_to_end.py --model llama2_7b --layers 32 --length 1024   # random weights and tokens

Same model, dtype, rows in the same order, rows a step, and AdamW for all. Trainer runs once for each of its batch sizes
(it accumulates up to the batch); ours before and after each. The peak is that of a large matrix product of the model's
type, measured in the same run. Useful operations are those of the products with frozen weights for tokens that are no
pads, forward and backward (4 a weight and token), and of the head at answer positions; Trainer is granted the same.
"""

import statistics
import tempfile
from typing import Any

from peft import LoraConfig, get_peft_model
from side_by_side import DEVICE, arguments, clock, matrix_peak, report
from torch.utils.data import SequentialSampler
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments, default_data_collator
from wide_layers import add_model, model_and_steps, shared_copy, stepper, useful_operations

from mosld.common.process import silence_libraries
from mosld.data.tokens.encoding import Example

IGNORED = -100


class InOrder(Trainer):
    """Takes the rows as they lie."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(train_dataset or self.train_dataset)


class Times(TrainerCallback):
    """The seconds of every optimiser step."""

    def __init__(self) -> None:
        """None yet."""
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.started = clock()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop it."""
        self.seconds.append(clock() - self.started)


def trainer_seconds(base: Any, collate: Any, examples: list[Example], batch: int, size: int) -> list[float]:
    """Seconds of each of Trainer's steps at `size` rows a forward pass."""
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    labelled = [
        {"input_ids": e.tokens, "labels": [IGNORED] * e.answer_start + e.tokens[e.answer_start :]} for e in examples
    ]
    times = Times()
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, per_device_train_batch_size=size, gradient_accumulation_steps=batch // size, report_to=[],
            max_steps=len(examples) // batch, learning_rate=1e-4, save_strategy="no", logging_strategy="no",
            use_cpu=DEVICE.type == "cpu", disable_tqdm=True, dataloader_pin_memory=DEVICE.type == "cuda",
        )  # fmt: skip
        InOrder(get_peft_model(shared_copy(base), lora), settings, collate, labelled, callbacks=[times]).train()
    return times.seconds[1:]


def main() -> None:
    parser = arguments(__doc__)
    add_model(parser)
    parser.add_argument("--data", help="a directory as for source=local; without it the bundled rows")
    parser.add_argument("--tasks", default="obqa,csqa,arc_e,arc_c")
    parser.add_argument("--methods", default="lora,mosld", help="ours; +compile compiles")
    parser.add_argument("--batch-size", type=int, default=16, help="rows of an optimiser step")
    parser.add_argument("--trainer-sizes", default="2,4,8,16", help="Trainer's rows of a forward pass")
    flags = parser.parse_args()
    silence_libraries()
    source = ["source=local", f"source.root={flags.data}", "source.on_bad_row=skip"] if flags.data else []
    base, tokenizer, steps = model_and_steps(flags, flags.batch_size, f"data.tasks=[{flags.tasks}]", *source)
    pad = tokenizer.pad_token_id if tokenizer else 0
    collate = DataCollatorForSeq2Seq(tokenizer) if tokenizer else default_data_collator
    where = flags.tasks if tokenizer else f"{flags.length} random tokens a row"
    ours = {}
    for case in flags.methods.split(","):
        method, plain = case.removesuffix("+compile"), {"dropout": 0.0, "dropout_on": "none"}
        options = plain if method == "lora" else {}
        ours[case] = stepper(base, method, pad, case.endswith("+compile"), **options)

    peaks, rates = [matrix_peak(base.dtype)], dict[str, list[float]]()

    def take(name: str, seconds: list[float]) -> None:
        """Keep the rows a second of some steps."""
        rates.setdefault(name, []).extend(flags.batch_size / duration for duration in seconds)

    def run_ours() -> None:
        """All steps with every method of ours."""
        for case, taken in ours.items():
            durations = []
            for number, examples in enumerate(steps):
                started = clock()
                taken.step(examples, flags.batch_size, 1e-4, number)
                durations.append(clock() - started)
            take(f"mosld: {case}", durations[1:])

    run_ours()
    for size in [int(part) for part in flags.trainer_sizes.split(",")]:
        every = [example for step in steps for example in step]
        seconds = trainer_seconds(base, collate, every, flags.batch_size, size)
        take(f"Trainer: lora, {size} a pass", seconds)
        peaks.append(matrix_peak(base.dtype))
        run_ours()

    peak = statistics.median(peaks)
    needed = statistics.mean(useful_operations(base, step) for step in steps[1:]) / flags.batch_size
    best = max(statistics.median(rate) for name, rate in rates.items() if name.startswith("Trainer"))
    lines = []
    for name, rows_per_second in rates.items():
        rate = statistics.median(rows_per_second)
        line = {"what": name, "rows/s": rate, "to Trainer's best": rate / best, "share of peak": rate * needed / peak}
        lines.append(line)
    tokens = statistics.mean(len(example.tokens) for step in steps[1:] for example in step)
    title = f"Training {flags.model} ({str(base.dtype)[6:]}) on {where}, {flags.batch_size} rows a step"
    report(title, lines, flags.json, matrix_peak=peak, mean_tokens_a_row=tokens, useful_operations_a_row=needed)


if __name__ == "__main__":
    main()
