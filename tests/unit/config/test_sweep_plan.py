"""Sweeps before they start: which jobs there are, what is refused, and that nothing is started or written for it."""

import tomllib
from operator import attrgetter
from pathlib import Path

import pytest

from mosld.config import groups
from mosld.config.compose import load_config
from mosld.config.identity import run_directory
from mosld.config.options import config_directory, group_options
from mosld.config.sweep import is_sweep, job_overrides, plan_sweep
from tests.helpers import refusals

JOBS = {"dropout": 6, "rank": 5, "allocation": 5, "seeds": 3, "dropout_x_rank": 30, "optuna": 0}


def settings(arguments: list[str], *keys: str) -> list[tuple]:
    """The values of some keys in every job."""
    return [tuple(attrgetter(key)(job.config) for key in keys) for job in plan_sweep(arguments).jobs]


def refusal(*arguments: str) -> list[str]:
    return refusals.refusal(plan_sweep, arguments)


@pytest.mark.parametrize(
    ("arguments", "sweep"),
    [
        (["-m"], True),
        (["--multirun", "seed=1"], True),
        (["sweep=rank"], True),
        (["model=tiny", "sweep=seeds"], True),
        ([], False),
        (["seed=1"], False),
        (["sweep=null"], False),
        (["experiment=real_four"], False),
        (["experiment=none"], False),
    ],
)
def test_flag_or_sweep_file_makes_a_sweep(arguments: list[str], sweep: bool):
    assert is_sweep(arguments) == sweep


def test_experiment_with_mode_multirun_is_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "many.yaml").write_text("hydra:\n  mode: MULTIRUN\n")
    monkeypatch.chdir(tmp_path)
    assert is_sweep(["experiment=many"])


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["-m", "method.dropout=0.1,0.2", "method.rank=4,8"], {"method.dropout": [0.1, 0.1, 0.2, 0.2],
                                                               "method.rank": [4, 8, 4, 8]}),
        (["sweep=rank", "method.rank=4", "seed=1,2"], {"method.rank": [4, 4], "seed": [1, 2]}),
        (["-m", "data.tasks=[obqa,csqa]", "seed=0,1"], {"data.tasks": [["obqa", "csqa"]] * 2, "seed": [0, 1]}),
        (["-m", "training.max_steps=1,2"], {"training.max_steps": [1, 2]}),
    ],
    ids=["combinations", "the command line wins over a file", "a list is one value", "a key that no file names"],
)  # fmt: skip
def test_jobs_have_the_values_of_the_overrides(arguments: list[str], values: dict[str, list]):
    assert settings(arguments, *values) == list(zip(*values.values(), strict=True))


@pytest.mark.parametrize("name", sorted(set(group_options()["sweep"]) - {"methods"}))
@pytest.mark.slow
def test_sweep_file_has_its_jobs(name: str):
    assert len(plan_sweep([f"sweep={name}"]).jobs) == JOBS[name]


@pytest.mark.slow
def test_sweep_files_have_every_method_and_allocation():
    methods = [name for name in group_options()["method"] if not name.endswith("_authors")]
    assert sorted(name for (name,) in settings(["sweep=methods"], "method.name")) == methods
    allocations = sorted(name for (name,) in settings(["sweep=allocation"], "allocation.name"))
    assert allocations == group_options()["allocation"]


def test_job_is_the_run_of_a_command_of_its_own():
    job = plan_sweep(["-m", "launcher=local", "seed=3,4"]).jobs[1]
    assert job.overrides == ["seed=4"]
    assert run_directory(job.config) == run_directory(load_config(["seed=4"]))


def test_job_overrides_are_those_of_a_command():
    assert job_overrides(["++seed=1", "method=lora", "launcher=joblib", "sweep=rank", "+model.shape.x=1"]) == [
        "seed=1", "method=lora", "+model.shape.x=1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        (["-m", "method.rank=4", "seed=1,0"], True),
        (["-m", "seed=0,1", "method.rank=4", "launcher=joblib"], True),
        (["-m", "seed=0,1", "method.rank=4", "logger=files"], True),
        (["-m", "seed=0,1", "method.rank=4", "hydra.sweeper.max_batch_size=1"], True),
        (["-m", "seed=0,2", "method.rank=4"], False),
    ],
    ids=["another order", "launcher", "logger", "sweeper", "another job"],
)
def test_sweeps_of_equal_jobs_have_one_directory(other: list[str], equal: bool):
    first, second = plan_sweep(["-m", "seed=0,1", "method.rank=4"]), plan_sweep(other)
    assert (first.directory == second.directory) == equal


def test_all_mistakes_of_all_jobs_are_reported_at_once():
    messages = refusal("-m", "method.rank=4,0", "seed=-1,1", "method.dropot=1,2")
    assert [message.split(":")[0] for message in messages] == ["method.dropot=1"]
    messages = refusal("-m", "method.rank=4,0", "seed=-1,1")
    assert [message.split(":")[0] for message in messages] == ["seed=-1", "method.rank=0"]


def test_mistake_of_some_jobs_names_the_first():
    (message,) = refusal("-m", "method=mosl,mosld", "method.rank=4,0", "seed=1")
    assert message.endswith("(in 2 of 4 jobs, the first: method=mosl method.rank=0)")


def test_mistake_of_all_jobs_is_reported_once():
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
def test_wrong_sweep_is_refused(arguments: list[str], words: str):
    message = "\n".join(refusal(*arguments))
    assert words in message
    assert "secret-word" not in message


def test_other_launchers_are_refused_under_torchrun(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for chosen in ("launcher=joblib", "hydra/launcher=submitit_local"):
        assert "started by this launch" in refusal("sweep=rank", chosen)[0]


@pytest.mark.parametrize("chosen", groups.PLUGINS)
def test_missing_plugin_says_what_to_install(chosen: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mosld.config.groups.find_spec", lambda package: None)
    extra = groups.PLUGINS[chosen][1]
    assert f"pip install 'mosld[{extra}]'" in refusal("-m", chosen, "seed=1,2")[0]


@pytest.mark.parametrize("chosen", groups.PLUGINS)
def test_extra_of_a_plugin_exists(chosen: str):
    pyproject = tomllib.loads((config_directory().parent / "pyproject.toml").read_text())
    package, extra = groups.PLUGINS[chosen]
    name = package.split(".")[1].replace("_", "-")
    assert any(text.startswith(name) for text in pyproject["project"]["optional-dependencies"][extra])


def test_sweep_file_with_a_key_of_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    (tmp_path / "conf" / "sweep" / "mine.yaml").write_text("seed: 3\nhydra:\n  mode: MULTIRUN\n")
    monkeypatch.chdir(tmp_path)
    assert "sets seed; a sweep file has hydra alone" in refusal("sweep=mine")[0]
