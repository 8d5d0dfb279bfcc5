"""The plans of many runs as a person reads them, one a line, or as one JSON list."""

import json
from collections.abc import Sequence
from typing import Any

from mosld.planning.jobs import hours_of, summed
from mosld.planning.view import GIB, speed


def show_jobs(plans: Sequence[dict[str, Any]], count: int, as_json: bool) -> None:
    """Print the plans of a sweep of `count` jobs."""
    print(json.dumps(plans) if as_json else "\n".join(lines(plans, count)))


def lines(plans: Sequence[dict[str, Any]], count: int) -> list[str]:
    """A line a run, and what all of them cost together."""
    first = plans[0]
    double = f", {count - len(plans)} of them the same run as another, made once" if count > len(plans) else ""
    title = f"{count} jobs{double}"
    hours = f", {speed(first)}" if "machines" in first else ""
    memory = f", {first['machines']['gpu_memory']} each" if "layouts" in first else ""
    return [f"{title}{hours}{memory}", *(_shared(plans) if "layouts" in first else _alone(plans)), *_sum(plans)]


def layout_of(plan: dict[str, Any]) -> tuple[str, float]:
    """The file of conf/accelerate that fits and the GiB on each GPU with it; the smallest there is where none does."""
    recomputing = plan["checkpointing"] or plan["needs_checkpointing"]
    sizes = plan["layouts"]["checkpointing" if recomputing else "plain"]
    name = plan["accelerate"]
    if name is None:
        every = [*sizes.values(), *(plan["layouts"]["checkpointing"] or {}).values()]
        return "none", min(every) / GIB
    return name + (", recomputing" if recomputing else ""), sizes[name] / GIB


def _shared(plans: Sequence[dict[str, Any]]) -> list[str]:
    found = [f"  {'hours':>8} {'GPU-hours':>10} {'GiB':>7} {'trainable':>14}  {'conf/accelerate':26} run"]
    for plan in plans:
        name, size = layout_of(plan)
        hours = hours_of(plan)
        trained = plan["parameters"]["trainable"]
        cost = f"{hours:8.2f} {hours * plan['machines']['gpus']:10.1f} {size:7.1f} {trained:14,}"
        found.append(f"  {cost}  {name:26} {_named(plan)}")
    return found


def _alone(plans: Sequence[dict[str, Any]]) -> list[str]:
    """On a processor, whose speed need not be known."""
    found = [f"  {'hours':>8} {'tokens':>12} {'TFLOPs':>12} {'GiB':>7} {'trainable':>14}  run"]
    for plan in plans:
        tokens = plan["data"]["tokens"]
        hours = f"{hours_of(plan):.2f}" if "machines" in plan else "-"
        flops = tokens * plan["flops_per_token"]["training"] / 1e12
        size, trained = plan["memory"]["peak"] / GIB, plan["parameters"]["trainable"]
        found.append(f"  {hours:>8} {tokens:12,} {flops:12,.0f} {size:7.2f} {trained:14,}  {_named(plan)}")
    return found


def _sum(plans: Sequence[dict[str, Any]]) -> list[str]:
    if "machines" not in plans[0]:
        return []
    total = summed(plans)
    shared = f" {total['gpu_hours']:10.1f}" if "layouts" in plans[0] else ""
    found = [f"  {total['hours']:8.2f}{shared}  all {total['runs']} runs, one after another; scoring is not counted"]
    if total["not_fitting"]:
        found.append(f"  {total['not_fitting']} of them fit on no layout; their GiB are of the smallest one")
    return found


def _named(plan: dict[str, Any]) -> str:
    return " ".join(plan["overrides"]) or plan["run"]
