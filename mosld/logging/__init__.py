"""What a run writes and shows: its directory, metrics, results and the console."""

from mosld.logging.config_tree import read_config_tree
from mosld.logging.console import Console
from mosld.logging.metrics import MetricsLog
from mosld.logging.results import Results
from mosld.logging.results_table import results_table
from mosld.logging.run_directory import RunDirectory
from mosld.logging.saved_run import SavedRun, saved_run

__all__ = [
    "Console",
    "MetricsLog",
    "Results",
    "RunDirectory",
    "SavedRun",
    "read_config_tree",
    "results_table",
    "saved_run",
]
