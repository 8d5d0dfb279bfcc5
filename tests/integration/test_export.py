"""`mosld.export` and `merge`: what each form holds, what is refused; the adapter directory as a colleague gets it."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
import yaml
from gguf import GGUFReader
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM

import mosld
from mosld import chat as chat_command
from mosld import eval as eval_command
from mosld import export as export_command
from mosld import merge as merge_command
from mosld.common.errors import UserError
from mosld.common.files import damage
from mosld.recipes.load import load_trained
from mosld.recipes.verify import verify_runs
from mosld.runs.model_card import base_reference
from mosld.runs.saved import saved_run
from tests.helpers.toy_runs import evaluation_of

pytestmark = pytest.mark.slow

TASKS = ("obqa", "arc_e")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def export(*arguments) -> int:
    return export_command.main(list(map(str, arguments)))


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(IDS).logits


def by_peft(folder: Path) -> torch.Tensor:
    return logits(PeftModel.from_pretrained(mosld.load_base("tiny")[0], str(folder)).eval())


def loaded(folder: Path):
    run = saved_run(str(folder))
    return load_trained(run.config().model, run)[0]


def by_mosld(folder: Path) -> torch.Tensor:
    return logits(loaded(folder))


def test_a_mixture_as_a_model_is_the_mixture(trained, tmp_path):
    run = trained("mosl")
    assert export(run, "as=model", f"output={tmp_path / 'out'}") == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert torch.equal(logits(model.eval()), by_mosld(run))
    assert "trust_remote_code=True" in (tmp_path / "out" / "README.md").read_text()


def test_a_lora_is_exported_exactly(trained, tmp_path, capsys):
    run = trained("lora")
    assert export(run, "as=lora", f"output={tmp_path / 'out'}") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out")
    torch.testing.assert_close(by_peft(tmp_path / "out"), by_mosld(run), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(by_mosld(tmp_path / "out"), by_mosld(run), atol=1e-4, rtol=1e-4)
    assert list(damage(tmp_path / "out")) == []


def test_each_expert_of_moa_is_exported_as_a_lora(trained, tmp_path):
    run = trained("moa")
    assert export(run, "as=lora", f"output={tmp_path / 'out'}") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(TASKS)
    experts = [by_peft(tmp_path / "out" / task) for task in TASKS]
    assert (experts[0] - experts[1]).abs().max() > 1e-3
    # The routers of all layers choose between the two.
    assert min((expert - by_mosld(run)).abs().max() for expert in experts) < (experts[0] - experts[1]).abs().max()


QV = ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("method", "rank", "targets"),
    [("mosl", 8, QV), ("mola", 16, QV), ("mixlora", 16, ["down_proj", "gate_proj", "q_proj", "up_proj", "v_proj"])],
)
def test_a_mixture_is_fitted_for_each_task_and_says_its_error(method, rank, targets, trained, tmp_path, capsys):
    assert export(f"run={trained(method)}", "as=lora", "per=task", "--output", tmp_path / "out", "rows=40") == 0
    said = capsys.readouterr().err
    for task in TASKS:
        config = json.loads((tmp_path / "out" / task / "adapter_config.json").read_text())
        assert config["r"] == config["lora_alpha"] == rank
        assert config["target_modules"] == targets
        assert f"a LoRA of rank {rank}, fitted to the mixture on" in said
        assert f"train rows of {task}: on " in said
        card = (tmp_path / "out" / task / "README.md").read_text()
        assert "unseen rows its updates differ from the mixture's by 0." in card
        assert "import mosld" not in card
        assert (tmp_path / "out" / task / "rows.json").is_file()
    assert (by_peft(tmp_path / "out" / "obqa") - by_peft(tmp_path / "out" / "arc_e")).abs().max() > 1e-4
    assert eval_command.main([f"run={tmp_path / 'out' / 'obqa'}", "evaluation.limit=2"]) == 0


def test_rank_over_vllms_default_is_said(trained, tmp_path, capsys):
    assert export(trained("mola"), "as=lora", "rank=24", "dtype=bfloat16", f"output={tmp_path / 'out'}") == 0
    assert "rank 24: start vLLM with --max-lora-rank 32 (its default is 16)" in capsys.readouterr().err
    tensors = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    assert b'"BF16"' in tensors
    assert b'"F32"' not in tensors


def test_merged_and_gguf_are_of_the_same_lora(trained, tmp_path):
    run = trained("mosl")
    for form in ("lora", "merged", "gguf"):
        assert export(run, f"as={form}", f"output={tmp_path / form}") == 0
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    torch.testing.assert_close(merged, by_peft(tmp_path / "lora"), atol=1e-4, rtol=1e-4)
    assert eval_command.main([f"run={tmp_path / 'merged'}", "evaluation.limit=2"]) == 0
    reader = GGUFReader(tmp_path / "gguf" / "adapter.gguf")
    assert len(reader.tensors) == 2 * 2 * 4  # A and B, q and v, layers
    assert reader.fields["adapter.lora.alpha"].contents() == 8


REFUSED = [
    ("lora", ["as=model"], "a plain LoRA can be merged exactly; take as=merged"),
    ("lora", ["as=lora", "rank=4"], "rank=4: this LoRA is exact"),
    ("lora", ["as=gguf", "per=task"], "per=task: there is one adapter for all tasks"),
    ("mosl", ["as=model", "per=task"], "per=task: there is one adapter for all tasks"),
    ("moa", ["as=lora", "per=all"], "per=all: every request has the expert of its own task"),
    ("prefix", ["as=lora"], "PEFT loads {run}/adapter as it is"),
    ("full", ["as=merged"], "already is a whole, stand-alone model"),
    ("mosl", ["as=lora", "output={run}"], "output={run}: exists and is not an empty directory"),
    ("mosl", ["as=lora", "--model-path", "nowhere"], "model.path=nowhere: no checkpoint there"),
    ("mosl", ["as=lora", "source.root=nowhere"], "nowhere: no such file or directory"),
    ("mosl", ["as=lora", "rows=0"], "0: must be a whole number of at least 1"),
    ("mosl", ["as=lorra"], "invalid choice: 'lorra'"),
    ("mosl", ["as=lora", "rnk=4"], "rnk=4: unknown key; did you mean 'rank'?"),
    ("mosl", [], "the following arguments are required: --as"),
    ("mosl", ["as=lora", "output={run}/config.yaml"], "exists and is not an empty directory"),
    ("mosl", ["as=lora", "output={run}/config.yaml/out"], "nothing can be made in {run}/config.yaml"),
    ("mosl", ["as=lora", "--outptu", "x"], "--outptu: unknown flag; did you mean '--output'"),
    ("mosl", ["as=lora", "dtype=float16"], "invalid choice: 'float16'"),
]


@pytest.mark.parametrize(("method", "arguments", "message"), REFUSED, ids=str)
def test_mistake_is_one_message_before_a_model_loads(
    method, arguments, message, trained, tmp_path, monkeypatch, capsys
):
    run = trained(method)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mosld.recipes.load.load_base_model", lambda *_: pytest.fail("a model was loaded"))
    given = [argument.format(run=run) for argument in arguments]
    capsys.readouterr()
    assert export(run, *given, *([] if any("output=" in text for text in given) else ["output=out"])) == 2
    captured = capsys.readouterr()
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)
    assert message.format(run=run) in captured.err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def merged(trained, tmp_path_factory) -> Path:
    """What `mosld.merge` makes of the LoRA."""
    target = tmp_path_factory.mktemp("merge") / "deep" / "merged"
    assert merge_command.main([str(trained("lora")), "--output", str(target)]) == 0
    return target


def test_merged_directory_is_complete_and_has_a_card(merged, trained):
    assert list(damage(merged)) == []
    files = {"model.safetensors", "config.json", "tokenizer.json", "config.yaml", "README.md"}
    assert files <= {path.name for path in merged.iterdir()}
    card = (merged / "README.md").read_text()
    yaml.safe_load(card.split("---")[1])
    score = json.loads((trained("lora") / "results.json").read_text())["scores"]["obqa"]["accuracy"]
    assert "merged into its weights: a stand-alone model" in card
    assert f"| obqa | {100 * score:.1f} ±" in card
    assert not list(merged.parent.glob(".tmp-*"))


def test_a_merged_directory_is_no_run_to_verify(merged):
    with pytest.raises(UserError, match="there is no run"):
        verify_runs(merged.parent, 0)


def test_merged_model_has_the_logits_scores_and_answers_of_base_and_adapter(merged, trained, capsys):
    run = trained("lora")
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(merged)), by_mosld(run), atol=1e-4, rtol=1e-4
    )
    records, answers = [], []
    for folder in (merged, run):
        assert eval_command.main([f"run={folder}"]) == 0
        files = sorted((evaluation_of(folder, "mixture") / "predictions").glob("*.jsonl"))
        records.append([json.loads(line) for file in files for line in file.read_text().splitlines()])
        capsys.readouterr()
        assert chat_command.main([str(folder), "--prompt", "Why?", "--experts"]) == 0
        answers.append(capsys.readouterr())
    assert answers[0] == answers[1]
    assert len(records[0]) == 16
    for one, other in zip(*records, strict=True):
        assert one["prediction"] == other["prediction"]
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-3)


def test_other_dtype_is_rounded_once_and_recorded(trained, tmp_path, capsys):
    run, empty = trained("lora"), tmp_path / "half"
    empty.mkdir()
    assert merge_command.main([str(run / "adapter"), "--output", str(empty), "--dtype", "bfloat16"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == str(empty)
    assert "merged in float32 (on a probe, logits differ by " in captured.err
    assert "written in bfloat16" in captured.err
    assert yaml.safe_load((empty / "config.yaml").read_text())["model"]["dtype"] == "bfloat16"
    weights = loaded(empty).state_dict()
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    for name, weight in loaded(run).merge_and_unload().state_dict().items():
        assert torch.equal(weights[name], weight.bfloat16())


def test_merge_refuses_a_mixture_and_says_what_takes_it(trained, tmp_path, capsys):
    assert merge_command.main([str(trained("mosld")), "--output", str(tmp_path / "out")]) == 2
    assert "mosld routes: every token has its own sum of experts" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_run_that_diverged_is_refused(trained, tmp_path, capsys):
    run = shutil.copytree(trained("mosl"), tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "status": "diverged", "error": "loss nan at step 3"}))
    assert export(run, "as=lora", f"output={tmp_path / 'out'}") == 2
    assert f"{run} diverged (loss nan at step 3): there is nothing to export" in capsys.readouterr().err


def test_adapter_of_another_run_is_refused(trained, tmp_path, capsys):
    run = shutil.copytree(trained("mosl"), tmp_path / "run")
    shutil.rmtree(run / "adapter")
    shutil.copytree(trained("mola") / "adapter", run / "adapter")
    assert export(run, "as=lora", f"output={tmp_path / 'out'}") == 2
    said = capsys.readouterr().err
    assert f"{run}/adapter is the adapter of another run" in said
    assert "method.name" in said
    assert "method.share" in said


@pytest.mark.parametrize("method", ["lora", "mosl", "moa", "prefix", "full"])
def test_saved_directory_names_no_place_of_this_machine_and_others_may_read_it(method, trained):
    run = trained(method)
    folders = [run / ("model" if method == "full" else "adapter"), *run.glob("experts/*/adapter")]
    umask = os.umask(0)
    os.umask(umask)
    for folder in folders:
        modes = {path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()}
        assert modes == {0o666 & ~umask}
        if method != "full":
            config = json.loads((folder / "adapter_config.json").read_text())
            assert config["base_model_name_or_path"].startswith("tiny (with mosld installed, mosld.load_base('tiny')")
    card = (folders[0] / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["base_model"], front["tags"]) == ("tiny", ["mosld", method])
    assert ("import mosld" in card) == (method in ("mosl", "moa"))
    assert "python -m mosld.chat" in card
    assert ("python -m mosld.export" in card) == (method in ("mosl", "moa", "lora"))


def test_auto_class_of_peft_says_at_once_that_the_base_is_not_there(trained):
    start = time.perf_counter()
    with pytest.raises(OSError, match=r"mosld.load_base\('tiny'\) loads it"):
        AutoPeftModelForCausalLM.from_pretrained(trained("lora") / "adapter")
    assert time.perf_counter() - start < 5


def test_auto_class_of_peft_loads_where_the_base_resolves(trained, tmp_path, monkeypatch):
    run = trained("lora")
    shutil.copytree(run / "adapter", tmp_path / "adapter")
    mosld.load_base("tiny")[0].save_pretrained(tmp_path / "owner" / "base")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "owner/base"
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    torch.testing.assert_close(logits(AutoPeftModelForCausalLM.from_pretrained("adapter").eval()), by_mosld(run))


def test_reference_of_a_hub_base_is_its_id_whatever_the_path(trained):
    model = saved_run(str(trained("lora"))).config().model
    hub = type(model)(name="llama2_7b", hub="meta-llama/Llama-2-7b-hf", revision="abc", path="/home/me/llama")
    assert base_reference(hub) == ("meta-llama/Llama-2-7b-hf", "abc")
    local, revision = base_reference(type(model)(name="mine", kind="random", path="/home/me/llama"))
    assert local.startswith("mine (a checkpoint of whoever trained this")
    assert "/home" not in local
    assert revision is None
