"""Draw docs/images/architecture.svg from the import rule in docs/explanation/architecture.md.

    python scripts/architecture_picture.py

Run it after a change of the rule.
"""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
WIDTH = 720
BOX_HEIGHT = 44
LAYER_GAP = 26
BOX_GAP = 16
MARGIN = 20
CAPTIONS = {
    "commands": "train, eval, chat, export, report, inspect, plan, dashboard",
    "sweeps": "many runs",
    "recipes": "the work of a command",
    "planning": "memory, FLOPs, hours",
    "training": "loop, step, checkpoints",
    "evaluation": "likelihood, generation",
    "analysis": "what experts learned",
    "exporting": "for other software",
    "adapters": "the PEFT plugin",
    "tracking": "Weights & Biases",
    "reporting": "tables, figures",
    "models": "base, attention",
    "runs": "files of a run",
    "data": "rows, prompts",
    "distributed": "process group, FSDP2",
    "config": "schema, checks",
    "common": "errors, files",
}


def layers() -> list[list[str]]:
    """The packages of each layer, lowest first, as the page's rule has them."""
    page = (DOCS / "explanation" / "architecture.md").read_text(encoding="utf-8")
    rule = re.search(r"^common <.*$", page, flags=re.MULTILINE)
    assert rule, "docs/explanation/architecture.md has no line that begins with 'common <'"
    return [[name.strip() for name in layer.split(",")] for layer in rule[0].split("<")]


def box(name: str, left: float, top: float, width: float) -> str:
    """One package: its name, and what it holds."""
    middle = left + width / 2
    caption = CAPTIONS.get(name, "").replace("&", "&amp;")
    return (
        f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{BOX_HEIGHT}" rx="6" class="box"/>'
        f'<text x="{middle:.0f}" y="{top + 19}" class="name">{name}</text>'
        f'<text x="{middle:.0f}" y="{top + 35}" class="caption">{caption}</text>'
    )


def arrow(top: float) -> str:
    """An arrow from a layer down to the one below it."""
    middle, end = WIDTH / 2, top + LAYER_GAP - 3
    return (
        f'<line x1="{middle}" y1="{top + 3}" x2="{middle}" y2="{end - 7}" class="line"/>'
        f'<path d="M {middle - 5} {end - 8} L {middle + 5} {end - 8} L {middle} {end} Z" class="head"/>'
    )


def picture() -> str:
    """The SVG: the highest layer on top, an arrow for "imports"."""
    parts = []
    top = MARGIN
    rows = layers()[::-1]
    for names in rows:
        width = (WIDTH - 2 * MARGIN - (len(names) - 1) * BOX_GAP) / len(names)
        parts += [box(name, MARGIN + i * (width + BOX_GAP), top, width) for i, name in enumerate(names)]
        top += BOX_HEIGHT
        if names != rows[-1]:
            parts.append(arrow(top))
            top += LAYER_GAP
    height = top + MARGIN
    style = (
        ".box{fill:#eef2fb;stroke:#3f51b5}.line{stroke:#3f51b5;stroke-width:1.5}.head{fill:#3f51b5}"
        "text{font-family:sans-serif;text-anchor:middle;fill:#1a237e}.name{font-size:15px;font-weight:bold}"
        ".caption{font-size:11px;fill:#444}"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
            "<title>The packages of mosld in layers: each layer imports only layers below it</title>",
            f"<style>{style}</style>",
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
            *parts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    (DOCS / "images" / "architecture.svg").write_text(picture(), encoding="utf-8")
