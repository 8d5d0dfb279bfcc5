"""Rules that join several keys of a method: combinations that cannot work, and keys that would say nothing."""

import dataclasses
from collections.abc import Iterator

from mosld.config.errors import typed
from mosld.config.method import AllocationConfig, MethodConfig

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
    "mixture": "has no use for it; see docs/methods.md for what each router and kind reads",
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


def broken_method_rules(method: MethodConfig, allocation: AllocationConfig) -> list[str]:
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
