"""The typed config: composed by Hydra, checked whole before anything heavy is imported."""

from mosld.config.cache import cache_directory
from mosld.config.compose import load_config
from mosld.config.errors import UserError, nearest
from mosld.config.groups import config_directory, group_options
from mosld.config.identity import identity, run_directory
from mosld.config.method import AllocationConfig, MethodConfig
from mosld.config.rerun import require_run, rerun_config
from mosld.config.schema import (
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    SourceConfig,
    TrainingConfig,
)

__all__ = [
    "AllocationConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "MethodConfig",
    "ModelConfig",
    "SourceConfig",
    "TrainingConfig",
    "UserError",
    "cache_directory",
    "config_directory",
    "group_options",
    "identity",
    "load_config",
    "nearest",
    "require_run",
    "rerun_config",
    "run_directory",
]
