"""A plan as text for the user."""

from collections.abc import Sequence

from mosld.common.files import JsonObject
from mosld.common.terminal import counted
from mosld.planning.jobs import hours_of, summed
from mosld.planning.layouts import GPUS_PER_NODE

GIB = 2**30
# Units of time, and how many of them make an hour.
UNITS = (("hours", 1.0), ("minutes", 60.0), ("seconds", 3600.0))


def plan_lines(plan: JsonObject) -> list[str]:
    """The plan, a line for each figure."""
    return [
        f"{plan['method']} on {plan['model']}",
        *_parameters(plan),
        *_memory(plan),
        *_time(plan),
        *_machines(plan),
        f"  run         {plan['run']}",
        *plan["warnings"],
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
    rows = (
        f"{counted(plan['micro_batch'], 'row')} of {counted(data['length'], 'token')}, with a loss on "
        f"{data['answer']:,} of each"
    )
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
        f"  data        {data['name']}: {counted(data['rows'], 'row')} of {data['row_tokens']} tokens on average "
        f"({data['source']}), {counted(data['steps'], 'step')}, {counted(data['tokens'], 'token')}",
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
    longer = "" if again in (None, machines["hours"]) else f" ({duration(again)} with checkpointing)"
    lines = [f"  time        {duration(machines['hours'])}{longer} {speed(plan)}"]
    return [*lines, *_layouts(plan)] if "layouts" in plan else lines


def duration(hours: float) -> str:
    """A time with its two largest units: ``3 h 12 min``, ``4 min 20 s``, ``2.5 s``."""
    seconds = 3600 * hours
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 3600:
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    whole, minutes = divmod(round(seconds / 60), 60)
    return f"{whole:,} h {minutes} min"


def _unit(plans: Sequence[JsonObject]) -> tuple[str, float]:
    """The largest unit of time in which all runs together take at least a half, and how many make an hour."""
    hours = sum(hours_of(plan) for plan in plans) if "machines" in plans[0] else 1
    return next((unit for unit in UNITS if hours * unit[1] >= 0.5), UNITS[-1])


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


def job_lines(plans: Sequence[JsonObject], count: int) -> list[str]:
    """A line for each run of a sweep of `count` jobs, and what all of them cost together."""
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
    unit, scale = _unit(plans)
    lines = [f"  {unit:>8} {'GPU-' + unit:>11} {'GiB':>7} {'trainable':>14}  {'conf/accelerate':26} run"]
    for plan in plans:
        name, size = layout_of(plan)
        time = scale * hours_of(plan)
        trained = plan["parameters"]["trainable"]
        cost = f"{time:8.2f} {time * plan['machines']['gpus']:11.1f} {size:7.1f} {trained:14,}"
        lines.append(f"  {cost}  {name:26} {_named(plan)}")
    return lines


def _alone(plans: Sequence[JsonObject]) -> list[str]:
    """Lines for the CPU, whose speed may be unknown."""
    unit, scale = _unit(plans)
    lines = [f"  {unit:>8} {'tokens':>12} {'TFLOPs':>12} {'GiB':>7} {'trainable':>14}  run"]
    for plan in plans:
        tokens = plan["data"]["tokens"]
        time = f"{scale * hours_of(plan):.2f}" if "machines" in plan else "-"
        flops = tokens * plan["flops_per_token"]["training"] / 1e12
        size, trained = plan["memory"]["peak"] / GIB, plan["parameters"]["trainable"]
        lines.append(f"  {time:>8} {tokens:12,} {flops:12,.0f} {size:7.2f} {trained:14,}  {_named(plan)}")
    return lines


def _sum(plans: Sequence[JsonObject]) -> list[str]:
    if "machines" not in plans[0]:
        return []
    total = summed(plans)
    _, scale = _unit(plans)
    shared = f" {scale * total['gpu_hours']:11.1f}" if "layouts" in plans[0] else ""
    lines = [
        f"  {scale * total['hours']:8.2f}{shared}  all {total['runs']} runs, one after another; scoring is not counted"
    ]
    if total["not_fitting"]:
        lines.append(f"  {total['not_fitting']} of them fit on no layout; their GiB are of the smallest one")
    return lines


def _named(plan: JsonObject) -> str:
    return " ".join(plan["overrides"]) or plan["run"]
