"""Where things that are made once are kept."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """``$MOSLD_CACHE``, else ``$XDG_CACHE_HOME/mosld``, else ``~/.cache/mosld``."""
    named = os.environ.get("MOSLD_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mosld"
