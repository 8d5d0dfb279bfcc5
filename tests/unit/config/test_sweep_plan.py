"""Sweeps before they start: which jobs there are, what is refused, and that nothing is started or written for it."""

from pathlib import Path

import pytest

from mosld.common.errors import UserError
from mosld.config import groups
from mosld.config.compose import load_config
from mosld.config.groups import config_directory, group_options
from mosld.config.identity import run_directory
from mosld.config.sweep import is_sweep, job_overrides, plan_sweep

JOBS = {"dropout": 6, "rank": 5, "allocation": 5, "seeds": 3, "dropout_x_rank": 30, "optuna": 0}


def settings(arguments: list[str], *keys: str) -> list[tuple]:
    """The values of some keys in every job."""
    found = []
    for job in plan_sweep(arguments).jobs:
        values = []
        for key in keys:
            value = job.config
            for part in key.split("."):
                value = getattr(value, part)
            values.append(value)
        found.append(tuple(values))
    return found


def refusal(*arguments: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        plan_sweep(arguments)
    return caught.value.messages


@pytest.mark.parametrize("arguments", [["-m"], ["--multirun", "seed=1"], ["sweep=rank"], ["model=tiny", "sweep=seeds"]])
def test_a_flag_or_a_sweep_file_makes_a_sweep(arguments: list[str]):
    assert is_sweep(arguments)


@pytest.mark.parametrize("arguments", [[], ["seed=1"], ["sweep=null"], ["experiment=real_four"], ["experiment=none"]])
def test_nothing_else_does(arguments: list[str]):
    assert not is_sweep(arguments)


def test_an_experiment_that_says_multirun_is_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "many.yaml").write_text("hydra:\n  mode: MULTIRUN\n")
    monkeypatch.setattr("mosld.config.sweep.config_directory", lambda: tmp_path)
    assert is_sweep(["experiment=many"])


def test_two_keys_make_every_combination_the_first_one_slowest():
    found = settings(["-m", "method.dropout=0.1,0.2", "method.rank=4,8"], "method.dropout", "method.rank")
    assert found == [(0.1, 4), (0.1, 8), (0.2, 4), (0.2, 8)]


@pytest.mark.parametrize("name", sorted(set(group_options()["sweep"]) - {"methods"}))
def test_a_sweep_file_has_its_jobs(name: str):
    assert len(plan_sweep([f"sweep={name}"]).jobs) == JOBS[name]


def test_the_sweep_of_methods_has_every_method():
    own = [name for name in group_options()["method"] if not name.endswith("_authors")]
    assert sorted(name for (name,) in settings(["sweep=methods"], "method.name")) == own


def test_the_sweep_of_allocations_has_every_allocation():
    found = settings(["sweep=allocation"], "allocation.name")
    assert sorted(name for (name,) in found) == group_options()["allocation"]


def test_a_key_on_the_command_line_wins_over_the_sweep_file():
    assert settings(["sweep=rank", "method.rank=4", "seed=1,2"], "method.rank", "seed") == [(4, 1), (4, 2)]


def test_a_list_is_one_value():
    found = settings(["-m", "data.tasks=[obqa,csqa]", "seed=0,1"], "data.tasks", "seed")
    assert found == [(["obqa", "csqa"], 0), (["obqa", "csqa"], 1)]


def test_a_key_that_no_file_names_can_be_swept():
    assert [n for (n,) in settings(["-m", "training.max_steps=1,2"], "training.max_steps")] == [1, 2]


def test_a_job_is_the_run_that_a_command_of_its_own_makes():
    job = plan_sweep(["-m", "launcher=local", "seed=3,4"]).jobs[1]
    assert job.overrides == ["seed=4"]
    assert run_directory(job.config) == run_directory(load_config(["seed=4"]))


def test_overrides_of_a_job_are_as_they_are_typed():
    assert job_overrides(["++seed=1", "method=lora", "launcher=joblib", "sweep=rank", "+model.shape.x=1"]) == [
        "seed=1", "method=lora", "+model.shape.x=1",
    ]  # fmt: skip


def test_the_same_jobs_make_the_same_sweep_whatever_their_order():
    first, second = plan_sweep(["-m", "seed=0,1", "method.rank=4"]), plan_sweep(["-m", "method.rank=4", "seed=1,0"])
    assert first.directory == second.directory


def test_other_jobs_make_another_sweep():
    assert plan_sweep(["-m", "seed=0,1"]).name != plan_sweep(["-m", "seed=0,2"]).name


@pytest.mark.parametrize("more", ["launcher=joblib", "logger=files", "hydra.sweeper.max_batch_size=1"])
def test_how_a_sweep_runs_does_not_change_its_name(more: str):
    assert plan_sweep(["sweep=seeds", more]).name == plan_sweep(["sweep=seeds"]).name


def test_every_mistake_in_any_job_is_told_at_once():
    found = refusal("-m", "method.rank=4,0", "seed=-1,1", "method.dropot=1,2")
    assert [message.split(":")[0] for message in found] == ["method.dropot=1"]
    found = refusal("-m", "method.rank=4,0", "seed=-1,1")
    assert [message.split(":")[0] for message in found] == ["seed=-1", "method.rank=0"]


def test_a_mistake_of_some_jobs_names_the_first_of_them():
    (message,) = refusal("-m", "method=mosl,mosld", "method.rank=4,0", "seed=1")
    assert message.endswith("(in 2 of 4 jobs, the first: method=mosl method.rank=0)")


def test_a_mistake_of_all_jobs_stands_once():
    (message,) = refusal("-m", "method=mosl,mosld", "method.rank=0")
    assert "jobs" not in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep=rnk"], "did you mean 'rank'"),
        (["-m", "launcher=slrm", "seed=1,2"], "did you mean 'slurm'"),
        (["-m", "output_dir=here", "seed=1,2"], "names one run, and a sweep has a directory for each"),
        (["-m", "seed=interval(1,3)"], "use sweep=optuna"),
        (["-m", "method=glob(x*)"], "names no value"),
        (["sweep=optuna", "method=glob(*)"], "name the values for Optuna"),
        (["sweep=optuna", "method.rank=choice(4,0)"], "must be at least 1"),
        (["sweep=optuna", "training.warmup=interval(0,2)"], "must be below 1"),
        (["-m", "seed=1,2", "hydra.sweeper.n_trials=3"], "hydra.sweeper.n_trials"),
        (["-m", "seed=1,2", "hydra.sweep.dir=here"], "in a sweep only hydra.sweeper."),
        (["sweep=optuna", "hydra.sweeper.storage=postgresql://me:secret-word@host/db"], "looks like a secret"),
        (["-m", "seed=1,"], "is no override"),
        (["-m", "x"], "is no override"),
    ],
)
def test_what_is_refused(arguments: list[str], words: str):
    assert words in "\n".join(refusal(*arguments))


def test_no_secret_is_repeated():
    assert "secret-word" not in "".join(
        refusal("sweep=optuna", "hydra.sweeper.storage=sqlite://me:secret-word@host/db")
    )


def test_other_launchers_are_refused_in_a_launch_of_several_processes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for chosen in ("launcher=joblib", "hydra/launcher=submitit_local"):
        assert "started by this launch" in refusal("sweep=rank", chosen)[0]


@pytest.mark.parametrize("chosen", groups.PLUGINS)
def test_an_option_whose_package_is_missing_says_what_to_install(chosen: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mosld.config.groups.find_spec", lambda package: None)
    extra = groups.PLUGINS[chosen][1]
    assert f"pip install 'mosld[{extra}]'" in refusal("-m", chosen, "seed=1,2")[0]


@pytest.mark.parametrize("chosen", groups.PLUGINS)
def test_the_extra_of_an_option_exists(chosen: str):
    pyproject = (config_directory().parent / "pyproject.toml").read_text()
    package, extra = groups.PLUGINS[chosen]
    assert f'\n{extra} = ["{package.split(".")[1].replace("_", "-")}' in pyproject


def test_a_sweep_file_that_sets_a_key_of_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "rank.yaml").write_text("seed: 3\nhydra:\n  mode: MULTIRUN\n")
    monkeypatch.setattr("mosld.config.sweep.config_directory", lambda: tmp_path)
    assert "sets seed; a sweep file has hydra alone" in refusal("sweep=rank")[0]


def test_without_m_the_message_says_to_add_it():
    with pytest.raises(UserError, match="add -m"):
        load_config(["method.rank=4,8"])
