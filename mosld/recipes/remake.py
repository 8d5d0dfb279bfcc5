"""A damaged adapter, made again from the best weights among the checkpoints."""

import torch

from mosld.adapters.adapt import adapt_with
from mosld.adapters.load import trained_parameters
from mosld.common.errors import UserError
from mosld.config.schema import ModelConfig
from mosld.distributed.processes import processes
from mosld.models.load import load_model
from mosld.recipes.save import save_trained
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.runs.saved import SavedRun
from mosld.training.tensor_files import SavedTensors


def remake_adapter(model_config: ModelConfig, run: SavedRun, console: Console) -> None:
    """Write adapter/ again if `run` says from what; the main process does it for all.

    Raises:
        UserError: the weights do not fit, or the directory cannot be written.
    """
    group = processes()
    if run.best is not None and group.main:
        config = run.config()
        base, tokenizer = load_model(model_config)
        adapted = adapt_with(base, config.method, config.allocation, config.seed)
        saved = SavedTensors(run.best, "weights")
        parameters = trained_parameters(adapted)
        if saved.shapes() != {name: parameter.shape for name, parameter in parameters.items()}:
            raise UserError(f"{run.best}: holds the weights of another model or method.")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved.read(name))
        directory = RunDirectory(run.root)
        try:
            save_trained(adapted, tokenizer, config, directory, directory.finished() or {}, console)
        except OSError as error:
            raise UserError(f"{run.weights}: cannot be written: {error.strerror or error}.") from error
        console.say(f"{run.weights} was damaged; it is made again from {run.best}")
    if run.best is not None:
        group.barrier()
