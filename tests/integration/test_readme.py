"""The README's table has every method."""

import re
from pathlib import Path

from mosld.config.groups import group_options

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_table_has_every_method():
    own = [name for name in group_options()["method"] if not name.endswith("_authors")]
    assert re.findall(r"^\| `(\w+)`", README, flags=re.M) == own
