"""Whether routers use their experts: dead experts and collapsed routers, from the expert_load of metrics.jsonl.

Of routers that choose k of E experts for a token. The load is the share of assignments of each expert since the last
line; its entropy H is put on a scale from 0, where all tokens take the same k experts, to 1, where all experts are
taken equally often: (H - ln k) / (ln E - ln k).
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence

from mosld.common.files import JsonObject
from mosld.config.schema import LoggerConfig, MethodConfig
from mosld.runs.directory import RunDirectory
from mosld.runs.loss_curve import read_lines

# Lines in a row that show a dead expert or a collapsed router; one alone may be chance.
LINES = 3
MAX_LISTED = 3
# The shares of the experts, by module.
Load = Mapping[str, Sequence[float]]


def load_entropy(shares: Sequence[float], top_k: int) -> float:
    """The entropy of a router's load: 0 where all tokens take the same `top_k` experts, 1 where it is even."""
    entropy = -math.fsum(share * math.log(share) for share in shares if share > 0)
    return min(1.0, max(0.0, (entropy - math.log(top_k)) / (math.log(len(shares)) - math.log(top_k))))


class RoutingWatch:
    """Looks at each line of metrics.jsonl that has a load; what it knows follows from these lines alone.

    Attributes:
        latest: `dead_experts` and `load_entropy` (the mean of all routers) of the last line.
    """

    def __init__(self, logger: LoggerConfig, method: MethodConfig, learning_rate: float) -> None:
        """Watch the routers of a method; the learning rate is only named in the warnings."""
        self.latest: dict[str, float] = {}
        self._dead_share = logger.dead_share
        self._least_entropy = logger.least_entropy
        self._top_k = method.top_k or 1
        self._recent: deque[Load] = deque(maxlen=LINES)
        self._said: set[str] = set()
        balance = {
            "none": "set method.balance=switch",
            "bias": f"raise method.balance_rate={method.balance_rate:g}",
        }.get(method.balance, f"raise method.balance_weight={method.balance_weight:g}")
        self._advice = f"{balance}, or lower training.learning_rate={learning_rate:g}"

    def add(self, line: dict[str, object] | JsonObject) -> list[str]:
        """Put `dead_experts` and `load_entropy` into a line that has a load; returns the warnings, each once."""
        load = _choosing_load(line, self._top_k)
        if not load:
            return []
        self._recent.append(load)
        entropies = {module: load_entropy(shares, self._top_k) for module, shares in load.items()}
        # Of each module the loads of the last lines, once there are enough.
        last = {module: [past[module] for past in self._recent if module in past] for module in load}
        last = {module: loads for module, loads in last.items() if len(loads) == LINES}
        dead = [
            f"{module} expert {expert} (share {load[module][expert]:.4f}, even is {1 / len(load[module]):.4f})"
            for module, loads in last.items()
            for expert in range(len(load[module]))
            if all(past[expert] * len(past) < self._dead_share for past in loads)
        ]
        collapsed = [
            f"{module} (entropy {entropies[module]:.3f}, most taken: {_busiest(load[module], self._top_k)})"
            for module, loads in last.items()
            if all(load_entropy(past, self._top_k) < self._least_entropy for past in loads)
        ]
        mean = math.fsum(entropies.values()) / len(entropies)
        self.latest = {"dead_experts": len(dead), "load_entropy": round(mean, 4)}
        line.update(self.latest)
        experts = sum(map(len, load.values()))
        under_share = f"under logger.dead_share={self._dead_share:g} of an even share"
        under_entropy = f"entropy of the load under logger.least_entropy={self._least_entropy:g}"
        warnings = [
            self._warning(line["step"], dead, f"{experts} experts", ("is dead", "are dead"), under_share),
            self._warning(
                line["step"], collapsed, f"{len(load)} routers", ("has collapsed", "have collapsed"), under_entropy
            ),
        ]
        return [warning for warning in warnings if warning]

    def _warning(self, step: object, places: Sequence[str], whole: str, states: tuple[str, str], rule: str) -> str:
        """What is wrong at these places, in singular or plural; "" where nothing is, or where it was said before."""
        if not places or states[1] in self._said:
            return ""
        self._said.add(states[1])
        more = f" and {len(places) - MAX_LISTED} more" if len(places) > MAX_LISTED else ""
        return (
            f"warning: step {step}: {len(places)} of {whole} {states[len(places) > 1]} ({rule} in {LINES} lines in a "
            f"row): {', '.join(places[:MAX_LISTED])}{more}; {self._advice}"
        )


def chooses_experts(method: MethodConfig) -> bool:
    """Whether the method's routers choose some of the experts for each token, so that others can be left out."""
    return method.kind == "mixture" and method.router in ("topk", "capacity") and method.top_k is not None


def _choosing_load(line: Mapping[str, object], top_k: int) -> Load:
    """The load of the modules that have more experts than a token takes."""
    load = line.get("expert_load") or {}
    assert isinstance(load, dict)
    return {module: shares for module, shares in load.items() if len(shares) > top_k and None not in shares}


def _busiest(shares: Sequence[float], count: int) -> str:
    ranked = sorted(range(len(shares)), key=lambda expert: -shares[expert])[:count]
    return " ".join(f"{expert}:{shares[expert]:.2f}" for expert in ranked)


def draw_routing(run: RunDirectory, logger: LoggerConfig, method: MethodConfig) -> None:
    """Draw the idlest expert's share and the entropy of the load over the steps, as figures/routing.png.

    Args:
        run: its metrics.jsonl is read; without a load of routers that choose nothing is drawn.
        logger: the thresholds.
        method: the run's method.
    """
    if not chooses_experts(method):
        return
    top_k = method.top_k or 1
    loads = {line["step"]: load for line in read_lines(run.metrics) if (load := _choosing_load(line, top_k))}
    if not loads:
        return
    # Importing it takes a second. Without pyplot there is no window and no global state.
    from matplotlib.figure import Figure

    steps = list(loads)
    idlest = [min(min(shares) * len(shares) for shares in load.values()) for load in loads.values()]
    entropies = [[load_entropy(shares, top_k) for shares in load.values()] for load in loads.values()]
    figure = Figure(figsize=(7, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    above.plot(steps, idlest, "o-", color="C0", label="idlest expert")
    above.axhline(logger.dead_share, color="C3", linestyle="--", label="logger.dead_share")
    above.set_ylabel("share / even share")
    below.plot(steps, [sum(values) / len(values) for values in entropies], "o-", color="C0", label="mean of routers")
    below.plot(steps, list(map(min, entropies)), "o-", color="C1", label="least")
    below.axhline(logger.least_entropy, color="C3", linestyle="--", label="logger.least_entropy")
    below.set(xlabel="optimiser step", ylabel="entropy of the load, 0 to 1", ylim=(-0.05, 1.05))
    for axes in (above, below):
        axes.legend(loc="best")
    run.figures.mkdir(exist_ok=True)
    figure.savefig(run.figures / "routing.png", dpi=150)
