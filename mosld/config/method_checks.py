"""Rules about several keys of a method: combinations that cannot work, and keys that would have no effect."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from mosld.common.errors import UserError, format_value, nearest
from mosld.common.reading import load_json
from mosld.config.method_schema import TARGET_NAMES, AllocationConfig, MethodConfig
from mosld.config.schema import DataConfig

# The modules that each name of `targets` and `plain_targets` stands for.
TARGETS = {
    "none": [],
    "qv": ["q_proj", "v_proj"],
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "ffn": ["gate_proj", "up_proj", "down_proj"],
    "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "block": ["mlp"],
}
# Keys of a LoRA's adapter_config.json that make it more than ``alpha / r * B A``.
LORA_VARIANTS = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "lora_bias")
PISSA = "pissa"
COMMON_KEYS = {"name", "kind", "own_learning_rate", "balance_weight"}
# The balances that are losses of the load of each expert.
LOAD_LOSSES = ("switch", "paper_literal", "sira")
MIXTURE_KEYS = {
    "rank", "alpha", "share", "targets", "plain_targets", "experts", "init", "init_b", "dropout", "dropout_on",
    "router", "router_input", "router_init", "top_k", "balance", "balance_over", "experts_from",
}  # fmt: skip
# The keys that only a mixture with this router reads.
ROUTER_KEYS = {
    "capacity": {"capacity_factor", "gate_dropout"},
    "domain": {
        "domains", "pool", "inference", "router_weight", "train_experts", "from_run", "add_task",
    },
}  # fmt: skip
# The keys that only a mixture with this balance reads.
BALANCE_KEYS = {"bias": {"balance_rate"}, "localised": {"balance_offset", "first_kind"}}
# The keys that each kind of method reads.
KIND_KEYS = {
    "full": COMMON_KEYS,
    "prefix": COMMON_KEYS | {"virtual_tokens"},
    "lora": COMMON_KEYS | {"rank", "alpha", "targets", "init", "dropout", "dropout_on", "rslora", "dora", "match"},
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
        read = read | ROUTER_KEYS.get(method.router or "", set()) | BALANCE_KEYS.get(method.balance, set())
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
    if method.init in ("normal", "sparse"):
        yield f"method.init={method.init}: {method.name} is PEFT's own; use kaiming, gaussian or pissa."
    if method.match and method.rslora:
        yield f"method.rslora=true: method.match={method.match} keeps alpha / rank; set method.match=null."


def _check_mixture(method: MethodConfig, allocation: AllocationConfig) -> Iterator[str]:
    if method.init == PISSA:
        yield f"method.init=pissa: {method.name} is a mixture of experts on a whole weight; use method=lora."
    if method.router is None or method.share is None:
        yield f"method={method.name}: method.router and method.share must be given."
        return
    if method.top_k is None and method.router in ("topk", "capacity", "magnitude"):
        yield f"method.top_k=null: router {method.router} chooses method.top_k experts."
    if method.router == "dense" and method.top_k is None and method.balance not in ("none", "localised"):
        yield f"method.balance={method.balance}: every token takes every expert; there is nothing to balance."
    if method.targets == "block" and method.router == "domain":
        yield "method.targets=block: a router by domain needs single layers; use ffn."
    yield from _check_parts(method)
    yield from _check_plain_targets(method)
    if method.router == "domain":
        yield from _check_domain_keys(method)
        return
    yield from _check_top_k(method, allocation)
    if method.experts_from:
        yield from _check_given_experts(method, allocation)


def _check_parts(method: MethodConfig) -> Iterator[str]:
    """Check parts that need others."""
    if method.router == "magnitude":
        for key, value in (("rank", 1), ("share", "none")):
            if getattr(method, key) != value:
                ours = format_value(getattr(method, key))
                yield f"method.{key}={ours}: router magnitude compares single numbers; set method.{key}={value}."
        if method.balance not in ("bias", "none"):
            yield f"method.balance={method.balance}: router magnitude learns nothing; use bias or none."
    if method.router_input == "Ax" and (method.share not in ("A", "both") or method.router in ("domain", "magnitude")):
        yield "method.router_input=Ax: needs method.share=A or both, and router topk, dense or capacity."
    if method.init_b == "random" and method.share not in ("A", "none"):
        yield f"method.init_b=random: with method.share={method.share} all experts have one B; set method.init_b=zero."
    if method.dropout_on == "cores" and method.share != "both":
        yield f"method.dropout_on=cores: method.share={method.share} has no cores; set method.share=both."
    if method.balance_over == "step" and method.balance not in LOAD_LOSSES:
        yield (
            f"method.balance_over=step: method.balance={method.balance} is no loss of the experts' load; set "
            f"method.balance to one of {', '.join(LOAD_LOSSES)}."
        )
    if method.targets == "block" and (
        method.share == "both" or method.router_input == "Ax" or method.router == "magnitude"
    ):
        yield f"method.targets=block: {method.name} adapts single layers; use ffn."


def _check_given_experts(method: MethodConfig, allocation: AllocationConfig) -> Iterator[str]:
    """Ready LoRAs are all the experts of a mixture without domains, in every layer."""
    count = len(method.experts_from)
    key = "allocation.experts" if method.experts is None else "method.experts"
    experts = experts_of(method, allocation)
    if {count} != set(experts if isinstance(experts, list) else [experts]):
        yield f"method.experts_from: names {count} LoRAs, and {key}={format_value(experts)}; set {key}={count}."
    fixed = {"share": "none", "plain_targets": "none"}
    for name, value in fixed.items():
        if getattr(method, name) != value:
            yield f"method.experts_from: needs method.{name}={value}: each LoRA has an A and a B of its own, no more."
    if method.targets == "block" or method.router == "capacity":
        yield f"method.experts_from: {method.name} takes no ready LoRAs; take mola, molora or moa."


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


def with_domains(method: MethodConfig, tasks: list[str], init_from: str | None) -> MethodConfig:
    """Name the domains of a mixture of domains (MoA).

    They are the data's tasks, those of `from_run` and the added task, or those of `init_from`.
    """
    domains = method.domains
    if domains is None and method.from_run and method.add_task:
        domains = [*_domains(_adapter_config(method.from_run)), method.add_task]
    if domains is None and init_from:
        domains = _domains(_adapter_config(init_from)) or None
    return dataclasses.replace(method, domains=list(tasks if domains is None else domains))


def with_absolute_paths(method: MethodConfig) -> MethodConfig:
    """Name the adapters that a method starts from wherever the command is typed."""
    return dataclasses.replace(
        method,
        from_run=str(_adapter_directory(method.from_run)) if method.from_run else None,
        experts_from={name: str(_adapter_directory(path)) for name, path in method.experts_from.items()},
    )


def _adapter_directory(path: str) -> Path:
    """The directory of an adapter: the named one, or adapter/ below it if a run is named."""
    inside = Path(path) / "adapter"
    return (inside if (inside / "adapter_config.json").is_file() else Path(path)).resolve()


def _adapter_config(path: str) -> dict[str, object]:
    """The adapter_config.json of an adapter or a run; empty if there is none."""
    try:
        return load_json(_adapter_directory(path) / "adapter_config.json", dict[str, object])
    except UserError:
        return {}


def lora_variants(adapter: Mapping[str, object]) -> list[str]:
    """What in a LoRA's adapter_config.json makes it more than ``alpha / r * B A`` on the base model's own weights."""
    pissa = adapter.get("init_lora_weights") == PISSA
    return [key for key in LORA_VARIANTS if adapter.get(key)] + ["init_lora_weights=pissa"] * pissa


def _domains(adapter: dict[str, object]) -> list[str]:
    domains = adapter.get("domains")
    return domains if isinstance(domains, list) else []


def target_modules(method: MethodConfig) -> list[str] | str:
    """The modules as PEFT takes them: names, or a regular expression (`all-linear` is PEFT's, too)."""
    targets = method.targets
    if isinstance(targets, str):
        if targets not in TARGETS:
            return targets
        targets = TARGETS[targets]
    return [*targets, *TARGETS[method.plain_targets]]


def check_experts_from(method: MethodConfig) -> Iterator[str]:
    """Check that every named adapter is a LoRA that fits the method."""
    for path in method.experts_from.values():
        adapter = _adapter_config(path)
        variants = lora_variants(adapter)
        names = adapter.get("target_modules")
        targets = target_modules(method)
        if adapter.get("peft_type") != "LORA" or variants:
            kind = "".join(f" and no {key}" for key in variants)
            yield f"method.experts_from: {path} holds no LoRA adapter (adapter_config.json with peft_type LORA{kind})."
        elif adapter.get("r") != method.rank:
            rank = adapter.get("r")
            yield f"method.experts_from: {path} has rank {rank}, this run {method.rank}; set method.rank={rank}."
        elif isinstance(names, list) and isinstance(targets, list) and set(names) != set(targets):
            yield (
                f"method.experts_from: {path} adapts {', '.join(sorted(names))}; method.targets="
                f"{format_value(method.targets)} is {', '.join(sorted(targets))}."
            )


def row_indices(method: MethodConfig, tasks: list[str]) -> dict[str, int]:
    """By task, what the forward pass is told of each row: its expert (MoA), or its kind (balance localised)."""
    if method.balance != "localised":
        return {name: index for index, name in enumerate(method.domains or [])}
    first = tasks[: -(-len(tasks) // 2)] if method.first_kind is None else method.first_kind
    return {task: int(task not in first) for task in tasks}


def check_domain(method: MethodConfig, data: DataConfig, init_from: str | None) -> Iterator[str]:
    """Check a mixture of domains: every task has an expert; or that the tasks of a kind are there."""
    for task in method.first_kind or []:
        if task not in data.tasks:
            yield f"method.first_kind: {task} is none of data.tasks; {nearest(task, data.tasks)}"
    if method.router != "domain":
        return
    domains = with_domains(method, data.tasks, init_from).domains or []
    for task in method.experts_from:
        if task not in domains:
            yield f"method.experts_from: {task} is no expert here; {nearest(task, domains)}"
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
    trained = [] if init_from else trained
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
