"""README: its tree names every file, its table has every method."""

import re
from pathlib import Path

from mosld.config.groups import group_options

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_tree_names_every_file_of_the_package():
    tree = README[README.index("## Tree") :]
    files = [path for path in (ROOT / "mosld").rglob("*.py") if "bundled" not in path.parts]
    missing = [path for path in files if path.name != "__init__.py" and path.name not in tree]
    assert missing == []


def test_the_table_has_every_method():
    own = [name for name in group_options()["method"] if not name.endswith("_authors")]
    assert re.findall(r"^\| `(\w+)`", README, flags=re.M) == own
