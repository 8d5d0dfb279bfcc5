"""Rows by set, split and source, as a run sees them: the official splits, held-out validation, test items in train.

    python benchmarks/data_counts.py [--root DIR] [--json FILE]

Counted are the bundled rows, and those below --root; nothing is fetched, so the hub is not counted.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from side_by_side import report

from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import load_dataset
from mosld.data.tasks import TASKS


def counted(source: SourceConfig) -> Iterator[dict[str, Any]]:
    """A line for each set that the source has."""
    for name, task in TASKS.items():
        if source.root and not (Path(source.root) / name).is_dir():
            continue
        dataset = load_dataset(DataConfig(tasks=[name]), source, training=task.trained)
        leaks = (dataset.leaks or {}).get(name)
        yield {
            "set": task.title,
            "source": source.name,
            **{split: f"{count:,}" if count else "" for split, count in dataset.counts()[name].items()},
            "test items in train": "" if leaks is None else str(leaks),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="<task>/<split>.jsonl of each task")
    parser.add_argument("--json", help="write the table to this file")
    given = parser.parse_args()
    sources = [SourceConfig(name="bundled")]
    sources += [SourceConfig(name="local", root=given.root)] if given.root else []
    report("Rows by set, split and source", [row for source in sources for row in counted(source)], given.json)


if __name__ == "__main__":
    main()
