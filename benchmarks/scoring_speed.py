"""Items per second of letter and cloze scoring beside lm-evaluation-harness, on the same model, rows and dtype.

    python benchmarks/scoring_speed.py --root DIR [--model smollm2_135m] [--dtype float32] [--limit 100]
        [--prompts letter,cloze,shots] [--batch-sizes 1,4,8,16,32] [--rounds 3] [--json FILE]

Both tokenise and score the same rows, in turns, in one process; the harness at each batch size, of which the fastest
counts. Figures are medians over the rounds; the ratio is the median of the rounds' own ratios, by the clock and of
processor time, which holds where others use the processor, too. Beside it stands the ratio of the operations of all
matrix products, counted: what a processor gives that does nothing else but them. The harness's time is that of its
`loglikelihood` alone, without building requests and metrics. Letters are CommonsenseQA, whose task file there has the
same prompt; cloze is ARC-Easy; shots is MMLU by letters with five solved examples, whole subjects, put as the harness
puts it. Needs the extra `lm-eval`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM
from rich import print as show
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from mosld.common.process import silence_libraries
from mosld.config.compose import load_config
from mosld.data.rows import AnyRow
from mosld.data.splits import TaskData, sample
from mosld.data.subjects import subject_of
from mosld.data.tokens.prompts import Encoded, PromptEncoder
from mosld.evaluation.correctness import likeliest, likeliest_per_character
from mosld.evaluation.forward import scoring_mode
from mosld.evaluation.lm_eval.build import group_on_subjects, task_manager, task_on_rows
from mosld.evaluation.lm_eval.tasks import TASK_MAPPINGS, load_rows
from mosld.evaluation.multiple_choice import score_choices
from mosld.recipes.load import load_base_model

KINDS = {  # the harness's task, the aim of the ratio
    "letter": ("commonsense_qa", 2.5),
    "cloze": ("arc_easy", 3.5),
    "shots": ("mmlu", 2.5),
}
SHOTS = 5
Chosen = list[tuple[int, int]]  # of each item the option that is likeliest as a whole, and per character


class Contest:
    """One prompt format: own scoring and the harness's on the same rows."""

    def __init__(self, style: str, data: TaskData, limit: int, model: Any, tokenizer: Any, batch_tokens: int) -> None:
        """Have the harness build its requests, which is not timed."""
        self.style, self.model, self.tokenizer, self.batch_tokens = style, model, tokenizer, batch_tokens
        name = KINDS[style][0]
        if style == "shots":
            self.rows: list[Any] = of_some_subjects(data.test, limit)
            self.tasks = group_on_subjects(name, task_manager([name]), self.rows, data.examples, SHOTS).get_all_tasks()
        else:
            self.rows = sample(data.test, limit, "test")
            self.tasks = [task_on_rows(name, task_manager([name]), {"test": self.rows})]
        for task in self.tasks:
            task.set_config("num_fewshot", SHOTS if style == "shots" else 0)
            task.build_all_requests()
        self.requests = [request for task in self.tasks for request in task.instances]

    def ours(self) -> Chosen:
        """From rows to predictions, as every run does it; the harness's own prompts where ours have other words."""
        if self.style == "shots":
            encoded = self._as_there()
        else:
            encoded = PromptEncoder(self.tokenizer, self.style).encode(self.rows)
        predictions = score_choices(self.model, encoded, self.tokenizer.pad_token_id, self.batch_tokens)
        return [(one.prediction, one.normalised if self.style == "cloze" else one.prediction) for one in predictions]

    def _as_there(self) -> list[Encoded]:
        texts = iter([request.args for request in self.requests])
        encoded = []
        for row in self.rows:
            prompts, options = zip(*(next(texts) for _ in row.choices), strict=True)
            tokens = self.tokenizer([prompts[0], *options], add_special_tokens=False).input_ids
            encoded.append(Encoded(row, tokens[0], tokens[1:]))
        return encoded

    def harness(self, batch_size: int) -> Chosen:
        """The harness's likelihoods of all options."""
        lm = HFLM(pretrained=self.model, tokenizer=self.tokenizer, batch_size=batch_size)
        with scoring_mode(self.model):
            scores = iter([score for score, _ in lm.loglikelihood(self.requests, disable_tqdm=True)])
        chosen = []
        for row in self.rows:
            own = [next(scores) for _ in row.choices]
            best = likeliest(own)
            chosen.append((best, likeliest_per_character(own, row.choices) if self.style == "cloze" else best))
        return chosen


def of_some_subjects(rows: Sequence[AnyRow], limit: int) -> list[AnyRow]:
    """Sixteen questions of each subject, of subjects evenly over the alphabet: a whole set has a hundred of each."""
    subjects = sorted({subject_of(row.id) for row in rows})
    count = -(-limit // 16)
    chosen = subjects[:: len(subjects) // count][:count]
    return [row for subject in chosen for row in [row for row in rows if subject_of(row.id) == subject][:16]][:limit]


def timed(work: Callable[[], Chosen]) -> tuple[tuple[float, float], Chosen]:
    """Seconds by the clock and of the processor, and the result."""
    started = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - started[0], time.process_time() - started[1]), result


def operations(work: Callable[[], Chosen]) -> int:
    """Floating-point operations of its matrix products."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def measure(contest: Contest, sizes: list[int], rounds: int) -> dict[str, Any]:
    """Both in turns; the first round warms up and is not counted."""
    seconds: dict[int, list[tuple[float, float]]] = {size: [] for size in (0, *sizes)}  # 0: own scoring
    for _ in range(rounds + 1):
        chosen = {}
        for size in seconds:
            used, chosen[size] = timed(lambda size=size: contest.harness(size) if size else contest.ours())  # type: ignore[misc]
            seconds[size].append(used)
    medians = {size: statistics.median(clock for clock, _ in rounds_of[1:]) for size, rounds_of in seconds.items()}
    best = min(sizes, key=medians.__getitem__)
    pairs = list(zip(seconds[0][1:], seconds[best][1:], strict=True))
    ratios, of_processor = ([theirs[kind] / ours[kind] for ours, theirs in pairs] for kind in (0, 1))
    items = len(contest.rows)
    return {
        "prompt": contest.style,
        "task": KINDS[contest.style][0],
        "items": items,
        "items_per_second": items / medians[0],
        "harness_items_per_second": {size: items / medians[size] for size in sizes},
        "harness_best_batch_size": best,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "processor_ratio": statistics.median(of_processor),
        "operations_ratio": operations(lambda: contest.harness(best)) / operations(contest.ours),
        "aim": KINDS[contest.style][1],
        "agreeing": sum(a == b for a, b in zip(chosen[0], chosen[best], strict=True)),
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="<task>/test.jsonl of arc_e, <task>/validation.jsonl of csqa")
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--prompts", default="letter,cloze,shots", help="letter, cloze, shots")
    parser.add_argument("--limit", type=int, default=100, help="items of each prompt format")
    parser.add_argument("--batch-sizes", default="1,4,8,16,32", help="of the harness")
    parser.add_argument("--batch-tokens", type=int, default=1024, help="of own scoring")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write the figures to this file")
    given = parser.parse_args()
    silence_libraries()
    styles = given.prompts.split(",")
    config = load_config(
        [f"model={given.model}", f"model.dtype={given.dtype}", "source=local", f"source.root={given.root}"]
    )
    dataset = load_rows([KINDS[style][0] for style in styles], config.source, SHOTS)
    assert dataset is not None  # the source is local
    model, tokenizer = load_base_model(config.model)
    sizes = [int(size) for size in given.batch_sizes.split(",")]
    contests = []
    for style in styles:
        data = dataset.tasks[TASK_MAPPINGS[KINDS[style][0]].task]
        contest = Contest(style, data, given.limit, model, tokenizer, given.batch_tokens)
        contests.append(measure(contest, sizes, given.rounds))
    dtype = str(model.dtype).removeprefix("torch.")
    table = Table(title=f"{given.model}, {dtype}, {given.limit} items, {given.rounds} rounds")
    for column in (
        "prompt",
        "items/s",
        "harness items/s (batch)",
        "ratio (min, max)",
        "of processor time",
        "of operations",
        "aim",
        "agreeing",
    ):
        table.add_column(column, justify="right")
    for one in contests:
        best = one["harness_best_batch_size"]
        theirs = f"{one['harness_items_per_second'][best]:.2f} ({best})"
        spread = f"{one['ratio']:.2f} ({min(one['ratios']):.2f}, {max(one['ratios']):.2f})"
        agreeing = f"{one['agreeing']} of {one['items']}"
        ratios = [spread, f"{one['processor_ratio']:.2f}", f"{one['operations_ratio']:.2f}", f"{one['aim']:.1f}"]
        table.add_row(one["prompt"], f"{one['items_per_second']:.2f}", theirs, *ratios, agreeing)
    show(table)
    if given.json:
        figures = {"model": given.model, "dtype": dtype, "contests": contests}
        Path(given.json).parent.mkdir(parents=True, exist_ok=True)
        Path(given.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
