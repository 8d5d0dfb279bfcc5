"""Draw the lines and the table of a finished run as an SVG.

    python -m mosld.train method=mosld data=mixture
    python scripts/picture.py outputs/mixture/smollm2_135m/mosld-... docs/images/run.svg

A test draws a short run of the tiny model and compares its words with those of docs/images/run.svg: draw that anew when
the test says so.
"""

import io
import json
import re
import sys
from pathlib import Path

from rich.console import Console

from mosld.runs.tables import results_table

# A line of train.log, without its time and without its speed, which tells what else the machine did.
LINE = re.compile(r"[\d-]+ [\d:]+  ((?:trainable|step|kept|training \d*[05]0/).*?)(?:  \d+ tokens/s)?")


def main() -> None:
    """Read results.json and train.log, write the picture."""
    run, target = Path(sys.argv[1]), Path(sys.argv[2])
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    console = Console(record=True, width=120, file=io.StringIO(), highlight=False)
    console.print("$ python -m mosld.train method=mosld data=mixture")
    for line in (run / "train.log").read_text(encoding="utf-8").splitlines():
        if shown := LINE.fullmatch(line):
            console.print(shown[1], markup=False)
    console.print(results_table(results))
    svg = re.sub(r"@font-face {.*?}\n", "", console.export_svg(title="mosld"), flags=re.DOTALL)  # fetches no font
    target.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
