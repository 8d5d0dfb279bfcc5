"""Draw the table of a finished run as an SVG: ``python scripts/picture.py RUN docs/images/run.svg``."""

import io
import json
import re
import sys
from pathlib import Path

from rich.console import Console

from mosld.runs.tables import results_table


def main() -> None:
    """Read train.log, without times and speed, and results.json; write the picture."""
    run, target = Path(sys.argv[1]), Path(sys.argv[2])
    results = json.loads((run / "results.json").read_text())
    console = Console(record=True, width=120, file=io.StringIO(), highlight=False)
    console.print("$ python -m mosld.train method=mosld data=mixture")
    for logged in (run / "train.log").read_text(encoding="utf-8").splitlines():
        line = re.sub(r"^[\d-]+ [\d:]+  | +\d+ tokens/s$", "", logged)
        if re.match(r"trainable|kept|training \d*[05]0/", line):
            console.print(line, markup=False)
    console.print(results_table(results))
    svg = re.sub(r"@font-face {.*?}\n", "", console.export_svg(title="mosld"), flags=re.DOTALL)  # fetches no font
    target.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
