"""`mosld.train`, `evaluate`, `load` and `generate` do what the commands do, in one process, in threads, many times."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import mosld
from mosld import eval as eval_command
from tests.helpers.cases import command, weights
from tests.helpers.toy_runs import evaluation_of

pytestmark = pytest.mark.slow


KEYS = {
    "method": "mosld", "model": "tiny", "source": "local", "logger": "files",
    "training": {"max_steps": 6, "batch_size": 4, "micro_batch_size": 2, "checkpoint_every": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the command and one of the same config from Python, in one folder."""
    folder = tmp_path_factory.mktemp("python")
    arguments = command(folder, f"output_dir={folder / 'typed'}")
    done = subprocess.run([sys.executable, "-m", "mosld.train", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = mosld.train(
        {"data.tasks": ["obqa", "arc_e"], "source.root": folder / "data", "output_dir": folder / "called"}, **KEYS
    )
    return folder, run


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def test_train_equals_the_command(trained):
    folder, run = trained
    assert run.path == folder / "called"
    assert run.results == results(run.path)
    assert run.scores == results(folder / "typed")["scores"]
    assert run.average == results(folder / "typed")["average"]
    assert weights(folder / "called") == weights(folder / "typed")


def test_a_finished_run_is_read_and_another_config_refused(trained):
    folder, run = trained
    config = {"output_dir": run.path, "data.tasks": ["obqa", "arc_e"], "source.root": folder / "data"}
    before = (run.path / "results.json").stat().st_mtime_ns
    again = mosld.train(config, **KEYS)
    assert again.results == run.results
    assert (run.path / "results.json").stat().st_mtime_ns == before
    with pytest.raises(mosld.UserError, match=r"seed: was 0, is 1"):
        mosld.train(config, seed=1, **KEYS)


def test_evaluate_equals_the_command_also_in_a_thread(trained):
    folder, run = trained
    assert eval_command.main([f"run={folder / 'typed'}", "data.tasks=[arc_e]", "evaluation.limit=5"]) == 0
    expected = results(evaluation_of(folder / "typed"))["scores"]
    settings = {"data.tasks": ["arc_e"], "evaluation.limit": 5}
    collected = []
    thread = threading.Thread(target=lambda: collected.append(mosld.evaluate(run, settings)))
    thread.start()
    thread.join()
    assert collected == [mosld.evaluate(str(run.path), settings)] == [expected]
    with pytest.raises(mosld.UserError, match="is fixed by the run"):
        mosld.evaluate(run, seed=1)


def test_generate_equals_the_model_that_load_returns(trained):
    _, run = trained
    model, tokenizer = mosld.load(run)
    assert not model.training
    model.train()
    prompt = tokenizer("Question: Why?\nAnswer:", return_tensors="pt").input_ids
    answer = mosld.generate(model, "Why?", max_new_tokens=6)
    assert model.training
    model.eval()
    tokens = model.generate(input_ids=prompt, max_new_tokens=6, do_sample=False)[0, prompt.shape[1] :]
    assert answer == tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert mosld.generate(run, "Why?", max_new_tokens=6) == answer
    sampled = [mosld.generate(model, "Why?", max_new_tokens=6, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_a_model_of_ones_own_needs_its_tokenizer():
    base, tokenizer = mosld.load_base("tiny")
    with pytest.raises(mosld.UserError, match="give its tokenizer"):
        mosld.generate(base, "The sky is")
    prompt = tokenizer("The sky is", return_tensors="pt").input_ids
    tokens = base.eval().generate(input_ids=prompt, max_new_tokens=4, do_sample=False)[0, prompt.shape[1] :]
    expected = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert mosld.generate(base, "The sky is", tokenizer=tokenizer, max_new_tokens=4) == expected


def test_the_module_of_the_command_stays_callable():
    code = (
        "import sys, mosld; assert 'torch' not in sys.modules; first = mosld.train; import mosld.train; "
        "from mosld.train import main; assert callable(first) and first is mosld.train and main(['--help']) == 0; "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_adapters_load_without_the_packages_of_training(trained):
    _, run = trained
    code = f"""
import sys
for name in ("argcomplete", "datasets", "evaluate", "gguf", "hydra", "jinja2", "math_verify", "matplotlib", "rich",
             "scipy", "sentencepiece", "wandb"):
    sys.modules[name] = None
import mosld, mosld.adapters
from peft import PeftModel
base, tokenizer = mosld.load_base("tiny")
model = PeftModel.from_pretrained(base, {str(run.path / "adapter")!r})
print(model(**tokenizer("What is hot?", return_tensors="pt")).logits.double().sum().item())
mosld.adapt(mosld.load_base("tiny")[0], "mosld")
try:
    mosld.train
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    total, refusal = done.stdout.splitlines()
    model, tokenizer = mosld.load(run)
    assert float(total) == pytest.approx(
        model(**tokenizer("What is hot?", return_tensors="pt")).logits.double().sum().item(), rel=1e-4
    )
    assert refusal.startswith("mosld.train needs hydra")
    assert refusal.endswith("pip install 'mosld[train]'")


def test_the_notebook_of_the_docs_runs_and_prints_each_line_once(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="needs pip install 'mosld[test]'")
    client = pytest.importorskip("nbclient", reason="needs pip install 'mosld[test]'")
    pytest.importorskip("ipykernel", reason="needs pip install 'mosld[notebook]'")
    page = Path(__file__).resolve().parents[2] / "docs/tutorial/notebook.ipynb"
    notebook = nbformat.read(page, as_version=4)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = [output for output in outputs if output.output_type == "stream"]
    # Nothing on stderr: no warning of a library.
    assert {output.name for output in printed} == {"stdout"}
    lines = [line for output in printed for line in output.text.splitlines()]
    log = (tmp_path / "my-run" / "train.log").read_text()
    for text in ("it ends at step 2", "it ends at step 4", "kept the weights of step 2"):
        assert sum(text in line for line in lines) == 1
        assert log.count(text) == 1
    bars = [output.data["text/plain"] for output in outputs if output.output_type == "display_data"]
    assert sum(bar.startswith("training ") for bar in bars) == 2
    assert "training 4/4" in log
