"""data=single_*: a list of several tasks means its one task, so one list serves a sweep; without it, it is refused."""

import pytest

from mosld.common.errors import UserError
from mosld.config.compose import load_config
from mosld.config.identity import results_keys, run_directory
from mosld.config.rerun import rerun_config
from mosld.config.schema import Config
from mosld.config.sweep import plan_sweep
from tests.helpers import refusals

FOUR = "data.tasks=[obqa,csqa,arc_e,arc_c]"
RECORDED = {
    "model": {"name": "tiny", "kind": "random"}, "method": {"name": "m"},
    "data": {"name": "single_obqa", "tasks": ["obqa"]},
}  # fmt: skip


def refusal(*overrides: str) -> list[str]:
    return refusals.refusal(load_config, overrides)


def same_run(config: Config, plain: Config) -> bool:
    return (results_keys(config), run_directory(config)) == (results_keys(plain), run_directory(plain))


MEANS_OBQA = {
    "several tasks": ["data.tasks=[obqa,csqa]"],
    "its own alone": ["data.tasks=[obqa]"],
    "an order": ["data.tasks=[csqa,arc_e,obqa]"],
    "rows of openorca": ["data.tasks=[obqa,openorca]", "data.n_openorca=125"],
    "weights": ["data.tasks=[obqa,csqa]", "data.mixing=weights", "data.weights={obqa: 2, csqa: 1}"],
    "a temperature": ["data.mixing=temperature", "data.temperature=2"],
}


@pytest.mark.parametrize("case", MEANS_OBQA)
def test_keys_of_a_mixture_leave_the_single_run_unchanged(case: str):
    assert same_run(load_config(["data=single_obqa", *MEANS_OBQA[case]]), load_config(["data=single_obqa"]))


def test_cap_applies_to_a_single_task():
    config = load_config(["data=single_obqa", "data.mixing=cap", "data.cap=5"])
    assert (config.data.mixing, config.data.cap) == ("cap", 5)


def test_task_list_of_an_experiment_is_narrowed():
    local = ["source=local", "source.root=rows"]
    config = load_config(["experiment=real_four", "data=single_obqa", *local])
    assert (config.data.tasks, config.data.limit) == (["obqa"], 300)
    assert same_run(config, load_config(["experiment=real_four", "data=single_obqa", "data.tasks=[obqa]", *local]))


def test_mixture_of_domains_has_one_expert_for_a_single_task():
    assert load_config(["method=moa", "data=single_obqa", FOUR]).method.domains == ["obqa"]


def test_list_without_the_task_is_refused():
    (message,) = refusal("data=single_race", FOUR)
    assert message == (
        "data.tasks=[obqa,csqa,arc_e,arc_c]: data=single_race needs race, which is not among them; "
        "leave data=single_race out, set data.tasks=[race], or take data=mixture with these tasks."
    )


@pytest.mark.parametrize(
    ("tasks", "part"),
    [("[obqa,csq]", "'csqa'"), ("[obqa,obqa]", "twice"), ("[]", "no task"), ("[race,nosuch]", "'nos")],
)
def test_mistake_in_the_list_is_reported(tasks: str, part: str):
    (message,) = refusal("data=single_obqa", f"data.tasks={tasks}")
    assert part in message


def test_weight_of_an_unknown_task_is_reported():
    (message,) = refusal(
        "data=single_obqa", "data.tasks=[obqa,csqa]", "data.mixing=weights", "data.weights={obqa: 2, csqq: 1}"
    )
    assert "csqq is not a task of this run" in message


def test_one_list_serves_a_sweep_over_mixture_and_single_settings():
    settings = "data=mixture,single_obqa,single_csqa,single_arc_e,single_arc_c"
    jobs = plan_sweep(["experiment=table1", "method=lora,mosld", FOUR, settings]).jobs
    tasks = {job.config.data.name: job.config.data.tasks for job in jobs}
    assert (len(jobs), len({run_directory(job.config) for job in jobs})) == (10, 10)
    assert tasks == {
        "mixture": ["obqa", "csqa", "arc_e", "arc_c"],
        **{f"single_{task}": [task] for task in ("obqa", "csqa", "arc_e", "arc_c")},
    }


def test_sweep_over_settings_missing_from_the_list_names_each():
    messages = refusals.refusal(plan_sweep, ["experiment=table1", "method=lora,mosld", FOUR])
    assert [message.split("needs ")[1].split(",")[0] for message in messages] == ["race", "mctest"]
    assert all("(in 2 of 14 jobs, the first: method=lora data=single_" in message for message in messages)


@pytest.mark.parametrize(("tasks", "part"), [("[obqa,csqa]", "is obqa alone"), ("[csqa]", "needs obqa")])
def test_eval_does_not_narrow_the_list(tasks: str, part: str):
    with pytest.raises(UserError, match=f"{part}.*take data=mixture with these tasks"):
        rerun_config(RECORDED, [f"data.tasks={tasks}"])
    assert rerun_config(RECORDED, ["data=mixture", f"data.tasks={tasks}"]).data.name == "mixture"


def test_recorded_task_list_is_kept():
    wrong = {**RECORDED, "data": {"name": "single_obqa", "tasks": ["obqa", "csqa"]}}
    assert rerun_config(wrong, ["prompt=cloze"]).data.tasks == ["obqa", "csqa"]
