"""Rules that join several keys of a method: combinations that cannot work, and keys that would say nothing."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mosld.common.errors import nearest, typed
from mosld.config.schema import AllocationConfig, DataConfig, MethodConfig

# PART: Rules that join several keys of a method: combinations that cannot work, and keys that would say nothing.


COMMON = {"name", "kind", "own_learning_rate", "balance_weight"}
MIXED = {
    "rank", "alpha", "share", "targets", "plain_targets", "experts", "init", "dropout", "dropout_on", "router",
    "router_init", "top_k", "balance",
}  # fmt: skip
CAPACITY = {"capacity_factor", "gate_dropout"}
DOMAIN = {
    "domains", "pool", "inference", "router_weight", "train_experts", "experts_from", "from_run", "add_task",
}  # fmt: skip
MEANINGFUL = {
    "full": COMMON,
    "prefix": COMMON | {"virtual_tokens"},
    "lora": COMMON | {"rank", "alpha", "targets", "init", "dropout", "dropout_on"},
    "mixture": COMMON | MIXED,
}
"""The keys of each kind of method; `CAPACITY` and `DOMAIN` belong to mixtures with that router."""

OFF = {"router": None, "top_k": None, "share": None, "balance": "none"}
"""How these keys say that there is none; all others say it by their default."""

OVERLAP = {
    "none": set[str](),
    "qv": {"qv", "attention", "all"},
    "attention": {"qv", "attention", "all"},
    "ffn": {"ffn", "all", "block"},
}
"""The `targets` that share a layer with each of the `plain_targets`."""

INSTEAD = {
    "full": "trains the model's own weights and has no adapter",
    "prefix": "learns keys and values before each layer (method.virtual_tokens) and adapts no weight",
    "lora": "has one expert and no router; use method=mosl or method=mosld",
    "mixture": "has no use for it; see docs/reference/methods.md for what each router and kind reads",
}


def experts_of(method: MethodConfig, allocation: AllocationConfig) -> int | list[int]:
    """The number of experts: the method's own, or the allocation's."""
    return allocation.experts if method.experts is None else method.experts


def own_number(given: str, method: MethodConfig) -> str:
    """What to say to someone who chooses an allocation for a method with a number of its own."""
    return (
        f"{given}: {method.name} has its own number of experts (method.experts={typed(method.experts)}); set that, or "
        "add method.experts=null to use the allocation."
    )


def check_method(method: MethodConfig, allocation: AllocationConfig) -> list[str]:
    """What in a method, alone or with an allocation, cannot work."""
    found = list(_meaningless(method))
    name = method.name
    if method.dropout and method.dropout_on == "none":
        usual = "x" if method.kind == "lora" else "A (as mosld does)"
        found.append(
            f"method.dropout={method.dropout:g}: {name} drops nothing; "
            f"set method.dropout_on={usual} or leave method.dropout at 0."
        )
    if method.kind == "lora" and method.dropout_on not in ("x", "none"):
        found.append(f"method.dropout_on={method.dropout_on}: {name} drops elements of its input x alone.")
    if method.kind == "lora" and method.targets == "block":
        found.append(f"method.targets=block: {name} adapts single layers; use ffn.")
    if method.kind == "lora" and method.init == "normal":
        found.append(f"method.init=normal: {name} is PEFT's own; use kaiming or gaussian.")
    return [*found, *_mixture(method, allocation)] if method.kind == "mixture" else found


def _meaningless(method: MethodConfig) -> Iterator[str]:
    read = MEANINGFUL[method.kind]
    if method.kind == "mixture":
        read = read | (CAPACITY if method.router == "capacity" else set())
        read = read | (DOMAIN if method.router == "domain" else set())
    defaults = MethodConfig()
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        if field.name not in read and value != OFF.get(field.name, getattr(defaults, field.name)):
            yield f"method.{field.name}={typed(value)}: {method.name} (method.kind={method.kind}) {_instead(method)}."


def _instead(method: MethodConfig) -> str:
    router = f" with router {method.router}" if method.kind == "mixture" else ""
    return router.strip() + " " * bool(router) + INSTEAD[method.kind]


def _mixture(method: MethodConfig, allocation: AllocationConfig) -> Iterator[str]:
    if method.router is None or method.share is None:
        yield f"method={method.name}: method.router and method.share must be given."
        return
    if method.top_k is None and method.router in ("topk", "capacity"):
        yield f"method.top_k=null: router {method.router} chooses method.top_k experts."
    if method.router == "dense" and method.top_k is None and method.balance != "none":
        yield f"method.balance={method.balance}: every token takes every expert; there is nothing to balance."
    if method.targets == "block" and method.router == "domain":
        yield "method.targets=block: a router by domain needs single layers; use ffn."
    if method.targets in OVERLAP[method.plain_targets]:
        yield (
            f"method.plain_targets={method.plain_targets}: overlaps method.targets={method.targets}; "
            "a layer gets one LoRA or a mixture."
        )
    if method.router == "domain":
        yield from _domain(method)
    else:
        yield from _top_k(method, allocation)


def _top_k(method: MethodConfig, allocation: AllocationConfig) -> Iterator[str]:
    where = "allocation.experts" if method.experts is None else "method.experts"
    experts = experts_of(method, allocation)
    fewest = min(experts) if isinstance(experts, list) and experts else experts
    if experts == []:
        yield f"{where}=[]: names no number of experts."
    elif isinstance(fewest, int) and method.top_k and method.top_k > fewest:
        other = " or choose another allocation" if method.experts is None else ""
        yield (
            f"method.top_k={method.top_k}: the smallest number of experts in {where}={experts} is "
            f"{fewest}; lower method.top_k{other}."
        )


def _domain(method: MethodConfig) -> Iterator[str]:
    fixed = {"top_k": None, "balance": "none", "share": "none", "plain_targets": "none", "experts": None}
    for key, value in fixed.items():
        if getattr(method, key) != value:
            yield (
                f"method.{key}={typed(getattr(method, key))}: with router domain every task has one LoRA of its own; "
                f"leave it at {typed(value)}."
            )
    if (method.add_task is None) != (method.from_run is None):
        given, missing = ("add_task", "from_run") if method.add_task else ("from_run", "add_task")
        yield f"method.{given}: needs method.{missing}, too: a task is added to a finished run."
    if method.add_task and method.experts_from:
        yield "method.experts_from: cannot be given with method.add_task, which takes its experts from method.from_run."


# PART: What a mixture of domains (MoA) is made of, checked in the files before a model loads.


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


def check_domain(method: MethodConfig, data: DataConfig) -> Iterator[str]:
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
        yield from _check_addition(method, method.from_run, method.add_task)
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


def _check_addition(method: MethodConfig, run: str, task: str) -> Iterator[str]:
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
