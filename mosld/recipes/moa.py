"""MoA's two stages (Feng et al. 2024): a LoRA for each task, each on its own rows; then one mixture of them all."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from mosld.adapters.moa import extend_from, freeze_experts, load_experts
from mosld.common.files import damage, write_folder
from mosld.config.schema import Config
from mosld.distributed.processes import processes
from mosld.recipes.context import Stages
from mosld.runs.directory import RunDirectory
from mosld.tracking.tracker import NoTracker


def adapt_domains(stages: Stages, model: Any, run: RunDirectory) -> Any:
    """Stage 1, then the mixture of all experts on the model, its routers still untrained.

    An expert that an interrupted run has finished is taken from the run directory.
    """
    method = stages.config.method
    own = [method.add_task] if method.add_task else [d for d in method.domains or [] if d not in method.experts_from]
    folders = {task: Path(folder) for task, folder in method.experts_from.items()}
    for task in own:
        if processes().broadcast(any(damage(run.expert(task).adapter))):
            model = _train_expert(stages, task, len(method.domains or own), model, run.expert(task))
        folders[task] = run.expert(task).adapter
    mixture = stages.adapt(model)
    if method.from_run:
        extend_from(mixture, Path(method.from_run))
    load_experts(mixture, folders)
    if method.add_task or not method.train_experts:
        freeze_experts(mixture)
    return mixture


def _train_expert(stages: Stages, task: str, count: int, model: Any, run: RunDirectory) -> Any:
    """Train one task's LoRA and save it; returns the model without it."""
    stages.console.say(f"stage 1: the expert of {task}")
    config = expert_config(stages.config, task, count)
    alone = replace(stages.dataset, tasks={task: stages.dataset.tasks[task]})
    single = Stages(config, alone, stages.tokenizer, stages.console, stages.stop)
    stepper = single.make_stepper(single.adapt(model), model.dtype)
    run.path.mkdir(parents=True, exist_ok=True)
    single.make_loop(stepper, run, NoTracker()).run()
    stepper.engine.close()

    def write(folder: Path) -> None:
        """A LoRA like any other: eval, chat and merge accept it."""
        stepper.model.save_pretrained(folder)
        (folder / "config.yaml").write_text(yaml.safe_dump(asdict(config), sort_keys=False))

    write_folder(run.adapter, write)
    processes().broadcast(None)  # all wait until it is written
    return stepper.model.unload()


def expert_config(config: Config, task: str, count: int) -> Config:
    """The run's config for one of `count` experts: a LoRA on one task, with its share of the steps."""
    method = replace(
        config.method, name="lora", kind="lora", router=None, share=None, domains=None, experts_from={},
        from_run=None, add_task=None,
    )  # fmt: skip
    steps = config.training.max_steps
    training = replace(config.training, max_steps=None if steps is None else math.ceil(steps / count))
    return replace(config, method=method, training=training, data=replace(config.data, tasks=[task]))
