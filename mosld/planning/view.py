"""A plan as text for the user, or as one JSON object."""

import json
from collections.abc import Sequence

from mosld.common.files import JsonObject
from mosld.planning.jobs import hours_of, summed
from mosld.planning.layouts import GPUS_PER_NODE

GIB = 2**30


def show(plan: JsonObject, as_json: bool) -> None:
    """Print the plan."""
    print(json.dumps(plan) if as_json else "\n".join(plan_lines(plan)))


def plan_lines(plan: JsonObject) -> list[str]:
    """The plan, a line for each figure."""
    return [
        f"{plan['method']} on {plan['model']}",
        *_parameters(plan),
        *_memory(plan),
        *_time(plan),
        *_machines(plan),
        f"  run         {plan['run']}",
    ]


def _parameters(plan: JsonObject) -> list[str]:
    count, matrices = plan["parameters"], plan["parameters"]["lora_matrices"]
    lines = []
    if plan["experts"] is not None:
        lines.append(f"  experts     {plan['experts']} (per module; a list is stretched over the depth)")
    lines += [
        f"  base        {count['base']:>15,} parameters",
        f"  trainable   {count['trainable']:>15,} ({100 * count['trainable'] / count['base']:.3f} % of the base)",
        f"  total       {count['total']:>15,}",
    ]
    if matrices["A"]:
        lines.append(f"  matrices    {matrices['A']:,} A and {matrices['B']:,} B")
    return lines


def _memory(plan: JsonObject) -> list[str]:
    memory, data = plan["memory"], plan["data"]
    rows = f"{plan['micro_batch']} rows of {data['length']} tokens, {data['answer']} of them with a loss"
    saving = "with training.gradient_checkpointing=true"
    parts = [
        ("weights", "weights", ""),
        ("adapter", "adapter", ""),
        ("gradients", "gradients", ""),
        ("optimiser", "optimiser", ""),
        ("activations", "activations", "held for backward"),
        ("", "activations_checkpointing", saving),
        ("reserved", "reserved", "an allowance for CUDA, not measured"),
        ("peak", "peak", "gradients come as activations go: at most the sum, and what is short-lived"),
        ("", "peak_checkpointing", saving),
    ]
    lines = [f"  memory in GiB, a micro-batch of {rows}"]
    for title, key, note in parts:
        if memory[key] != 0:
            size = "-" if memory[key] is None else f"{memory[key] / GIB:.3f}"
            lines.append(f"    {title:13}{size:>9}  {note}".rstrip())
    return lines


def _time(plan: JsonObject) -> list[str]:
    data, flops = plan["data"], plan["flops_per_token"]
    return [
        f"  data        {data['rows']:,} rows of {data['row_tokens']} tokens on average ({data['source']}), "
        f"{data['steps']:,} steps, {data['tokens']:,} tokens",
        f"  FLOPs       {flops['training'] / 1e9:.3f} G a token, {flops['forward'] / 1e9:.3f} G of them forward",
    ]


def speed(plan: JsonObject) -> str:
    """On what machines, and what is assumed of them."""
    machines = plan["machines"]
    count = f"{machines['gpus']} GPU{'s' * (machines['gpus'] > 1)}" if machines["gpus"] else "CPU"
    return (
        f"on {count} at {machines['gpu_tflops']:g} TFLOP/s and {100 * machines['utilisation']:g} % utilisation "
        "(assumed: gpu_tflops=, utilisation=)"
    )


def _machines(plan: JsonObject) -> list[str]:
    if "machines" not in plan:
        return []
    machines = plan["machines"]
    again = machines["hours_checkpointing"]
    longer = "" if again in (None, machines["hours"]) else f" ({again:.2f} with checkpointing)"
    lines = [f"  time        {machines['hours']:.2f} hours{longer} {speed(plan)}"]
    return [*lines, *_layouts(plan)] if "layouts" in plan else lines


def _layouts(plan: JsonObject) -> list[str]:
    machines, saving = plan["machines"], plan["layouts"]["checkpointing"]
    count = f"{machines['gpus']} GPU{'s' * (machines['gpus'] > 1)}"
    lines = [f"  memory      GiB on each of {count} of {machines['gpu_memory']}, by file of conf/accelerate"]
    for name, size in plan["layouts"]["plain"].items():
        other = f"{saving[name] / GIB:8.1f} with checkpointing" if saving else ""
        lines.append(f"    {name:17}{size / GIB:7.1f}{other}")
    return [*lines, f"  fits        {_verdict(plan)}"]


def _verdict(plan: JsonObject) -> str:
    """The launcher's file and its options, or what to change."""
    name, machines = plan["accelerate"], plan["machines"]
    if name is None:
        whole = "" if "fsdp" in plan["layouts"]["plain"] or machines["gpus"] == 1 else (
            "; a packed base lies whole on each GPU (docs/how-to/clusters.md)"
        )  # fmt: skip
        return f"none: lower training.micro_batch_size, or take more or larger GPUs{whole}"
    options = "" if machines["gpus"] == 1 else f" --num_processes {machines['gpus']}"
    if machines["gpus"] > GPUS_PER_NODE:
        options = f" --num_machines {-(-machines['gpus'] // GPUS_PER_NODE)}{options}"
    saving = " with training.gradient_checkpointing=true" if plan["needs_checkpointing"] else ""
    return f"conf/accelerate/{name}.yaml{options}{saving}"


def show_jobs(plans: Sequence[JsonObject], count: int, as_json: bool) -> None:
    """Print the plans of a sweep of `count` jobs."""
    print(json.dumps(plans) if as_json else "\n".join(job_lines(plans, count)))


def job_lines(plans: Sequence[JsonObject], count: int) -> list[str]:
    """A line a run, and what all of them cost together."""
    first = plans[0]
    double = f", {count - len(plans)} of them the same run as another, made once" if count > len(plans) else ""
    title = f"{count} jobs{double}"
    hours = f", {speed(first)}" if "machines" in first else ""
    memory = f", {first['machines']['gpu_memory']} each" if "layouts" in first else ""
    return [f"{title}{hours}{memory}", *(_shared(plans) if "layouts" in first else _alone(plans)), *_sum(plans)]


def layout_of(plan: JsonObject) -> tuple[str, float]:
    """The file of conf/accelerate that fits and the GiB on each GPU with it; the smallest there is where none does."""
    recomputing = plan["checkpointing"] or plan["needs_checkpointing"]
    sizes = plan["layouts"]["checkpointing" if recomputing else "plain"]
    name = plan["accelerate"]
    if name is None:
        every = [*sizes.values(), *(plan["layouts"]["checkpointing"] or {}).values()]
        return "none", min(every) / GIB
    return name + (", recomputing" if recomputing else ""), sizes[name] / GIB


def _shared(plans: Sequence[JsonObject]) -> list[str]:
    lines = [f"  {'hours':>8} {'GPU-hours':>10} {'GiB':>7} {'trainable':>14}  {'conf/accelerate':26} run"]
    for plan in plans:
        name, size = layout_of(plan)
        hours = hours_of(plan)
        trained = plan["parameters"]["trainable"]
        cost = f"{hours:8.2f} {hours * plan['machines']['gpus']:10.1f} {size:7.1f} {trained:14,}"
        lines.append(f"  {cost}  {name:26} {_named(plan)}")
    return lines


def _alone(plans: Sequence[JsonObject]) -> list[str]:
    """Lines for the CPU, whose speed may be unknown."""
    lines = [f"  {'hours':>8} {'tokens':>12} {'TFLOPs':>12} {'GiB':>7} {'trainable':>14}  run"]
    for plan in plans:
        tokens = plan["data"]["tokens"]
        hours = f"{hours_of(plan):.2f}" if "machines" in plan else "-"
        flops = tokens * plan["flops_per_token"]["training"] / 1e12
        size, trained = plan["memory"]["peak"] / GIB, plan["parameters"]["trainable"]
        lines.append(f"  {hours:>8} {tokens:12,} {flops:12,.0f} {size:7.2f} {trained:14,}  {_named(plan)}")
    return lines


def _sum(plans: Sequence[JsonObject]) -> list[str]:
    if "machines" not in plans[0]:
        return []
    total = summed(plans)
    shared = f" {total['gpu_hours']:10.1f}" if "layouts" in plans[0] else ""
    lines = [f"  {total['hours']:8.2f}{shared}  all {total['runs']} runs, one after another; scoring is not counted"]
    if total["not_fitting"]:
        lines.append(f"  {total['not_fitting']} of them fit on no layout; their GiB are of the smallest one")
    return lines


def _named(plan: JsonObject) -> str:
    return " ".join(plan["overrides"]) or plan["run"]
