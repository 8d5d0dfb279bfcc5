"""MoA's two stages (Feng et al. 2024): one LoRA per task, trained on its own rows; then one mixture of them all."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import yaml
from peft import LoraModel, PeftModel
from transformers import PreTrainedModel

from mosld.adapters.load import Model
from mosld.adapters.moa import extend_from, freeze_experts, load_experts
from mosld.config.schema import Config
from mosld.distributed.processes import processes
from mosld.recipes.context import RunContext, add_adapter, make_loop, prepare
from mosld.recipes.save import save_adapter
from mosld.runs.directory import RunDirectory
from mosld.training.signals import StopSignals


def add_task_experts(context: RunContext, model: Model, run: RunDirectory, stop: StopSignals) -> Model:
    """Stage 1, then the mixture of all experts on the model, its routers still untrained.

    An expert that an interrupted run finished is read from the run directory.
    """
    method = context.config.method
    if context.config.init_from:
        trained = []  # all experts come from there
    elif method.add_task:
        trained = [method.add_task]
    else:
        trained = [task for task in method.domains or [] if task not in method.experts_from]
    folders = {}
    for task in trained:
        expert = run.expert(task)
        if processes().broadcast(any(run.seal.folder_faults(expert.adapter))):
            context.console.say(f"stage 1: the expert of {task}")
            config = expert_config(context.config, task, len(method.domains or trained))
            dataset = replace(context.dataset, tasks={task: context.dataset.tasks[task]})
            model = _train_expert(replace(context, config=config, dataset=dataset), model, expert, stop)
        folders[task] = expert.adapter
    mixture = add_adapter(context, model)
    assert isinstance(mixture, PeftModel)
    if method.from_run:
        extend_from(mixture, Path(method.from_run))
    load_experts(mixture, folders)
    if method.add_task or not method.train_experts:
        freeze_experts(mixture)
    return mixture


def _train_expert(context: RunContext, model: Model, run: RunDirectory, stop: StopSignals) -> Model:
    """Train one task's LoRA and save it; returns the model without it."""
    stepper, examples = prepare(context, model)
    run.path.mkdir(parents=True, exist_ok=True)
    make_loop(context, stepper, examples, run, stop).run()
    stepper.engine.close()
    adapted = stepper.model
    assert isinstance(adapted, PeftModel)
    assert isinstance(adapted.base_model, LoraModel)

    def write(folder: Path) -> None:
        # The same files as those of a LoRA run: eval, chat and merge accept them.
        save_adapter(adapted, context.config.model, folder)
        (folder / "config.yaml").write_text(yaml.safe_dump(asdict(context.config), sort_keys=False))

    run.seal.write_folder(run.adapter, write)
    processes().barrier()
    return cast("PreTrainedModel", adapted.base_model.unload())


def expert_config(config: Config, task: str, count: int) -> Config:
    """The run's config for one of `count` experts: a LoRA on one task, with its share of the steps."""
    method = replace(
        config.method, name="lora", kind="lora", router=None, share=None, domains=None, experts_from={},
        from_run=None, add_task=None,
    )  # fmt: skip
    steps = config.training.max_steps
    training = replace(config.training, max_steps=None if steps is None else math.ceil(steps / count))
    return replace(config, method=method, training=training, data=replace(config.data, tasks=[task]))
