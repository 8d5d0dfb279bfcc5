"""The tables that Zhao et al. 2025 print, each beside what our runs gave, with averages computed again."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import yaml

from mosld.reporting.blocks import Block, Row
from mosld.reporting.compare import scores_power_note
from mosld.reporting.run import Run, group_by, sort_tasks
from mosld.reporting.table import NO_VALUE, Cell, Table
from mosld.reporting.tables import AVERAGE, accuracies_of, accuracy_cell

TITLE = "beside the paper (Zhao et al. 2025)"
FACTS = (
    "A printed average with † is not that of its row, as the note below its table says.",
    "Ours: runs on published rows with the same model, method, rank and data; - no such run.",
)
SOURCE_NOTE = "{}: ours on {} data. Only scores on published data can be compared with the paper's."
# Rows of a table that does not say another rank (section 4.3).
RANK = 8
# Printed averages have two decimals; the last bit is for sums in floating point.
ROUNDING = 0.005 + 1e-9


class PaperRow(TypedDict):
    """Scores of one method as printed, in per cent; `data` is "single" or the name of a mixture."""

    model: str
    method: str
    data: str
    rank: NotRequired[int]
    scores: dict[str, float]
    average: NotRequired[float]


class PaperScores(TypedDict):
    """A table of scores."""

    number: int
    title: str
    errata: NotRequired[list[str]]
    rows: list[PaperRow]


class WeightsRow(TypedDict):
    """Trained weights of some methods as printed, and what is meant."""

    model: str
    methods: list[str]
    printed: str
    weights: int


class PaperWeights(TypedDict):
    """The table of trained weights."""

    number: int
    title: str
    errata: list[str]
    rows: list[WeightsRow]


class PaperNumbers(TypedDict):
    """The content of paper.yaml."""

    tables: list[PaperScores]
    weights: PaperWeights


def paper_numbers() -> PaperNumbers:
    """The content of paper.yaml."""
    return yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text(encoding="utf-8"))


def paper_tables(blocks: Sequence[Block], numbers: PaperNumbers) -> list[Table]:
    """Every table of the paper, in its order, with the rows of `blocks` that repeat one of its rows."""
    tables = {table["number"]: _scores_table(table, blocks) for table in numbers["tables"]}
    tables[numbers["weights"]["number"]] = _weights_table(numbers["weights"], blocks)
    return [tables[number] for number in sorted(tables)]


def _scores_table(paper: PaperScores, blocks: Sequence[Block]) -> Table:
    columns = [*sort_tasks(task for row in paper["rows"] for task in row["scores"]), AVERAGE]
    rows: list[list[Cell]] = []
    notes = [f"† {text}" for text in paper.get("errata", [])]
    for printed in paper["rows"]:
        method = f"{printed['method']} rank={printed['rank']}" if "rank" in printed else printed["method"]
        what = [Cell(method), Cell(printed["model"]), Cell(printed["data"])]
        mean = sum(printed["scores"].values()) / len(printed["scores"])
        average = printed.get("average")
        contradicted = average is not None and abs(mean - average) > ROUNDING
        rows.append([*what, Cell("paper"), *_printed(printed, columns, contradicted)])
        if contradicted:
            notes.append(f"† {method}, {printed['model']}, {printed['data']}: the average of its row is {mean:.2f}.")
        ours = list(_ours(printed, blocks))
        for block, row in ours:
            cells = [_accuracy(row, list(printed["scores"]), column) for column in columns]
            rows.append([*what, Cell(f"ours, {row.name}"), *cells])
            notes += [SOURCE_NOTE.format(block.title, block.run.source)] if block.run.source != "hub" else []
            if power := scores_power_note(block, []):
                notes.append(f"{block.title}: {power}.")
        if not ours:
            rows.append([*what, Cell("ours"), *[NO_VALUE] * len(columns)])
    title = f"table {paper['number']}: {paper['title']}"
    return Table(title, ["method", "model", "data", "whose", *columns], rows, [*FACTS, *dict.fromkeys(notes)])


def _printed(row: PaperRow, columns: Sequence[str], contradicted: bool) -> list[Cell]:
    numbers = {**row["scores"], **({AVERAGE: row["average"]} if "average" in row else {})}
    marks = {AVERAGE: " †"} if contradicted else {}
    return [
        Cell(f"{numbers[column]:.2f}{marks.get(column, '')}", numbers[column]) if column in numbers else NO_VALUE
        for column in columns
    ]


def _ours(printed: PaperRow, blocks: Sequence[Block]) -> Iterator[tuple[Block, Row]]:
    """The rows of our runs that repeat a row of the paper; bundled rows are others than the paper's."""
    for block in blocks:
        run = block.run
        alone = printed["data"] == "single"
        if run.results["model"] != printed["model"] or run.source == "bundled" or run.trained_on is not None:
            continue
        if alone != block.single_tasks or not (alone or run.data == printed["data"]):
            continue
        for row in block.rows:
            rank = row.run.config.get("method.rank")
            if row.run.method == printed["method"] and rank in (None, printed.get("rank", RANK)):
                yield block, row


def _accuracy(row: Row, tasks: Sequence[str], column: str) -> Cell:
    runs = row.all_runs if column == AVERAGE else row.task_runs(column)
    return accuracy_cell(accuracies_of(row, tasks, column), runs)


def _weights_table(paper: PaperWeights, blocks: Sequence[Block]) -> Table:
    ours: dict[tuple[str, str], list[Run]] = {}
    for row in (row for block in blocks for row in block.rows):
        if row.run.config.get("method.rank") in (None, RANK) and row.run.trained_weights is not None:
            ours.setdefault((row.run.results["model"], row.run.method), []).append(row.run)
    rows = []
    for printed in paper["rows"]:
        weights = printed["weights"]
        theirs = Cell(f"{weights:,} (printed {printed['printed']} †)", weights)
        for method in printed["methods"]:
            by_count = group_by(ours.get((printed["model"], method), []), lambda run: run.trained_weights or 0)
            pairs = [
                [Cell(f"{count:,}", count, runs=runs), Cell(f"{count - weights:+,}", count - weights)]
                for count, runs in by_count.items()
            ]
            rows += [[Cell(method), Cell(printed["model"]), theirs, *pair] for pair in pairs or [[NO_VALUE, NO_VALUE]]]
    title = f"table {paper['number']}: {paper['title']}"
    columns = ["method", "model", "paper", "ours", "ours - paper"]
    return Table(title, columns, rows, [f"† {text}" for text in paper["errata"]])
