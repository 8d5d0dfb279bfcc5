"""Rules about several keys of a method: combinations that cannot work, and keys that would have no effect."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

from mosld.common.errors import format_value, nearest
from mosld.config.schema import TARGET_NAMES, AllocationConfig, DataConfig, MethodConfig

COMMON_KEYS = {"name", "kind", "own_learning_rate", "balance_weight"}
MIXTURE_KEYS = {
    "rank", "alpha", "share", "targets", "plain_targets", "experts", "init", "dropout", "dropout_on", "router",
    "router_init", "top_k", "balance",
}  # fmt: skip
# The keys that only a mixture with this router reads.
ROUTER_KEYS = {
    "capacity": {"capacity_factor", "gate_dropout"},
    "domain": {
        "domains", "pool", "inference", "router_weight", "train_experts", "experts_from", "from_run", "add_task",
    },
}  # fmt: skip
# The keys that each kind of method reads.
KIND_KEYS = {
    "full": COMMON_KEYS,
    "prefix": COMMON_KEYS | {"virtual_tokens"},
    "lora": COMMON_KEYS | {"rank", "alpha", "targets", "init", "dropout", "dropout_on"},
    "mixture": COMMON_KEYS | MIXTURE_KEYS,
}
# The values that switch these keys off; any other key is off at its default.
OFF = {"router": None, "top_k": None, "share": None, "balance": "none"}
# The `targets` that share a layer with each of the `plain_targets`.
OVERLAPPING_TARGETS: dict[str, set[str]] = {
    "none": set(),
    "qv": {"qv", "attention", "all"},
    "attention": {"qv", "attention", "all"},
    "ffn": {"ffn", "all", "block"},
}
# The modules that each name of targets stands for.
TARGETS = {
    "none": [],
    "qv": ["q_proj", "v_proj"],
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "ffn": ["gate_proj", "up_proj", "down_proj"],
    "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "block": ["mlp"],
}
UNREAD_REASONS = {
    "full": "trains the model's own weights and has no adapter",
    "prefix": "learns keys and values in each layer (method.virtual_tokens) and adapts no weight",
    "lora": "has one expert and no router; use method=mosl or method=mosld",
    "mixture": "does not use it; docs/reference/methods.md lists what each router and kind reads",
}


def experts_of(method: MethodConfig, allocation: AllocationConfig) -> int | list[int]:
    """The number of experts: the method's own, or the allocation's."""
    return allocation.experts if method.experts is None else method.experts


def explain_fixed_experts(override: str, method: MethodConfig) -> str:
    """The message to a user who chose an allocation for a method with a fixed number of experts."""
    return (
        f"{override}: {method.name} has its own number of experts (method.experts={format_value(method.experts)}); "
        "set that, or add method.experts=null to use the allocation."
    )


def check_method(method: MethodConfig, allocation: AllocationConfig) -> list[str]:
    """Check a method, alone and with its allocation."""
    return [
        *_check_unread_keys(method),
        *_check_dropout(method),
        *_check_targets(method),
        *(_check_lora(method) if method.kind == "lora" else []),
        *(_check_mixture(method, allocation) if method.kind == "mixture" else []),
    ]


def _check_unread_keys(method: MethodConfig) -> Iterator[str]:
    read = KIND_KEYS[method.kind]
    reason = UNREAD_REASONS[method.kind]
    if method.kind == "mixture":
        read = read | ROUTER_KEYS.get(method.router or "", set())
        reason = f"with router {method.router} {reason}"
    defaults = MethodConfig()
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        if field.name not in read and value != OFF.get(field.name, getattr(defaults, field.name)):
            yield f"method.{field.name}={format_value(value)}: {method.name} (method.kind={method.kind}) {reason}."


def _check_dropout(method: MethodConfig) -> Iterator[str]:
    if method.dropout and method.dropout_on == "none":
        usual = "x" if method.kind == "lora" else "A (as mosld does)"
        yield (
            f"method.dropout={method.dropout:g}: {method.name} drops nothing; "
            f"set method.dropout_on={usual} or leave method.dropout at 0."
        )


def _check_lora(method: MethodConfig) -> Iterator[str]:
    if method.dropout_on not in ("x", "none"):
        yield f"method.dropout_on={method.dropout_on}: {method.name} drops elements of its input x alone."
    if method.targets == "block":
        yield f"method.targets=block: {method.name} adapts single layers; use ffn."
    if method.init == "normal":
        yield f"method.init=normal: {method.name} is PEFT's own; use kaiming or gaussian."


def _check_mixture(method: MethodConfig, allocation: AllocationConfig) -> Iterator[str]:
    if method.router is None or method.share is None:
        yield f"method={method.name}: method.router and method.share must be given."
        return
    if method.top_k is None and method.router in ("topk", "capacity"):
        yield f"method.top_k=null: router {method.router} chooses method.top_k experts."
    if method.router == "dense" and method.top_k is None and method.balance != "none":
        yield f"method.balance={method.balance}: every token takes every expert; there is nothing to balance."
    if method.targets == "block" and method.router == "domain":
        yield "method.targets=block: a router by domain needs single layers; use ffn."
    yield from _check_plain_targets(method)
    yield from _check_domain_keys(method) if method.router == "domain" else _check_top_k(method, allocation)


def _check_targets(method: MethodConfig) -> Iterator[str]:
    """Check targets that are no name: a list of modules, or a regular expression."""
    targets = method.targets
    if targets == []:
        yield "method.targets=[]: names no module."
    if isinstance(targets, list) or targets in TARGET_NAMES:
        return
    if re.fullmatch(r"[\w-]+", targets):
        # As an expression it would have to be the whole name of a module.
        hint = nearest(targets, TARGET_NAMES)
        yield f"method.targets={targets}: unknown name; for modules of that name write [{targets}]; {hint}"
        return
    try:
        re.compile(targets)
    except re.error as error:
        yield f"method.targets={targets}: is no regular expression: {error}."


def _check_plain_targets(method: MethodConfig) -> Iterator[str]:
    targets, plain = method.targets, method.plain_targets
    setting = f"method.plain_targets={plain}"
    if plain == "none":
        return
    if isinstance(targets, list):
        overlaps = bool({target.rpartition(".")[2] for target in targets} & {*TARGETS[plain]})
    elif targets in TARGETS:
        overlaps = targets in OVERLAPPING_TARGETS[plain]
    else:
        yield f"{setting}: needs method.targets as a name or a list, not {targets}."
        return
    if overlaps:
        yield (f"{setting}: overlaps method.targets={format_value(targets)}; a layer gets one LoRA or a mixture.")


def _check_top_k(method: MethodConfig, allocation: AllocationConfig) -> Iterator[str]:
    key = "allocation.experts" if method.experts is None else "method.experts"
    experts = experts_of(method, allocation)
    if experts == []:
        yield f"{key}=[]: names no number of experts."
        return
    fewest = min(experts) if isinstance(experts, list) else experts
    if method.top_k and method.top_k > fewest:
        hint = " or choose another allocation" if method.experts is None else ""
        yield (
            f"method.top_k={method.top_k}: the smallest number of experts in {key}={experts} is {fewest}; "
            f"lower method.top_k{hint}."
        )


def _check_domain_keys(method: MethodConfig) -> Iterator[str]:
    fixed = {"top_k": None, "balance": "none", "share": "none", "plain_targets": "none", "experts": None}
    for key, value in fixed.items():
        if getattr(method, key) != value:
            yield (
                f"method.{key}={format_value(getattr(method, key))}: with router domain every task has one LoRA of its "
                f"own; leave it at {format_value(value)}."
            )
    if (method.add_task is None) != (method.from_run is None):
        present, missing = ("add_task", "from_run") if method.add_task else ("from_run", "add_task")
        yield f"method.{present}: needs method.{missing}, too: a task is added to a finished run."
    if method.add_task and method.experts_from:
        yield "method.experts_from: cannot be given with method.add_task, which takes its experts from method.from_run."


def with_domains(method: MethodConfig, tasks: list[str]) -> MethodConfig:
    """Name the domains of a mixture of domains (MoA) and make its paths absolute.

    The domains are the data's tasks, or those of `from_run` and the added task.
    """
    domains = method.domains
    if domains is None and method.from_run and method.add_task:
        domains = [*_domains(_adapter_config(method.from_run)), method.add_task]
    return dataclasses.replace(
        method,
        domains=list(tasks if domains is None else domains),
        from_run=str(_adapter_directory(method.from_run)) if method.from_run else None,
        experts_from={task: str(_adapter_directory(path)) for task, path in method.experts_from.items()},
    )


def _adapter_directory(path: str) -> Path:
    """The directory of an adapter: the named one, or adapter/ below it if a run is named."""
    inside = Path(path) / "adapter"
    return (inside if (inside / "adapter_config.json").is_file() else Path(path)).resolve()


def _adapter_config(path: str) -> dict[str, object]:
    """The adapter_config.json of an adapter or a run; empty if there is none."""
    try:
        return json.loads((_adapter_directory(path) / "adapter_config.json").read_text())
    except (OSError, ValueError):
        return {}


def _domains(adapter: dict[str, object]) -> list[str]:
    domains = adapter.get("domains")
    return domains if isinstance(domains, list) else []


def check_domain(method: MethodConfig, data: DataConfig) -> Iterator[str]:
    """Check a mixture of domains: every task has an expert, every named adapter is a LoRA."""
    if method.router != "domain":
        return
    domains = with_domains(method, data.tasks).domains or []
    for task, path in method.experts_from.items():
        if task not in domains:
            yield f"method.experts_from: {task} is no expert here; {nearest(task, domains)}"
        elif _adapter_config(path).get("peft_type") != "LORA":
            yield f"method.experts_from: {path} holds no LoRA adapter (adapter_config.json with peft_type LORA)."
    unread = False
    if method.from_run and method.add_task:
        adapter = _adapter_config(method.from_run)
        yield from _check_addition(method, adapter, method.add_task)
        unread = not _domains(adapter)
    without = [task for task in data.tasks if task not in domains]
    if without and not unread:
        yield (
            f"data.tasks={format_value(data.tasks)}: {', '.join(without)} without an expert; "
            f"the experts: {', '.join(domains)}."
        )
    # Stage 1 trains the experts that are not given, each on the rows of its task.
    trained = [method.add_task] if method.add_task else [name for name in domains if name not in method.experts_from]
    missing = [task for task in trained if task and task not in data.tasks]
    if missing:
        tasks = format_value([*data.tasks, *missing])
        yield f"data.tasks={format_value(data.tasks)}: has no rows for the new experts; set data.tasks={tasks}."


def _check_addition(method: MethodConfig, adapter: dict[str, object], task: str) -> Iterator[str]:
    run = method.from_run
    if adapter.get("router") != "domain":
        yield f"method.from_run={run}: holds no finished mixture of domains (method=moa)."
    elif task in _domains(adapter):
        yield f"method.add_task={task}: {run} has an expert of that name already."
    elif (adapter.get("r"), adapter.get("alpha")) != (method.rank, method.alpha):
        yield (
            f"method.from_run={run}: has rank {adapter.get('r')} and alpha {adapter.get('alpha')}; "
            "set method.rank and method.alpha to these."
        )
