"""What a mixture of domains (MoA) is made of, checked in the files before a model loads."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mosld.config.data import DataConfig
from mosld.config.errors import nearest, typed
from mosld.config.method import MethodConfig


def with_domains(method: MethodConfig, tasks: list[str]) -> MethodConfig:
    """The method with its domains named (the data's tasks, or those of a run and one more) and its paths absolute."""
    domains = method.domains
    if domains is None and method.from_run and method.add_task:
        domains = [*(adapter_config(Path(method.from_run)).get("domains") or []), method.add_task]
    return replace(
        method,
        domains=list(tasks if domains is None else domains),
        from_run=str(adapter_folder(Path(method.from_run))) if method.from_run else None,
        experts_from={task: str(adapter_folder(Path(place))) for task, place in method.experts_from.items()},
    )


def adapter_folder(place: Path) -> Path:
    """The directory of an adapter: the one named, or adapter/ below it where a run was named."""
    inside = place / "adapter"
    return (inside if (inside / "adapter_config.json").is_file() else place).resolve()


def adapter_config(place: Path) -> dict[str, Any]:
    """The adapter_config.json of an adapter or a run; empty if there is none."""
    try:
        return json.loads((adapter_folder(place) / "adapter_config.json").read_text())
    except (OSError, ValueError):
        return {}


def broken_domain_rules(method: MethodConfig, data: DataConfig) -> Iterator[str]:
    """What cannot work in a mixture of domains: a task without an expert, an adapter that is none."""
    if method.router != "domain":
        return
    domains = with_domains(method, data.tasks).domains or []
    for task, place in method.experts_from.items():
        if task not in domains:
            yield f"method.experts_from: {task} is no expert here; {nearest(task, domains)}"
        elif adapter_config(Path(place)).get("peft_type") != "LORA":
            yield f"method.experts_from: {place} holds no LoRA adapter (adapter_config.json with peft_type LORA)."
    if method.from_run and method.add_task:
        yield from _broken_addition(method, method.from_run, method.add_task)
    without = [task for task in data.tasks if task not in domains]
    unread = method.from_run and method.add_task and not adapter_config(Path(method.from_run)).get("domains")
    if without and not unread:
        lack = f"{', '.join(without)} without an expert"
        yield f"data.tasks={typed(data.tasks)}: {lack}; the experts: {', '.join(domains)}."
    # Stage 1 trains what is not given, on the task's own rows.
    trained = [method.add_task] if method.add_task else [d for d in domains if d not in method.experts_from]
    missing = [task for task in trained if task and task not in data.tasks]
    if missing:
        tasks = typed([*data.tasks, *missing])
        yield f"data.tasks={typed(data.tasks)}: has no rows for the new experts; set data.tasks={tasks}."


def _broken_addition(method: MethodConfig, run: str, task: str) -> Iterator[str]:
    before = adapter_config(Path(run))
    if before.get("router") != "domain":
        yield f"method.from_run={run}: holds no finished mixture of domains (method=moa)."
    elif task in (before.get("domains") or []):
        yield f"method.add_task={task}: {run} has an expert of that name already."
    elif (before.get("r"), before.get("alpha")) != (method.rank, method.alpha):
        yield (
            f"method.from_run={run}: has rank {before.get('r')} and alpha {before.get('alpha')}; "
            "set method.rank and method.alpha to these."
        )
