"""The typed config: composed by Hydra, checked whole before anything heavy is imported."""

from mosld.config.cache import cache_directory
from mosld.config.compose import load_config
from mosld.config.errors import UserError, nearest
from mosld.config.groups import config_directory, group_options
from mosld.config.identity import identity, run_directory
from mosld.config.method import AllocationConfig, MethodConfig
from mosld.config.rerun import EvalArguments, eval_arguments, rerun_config
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
    "EvalArguments",
    "EvaluationConfig",
    "MethodConfig",
    "ModelConfig",
    "SourceConfig",
    "TrainingConfig",
    "UserError",
    "cache_directory",
    "config_directory",
    "eval_arguments",
    "group_options",
    "identity",
    "load_config",
    "nearest",
    "rerun_config",
    "run_directory",
]
