"""Dead experts and collapsed routers: what is said, when, and that a resumed run says and counts the same."""

import json
from math import log

import pytest

from mosld.config.schema import LoggerConfig, MethodConfig
from mosld.runs.directory import RunDirectory
from mosld.runs.routing_watch import RoutingWatch, chooses_experts, draw_routing, load_entropy

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.3.self_attn.v_proj"
EVEN = [0.25] * 4
# 0.0025 is a hundredth of an even share of four.
DEAD = [0.0024, 0.3976, 0.3, 0.3]
ALIVE = [0.0026, 0.3974, 0.3, 0.3]
COLLAPSED = [0.495, 0.495, 0.005, 0.005]


def watch(**logger: float) -> RoutingWatch:
    return RoutingWatch(LoggerConfig(**logger), MethodConfig(router="topk", top_k=2), 3e-3)


def lines(*loads: dict[str, list[float]]) -> list[dict]:
    return [{"step": 10 * number, "expert_load": load} for number, load in enumerate(loads, 1)]


def said(watching: RoutingWatch, some: list[dict]) -> list[list[str]]:
    return [watching.add(line) for line in some]


@pytest.mark.parametrize(
    ("shares", "top_k", "entropy"),
    [
        (EVEN, 2, 1.0),
        ([0.5, 0.5, 0, 0], 2, 0.0),
        ([0, 0, 1, 0], 1, 0.0),
        ([0.5, 0, 0.5], 1, log(2) / log(3)),
        ([1, 0, 0], 2, 0.0),  # of experts with a capacity, fewer than k may be chosen
    ],
)
def test_entropy_is_0_where_all_tokens_take_the_same_experts_and_1_where_the_load_is_even(shares, top_k, entropy):
    assert load_entropy(shares, top_k) == pytest.approx(entropy, abs=1e-12)


def test_expert_without_tokens_in_three_lines_in_a_row_is_said_once_with_its_place_and_the_keys():
    some = lines(*[{Q: EVEN, V: DEAD}] * 5)
    first, second, (warning,), fourth, fifth = said(watch(), some)
    assert (first, second, fourth, fifth) == ([], [], [], [])
    expected = ("warning: step 30: 1 of 8 experts is dead", f"{V} expert 0", "0.0024", "even is 0.2500",
                "logger.dead_share=0.01", "method.balance_weight=0.01", "training.learning_rate=0.003")  # fmt: skip
    assert [words for words in expected if words not in warning] == []
    assert [line["dead_experts"] for line in some] == [0, 0, 1, 1, 1]


def test_collapsed_router_is_said_once_with_its_entropy_and_its_experts():
    some = lines(*[{Q: COLLAPSED, V: EVEN}] * 4)
    _, _, (warning,), fourth = said(watch(), some)
    assert fourth == []
    expected = ("warning: step 30: 1 of 2 routers has collapsed", Q, f"entropy {load_entropy(COLLAPSED, 2):.3f}",
                "0:0.49 1:0.49", "logger.least_entropy=0.1")  # fmt: skip
    assert [words for words in expected if words not in warning] == []
    assert some[0]["load_entropy"] == pytest.approx((1 + load_entropy(COLLAPSED, 2)) / 2, abs=1e-4)


@pytest.mark.parametrize(
    ("loads", "logger"),
    [
        ([{Q: ALIVE}] * 6, {}),  # just above the share
        ([{Q: DEAD}, {Q: DEAD}, {Q: EVEN}] * 3, {}),  # never three in a row
        ([{Q: DEAD}, {Q: DEAD[::-1]}] * 4, {}),  # another expert each time
        ([{Q: DEAD}] * 4, {"dead_share": 0.0}),
        ([{Q: COLLAPSED}] * 4, {"least_entropy": 0.0}),
        ([{Q: [1.0, 0.0]}] * 4, {}),  # every expert is taken
        ([{}] * 4, {}),
    ],
)
def test_nothing_is_said_without_a_reason(loads, logger):
    some = lines(*loads)
    assert said(watch(**logger), some) == [[]] * len(loads)
    assert all(line.get("dead_experts", 0) == 0 for line in some)


def test_many_dead_experts_are_counted_and_three_are_named():
    *_, (warning, _) = said(watch(), lines(*[{Q: [0, 0, 0.5, 0.5], V: [0.34, 0.33, 0, 0.33]}] * 3))
    assert "3 of 8 experts are dead" in warning
    *_, (warning, _) = said(watch(), lines(*[{Q: [0, 0, 0.5, 0.5], V: [0.5, 0.5, 0, 0]}] * 3))
    assert "4 of 8 experts are dead" in warning
    assert "and 1 more" in warning


@pytest.mark.parametrize("stopped", range(6))
def test_watch_that_starts_from_the_written_lines_goes_on_as_one_that_was_never_stopped(stopped):
    loads = [{Q: DEAD, V: COLLAPSED}] * 6
    straight = watch()
    expected = said(straight, lines(*loads))
    resumed = watch()
    for line in json.loads(json.dumps(lines(*loads)[:stopped])):
        resumed.add(line)
    assert said(resumed, lines(*loads)[stopped:]) == expected[stopped:]
    assert resumed.latest == straight.latest


@pytest.mark.parametrize(
    ("keys", "chooses"),
    [
        ({}, True),
        ({"router": "capacity"}, True),
        ({"router": "dense", "top_k": None}, False),
        ({"router": "domain"}, False),
        ({"top_k": None}, False),
        ({"kind": "lora"}, False),
    ],
)
def test_only_routers_that_choose_are_watched(keys, chooses, tmp_path):
    method = MethodConfig(**{"router": "topk", "top_k": 2, **keys})
    assert chooses_experts(method) == chooses
    run = RunDirectory(tmp_path)
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines(*[{Q: EVEN}] * 3)))
    draw_routing(run, LoggerConfig(), method)
    assert (run.figures / "routing.png").is_file() == chooses
