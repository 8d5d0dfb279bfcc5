"""How far tasks differ in the experts that they take, and what an expert says of the task."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from mosld.analysis.metrics import divergence, specialisation


def random_use(tasks: int, experts: int, modules: int = 3) -> dict[str, dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    return {f"t{t}": {f"m{m}": draw.dirichlet(np.ones(experts)) for m in range(modules)} for t in range(tasks)}


def test_divergence_is_the_mean_over_modules_of_jensen_and_shannon_s():
    use = random_use(4, 5)
    found = divergence(use)
    for i in range(4):
        for j in range(4):
            modules = [jensenshannon(use[f"t{i}"][m], use[f"t{j}"][m], base=2) ** 2 for m in use["t0"]]
            assert found[i, j] == pytest.approx(np.mean(modules), abs=1e-9)


def test_divergence_is_0_of_equal_use_and_1_without_a_common_expert():
    use = {"a": {"m": np.array([0.5, 0.5, 0, 0])}, "b": {"m": np.array([0, 0, 0.3, 0.7])}, "c": {"m": np.full(4, 0.25)}}
    assert divergence({"a": use["a"], "b": use["b"]})[0, 1] == pytest.approx(1)
    assert divergence({"a": use["c"], "b": use["c"]})[0, 1] == 0


@pytest.mark.parametrize(("tasks", "experts"), [(4, 4), (2, 5), (6, 3)])
def test_specialisation_equals_a_sum_over_tasks_and_experts(tasks, experts):
    use = random_use(tasks, experts)
    for module, score in specialisation(use).items():
        joint = np.stack([own[module] for own in use.values()]) / tasks
        information = 0.0
        for t in range(tasks):
            for e in range(experts):
                information += joint[t, e] * np.log(joint[t, e] / (joint[t].sum() * joint[:, e].sum()))
        assert score == pytest.approx(information / np.log(min(tasks, experts)))


def test_its_ends_whatever_the_number_of_experts():
    own = {f"t{t}": {"m": np.eye(6)[t]} for t in range(4)}
    assert specialisation(own)["m"] == pytest.approx(1)
    halves = {"a": {"m": np.array([1.0, 0])}, "b": {"m": np.array([0, 1.0])}}
    assert specialisation(halves)["m"] == pytest.approx(1)
    assert specialisation({"a": {"m": np.full(3, 1 / 3)}, "b": {"m": np.full(3, 1 / 3)}})["m"] == pytest.approx(0)


def test_one_task_or_one_expert_has_no_score():
    assert specialisation({"a": {"m": np.array([0.2, 0.8])}}) == {"m": None}
    assert specialisation({"a": {"m": np.ones(1)}, "b": {"m": np.ones(1)}}) == {"m": None}
    assert specialisation({}) == {}
