"""Hydra with the options of the package's `conf/` and, behind them, of the user's directories."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from mosld.config.options import config_directory, own_directories


class OwnDirectories(SearchPathPlugin):
    """Lets Hydra search the user's directories after the package's, whose config.yaml it takes."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """What Hydra calls before each composition."""
        for directory in own_directories():
            search_path.append("mosld", f"file://{directory}")


@cache
def _register() -> None:
    """Let Hydra search the user's directories from now on; it imports all its plugins for that."""
    Plugins.instance().register(OwnDirectories)


@contextmanager
def hydra_initialized() -> Iterator[None]:
    """Let Hydra compose configs."""
    _register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        yield
