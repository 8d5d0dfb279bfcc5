"""What the tests read in README.md, CONTRIBUTING.md and docs/: blocks of code, marked or not, and commands in text."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = "<!-- run -->"  # the line before a block; readers of the page do not see it
COMMAND = re.compile(r"-m mosld\.(\w+)([^#\n`;|<>]*)")


@dataclass(frozen=True)
class Block:
    """A block of code in a page.

    Attributes:
        page: the file.
        line: where it begins, from 1.
        language: as its fence says; bash where it is indented.
        text: its lines.
        marked: whether it is to be run.
    """

    page: Path
    line: int
    language: str
    text: str
    marked: bool


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in their order, fenced or indented by four spaces (not: the lines of a list)."""
    lines = page.read_text().splitlines()
    found, i = list[Block](), 0
    while i < len(lines):
        start, before = i, lines[i - 1].strip() if i else ""
        if lines[i].startswith("```"):
            language = lines[i].strip("` ")
            i = next(end for end in range(i + 1, len(lines)) if lines[end].startswith("```"))
            text = lines[start + 1 : i]
        elif lines[i].startswith("    ") and before in ("", MARK):
            while i + 1 < len(lines) and lines[i + 1].startswith("    "):
                i += 1
            language, text = "bash", [line[4:] for line in lines[start : i + 1]]
        else:
            i += 1
            continue
        found.append(Block(page, start + 1, language, "\n".join(text) + "\n", before == MARK))
        i += 1
    return found


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Every `-m mosld.<command> arguments` of a page, in its blocks and in its text, without placeholders `key=...`."""
    text = page.read_text()
    for name, value in re.findall(r'^ *([A-Z])="(.*)"$', text, flags=re.M):
        text = text.replace(f"${name}/", f"{value}/").replace(f"${name} ", f"{value} ")
    found = []
    for name, rest in COMMAND.findall(text):
        rest = rest.strip()
        arguments = shlex.split(rest.removesuffix('"') if rest.count('"') % 2 else rest)
        found.append((name, [given for given in arguments if not re.fullmatch(r"(\w+=)?\.\.\.", given)]))
    return found
