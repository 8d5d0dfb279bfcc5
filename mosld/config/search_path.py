"""Where Hydra looks for the files of options: the package's `conf/`, then the user's directories."""

from functools import cache

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from mosld.config.options import own_directories


class OwnDirectories(SearchPathPlugin):
    """Lets Hydra search the user's directories after the package's, whose config.yaml it takes."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """What Hydra calls before each composition."""
        for directory in own_directories():
            search_path.append("mosld", f"file://{directory}")


@cache
def search_own_directories() -> None:
    """Let Hydra search the user's directories from now on; it imports all its plugins for that."""
    Plugins.instance().register(OwnDirectories)
