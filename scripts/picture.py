"""Draw the table of a finished run as an SVG: ``python scripts/picture.py RUN docs/images/run.svg``."""

import io
import json
import re
import sys
from pathlib import Path

from rich.console import Console

from mosld.runs.tables import results_table


def main() -> None:
    """Read results.json, write the picture."""
    run, target = Path(sys.argv[1]), Path(sys.argv[2])
    results = json.loads((run / "results.json").read_text())
    console = Console(record=True, width=120, file=io.StringIO(), highlight=False)
    console.print("$ python -m mosld.train method=mosld data=mixture")
    for line in (run / "train.log").read_text().splitlines():
        told = line.startswith(("trainable", "step", "kept"))
        if told or re.match(r"training \d*[05]0/", line):
            console.print(line, markup=False)
    console.print(results_table(results))
    minutes = results["seconds"] / 60
    console.print(f"{minutes:.1f} minutes on two CPU cores, {results['parameters']['trainable']:,} weights trained")
    svg = re.sub(r"@font-face {.*?}\n", "", console.export_svg(title="mosld"), flags=re.DOTALL)  # fetches no font
    target.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
