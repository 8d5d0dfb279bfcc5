"""`mosld.chat`: answers, experts of each token, pipes, a session, refusals; with a run of every method."""

import io
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from mosld import chat as chat_command
from mosld.adapters.forward_context import ForwardContext
from mosld.evaluation.expert_use import token_experts
from mosld.recipes.generate import Streamer
from mosld.recipes.load import load_trained
from mosld.runs.saved import saved_run
from mosld.runs.tables import experts_summary, experts_tables
from tests.helpers.methods import BY_NAME, ROUTED

pytestmark = pytest.mark.slow

ROUTERLESS = ("full", "prefix", "lora")


def loaded(run: Path):
    saved = saved_run(str(run))
    return load_trained(saved.config().model, saved)


def plain_generate(model, tokenizer, prompt: str, **options) -> str:
    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        out = model.generate(**inputs, pad_token_id=tokenizer.pad_token_id, **options)
    return tokenizer.decode(out[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)


def chat(capsys, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = chat_command.main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("method", BY_NAME)
def test_answer_equals_plain_generate(method, trained, capsys):
    run = trained(method)
    expected = plain_generate(*loaded(run), "Question: Why?\nAnswer:", max_new_tokens=12, do_sample=False)
    code, out, err = chat(capsys, str(run), "--prompt", "Why?", "--max-new-tokens", "12")
    assert (code, out, err) == (0, expected.lstrip() + "\n", "")


def test_adapter_and_model_directories_give_the_same_answer(trained, tmp_path, capsys):
    for method, folder in (("mosld", "adapter"), ("full", "model")):
        copy = shutil.copytree(trained(method) / folder, tmp_path / folder)
        answers = [chat(capsys, str(folder), "--prompt", "Why?")[:2] for folder in (trained(method), copy)]
        assert answers[0] == answers[1]
        assert answers[0][0] == 0


def test_sampling_depends_on_the_seed(trained, capsys):
    run = trained("mosld")
    first, again, other = (
        chat(capsys, str(run), "--prompt", "Why?", "--temperature", "1.5", "--seed", seed)[1] for seed in "001"
    )
    assert first == again
    assert first != other


def test_format_plain_continues_the_text(trained, capsys):
    run = trained("mosld")
    expected = plain_generate(*loaded(run), "The sky is", max_new_tokens=8, do_sample=False)
    assert chat(capsys, str(run), "--prompt", "The sky is", "--format", "plain", "--max-new-tokens", "8")[1] == (
        expected + "\n"
    )


def test_options_are_put_in_the_prompt_format_of_the_run(trained, capsys):
    run = trained("mosld")  # prompt letter
    prompt = "Question: Which is hot?\nA. sun\nB. ice\nAnswer:"
    expected = plain_generate(*loaded(run), prompt, max_new_tokens=4, do_sample=False)
    assert chat(capsys, str(run), "--prompt", "Which is hot? | sun | ice", "--max-new-tokens", "4")[1] == (
        expected.lstrip() + "\n"
    )


# Routed by A x, by a bias, or without a router: tests/unit/adapters/test_methods.py.
OTHER_GATES = ("comol", "smora", "flylora")


@pytest.mark.parametrize("method", [row.name for row in ROUTED if row.name not in OTHER_GATES])
def test_experts_equal_gates_computed_from_the_saved_weights(method, trained):
    """The router's softmax, computed here from the saved weights and the inputs that hooks see."""
    run = trained(method)
    model, tokenizer = loaded(run)
    prompt, answer = tokenizer("Question: Why?\nAnswer:").input_ids, tokenizer(" red").input_ids
    experts = token_experts(model, prompt, answer)
    config = model.active_peft_config
    routers = {name: weight for name, weight in load_file(run / "adapter/adapter_model.safetensors").items()
               if "router" in name and weight.ndim == 2}  # fmt: skip
    assert len(experts) == len(routers)
    seen: dict[str, torch.Tensor] = {}
    for name, module in model.get_base_model().named_modules():
        if name in experts:
            module.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0]))
    with torch.inference_mode():
        model(torch.tensor([[*prompt, *answer]]), attention_mask=torch.ones(1, len(prompt) + len(answer)).long())
    for name, columns in experts.items():
        (weight,) = (weight for key, weight in routers.items() if f"{name}." in key)
        x_SI = seen[name][0].float()
        x_SI = x_SI[: len(prompt)].mean(0, keepdim=True) if config.router == "domain" else x_SI[len(prompt) :]
        probs = (x_SI @ weight.T).softmax(-1)
        k = 1 if config.router == "domain" else config.top_k or probs.shape[-1]
        top = probs.topk(k)
        unscaled = config.router in ("dense", "capacity")
        gates = top.values if unscaled else top.values / top.values.sum(-1, keepdim=True)
        assert [[expert for expert, _ in taken] for taken in columns] == top.indices.tolist()
        torch.testing.assert_close(torch.tensor([[gate for _, gate in taken] for taken in columns]), gates)


def test_experts_equal_those_recorded_during_generate(trained, monkeypatch):
    """Of each token while it was generated with a cache, by recording every pass by hand."""
    for method in ("mosld", "sira", "mixlora", "moa"):
        model, tokenizer = loaded(trained(method))
        prompt = tokenizer("Question: Why?\nAnswer:").input_ids
        passes = []
        names = {id(slot): name for name, slot in model.context._slots.items()}

        def noted(_, slot, adapter, config, routing, names=names, passes=passes):
            passes.append((names[id(slot)], routing.gates_BSE[0]))

        with monkeypatch.context() as patch, torch.inference_mode():
            patch.setattr(ForwardContext, "record", noted)
            out = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=5, min_new_tokens=5, do_sample=False)
        experts = token_experts(model, prompt, out[0, len(prompt) :].tolist())
        for module, columns in experts.items():
            steps = [gates for name, gates in passes if name == module]
            taken = steps[:1] if method == "moa" else [gates[-1:] for gates in steps[1:]]
            for column, gates in zip(columns, taken, strict=False):
                expected = {expert: gate for expert, gate in enumerate(gates[0].tolist()) if gate > 0}
                assert dict(column) == pytest.approx(expected, abs=1e-4)


def test_pipe_is_answered_line_by_line_without_empty_lines(trained, monkeypatch, capsys):
    run = str(trained("mosl"))
    alone = [chat(capsys, run, "--prompt", text, "--max-new-tokens", "5")[1] for text in ("Why?", "Who is it?")]
    monkeypatch.setattr(sys, "stdin", io.StringIO("Why?\n\n   \nWho is it?"))
    assert chat(capsys, run, "--max-new-tokens", "5") == (0, "".join(alone), "")


def piped(monkeypatch, capsys, run: Path, text: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    monkeypatch.setenv("COLUMNS", "200")
    return chat(capsys, str(run), "--max-new-tokens", "3")


def test_experts_command_shows_all_or_the_named_layers_and_modules(trained, monkeypatch, capsys):
    answer = piped(monkeypatch, capsys, trained("mosld"), "Why?\n")[1]

    def shown(command: str) -> str:
        code, out, err = piped(monkeypatch, capsys, trained("mosld"), f"Why?\n{command}\n")
        assert (code, err) == (0, "")
        return out.removeprefix(answer)

    summary, module, layer = shown("/experts"), shown("/experts v_proj"), shown("/experts 2 q_proj")
    assert summary.split()[:3] == ["layer", "q_proj", "v_proj"]
    assert [line.split()[0] for line in summary.splitlines()[2:6]] == ["0", "1", "2", "3"]
    assert "q_proj" not in module
    assert [line.split()[0] for line in module.splitlines()[2:6]] == ["0", "1", "2", "3"]
    assert [line.split()[0] for line in layer.splitlines()[2:3]] == ["2"]
    assert len(layer.splitlines()[2].split()) == 1 + 3 * 2  # three tokens with two experts each
    assert ":." in layer


def test_experts_of_a_mixture_of_domains_have_names(trained, monkeypatch, capsys):
    out = piped(monkeypatch, capsys, trained("moa"), "Why?\n/experts\n")[1]
    rows = [line.split() for line in out.splitlines() if line.rstrip().endswith(("obqa:1.00", "arc_e:1.00"))]
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("method", ROUTERLESS)
def test_method_without_a_router_shows_no_experts(method, trained, monkeypatch, capsys):
    code, _, err = piped(monkeypatch, capsys, trained(method), "Why?\n/experts\n")
    assert (code, err) == (0, f"{method} has no router: every token takes the same weights\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/experts", "nothing was asked yet"),
        ("/exprts", "did you mean '/experts'"),
        ("Why?\n/experts 9", "9: no such layer or module; layers: 0 to 3; modules: q_proj, v_proj."),
        ("x" * 3000, "this model reads 2047 at most"),
    ],
)
def test_wrong_line_is_one_message_and_the_rest_is_answered(line, message, trained, monkeypatch, capsys):
    code, out, err = piped(monkeypatch, capsys, trained("mosld"), f"{line}\nWhy?\n")
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert out


class Terminal(io.StringIO):
    """A keyboard."""

    def isatty(self) -> bool:
        return True


def test_terminal_session_continues_after_mistakes(trained, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Terminal("/hlp\n/help\n\nWhy?\n/exit\nnever read\n"))
    code, out, err = chat(capsys, str(trained("mosld")), "--max-new-tokens", "3")
    assert code == 0
    assert "mosld on tiny; each question stands alone" in err
    assert "did you mean '/help'" in err
    assert "/experts v_proj" in err
    assert out == chat(capsys, str(trained("mosld")), "--max-new-tokens", "3", "--prompt", "Why?")[1]


def test_ctrl_c_stops_only_the_answer(trained, monkeypatch, capsys):
    run = str(trained("mosld"))
    whole = chat(capsys, run, "--max-new-tokens", "9", "--prompt", "Why?")[1]
    put, count = Streamer.put, []

    def interrupted(self, value):
        put(self, value)
        count.append(1)
        if len(count) == 4:  # the prompt and three tokens
            raise KeyboardInterrupt

    monkeypatch.setattr(Streamer, "put", interrupted)
    monkeypatch.setattr(sys, "stdin", Terminal("Why?\n/experts 1 q_proj\nWhy?\n"))
    code, out, err = chat(capsys, run, "--max-new-tokens", "9")
    assert code == 0
    assert "stopped" in err
    stopped, _, row, *_ = out.split("\n")[0:1] + out.split("\n")[2:]
    assert whole.startswith(stopped[:1])
    assert out.endswith(whole)
    assert row.count(":") == 6
    count.clear()
    assert chat(capsys, run, "--prompt", "Why?")[0] == 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such directory"),
        ([], "the following arguments are required: RUN"),
        (["{run}", "--promt", "x"], "--promt: unknown flag; did you mean '--prompt'"),
        (["{run}", "what", "is", "it"], "what is it: not expected here; put quotes around a text with spaces"),
        (["{run}", "--prompt", " "], "--prompt: is empty"),
        (["{run}", "--max-new-tokens", "0"], "0: must be a whole number of at least 1"),
        (["{run}", "--temperature", "-1"], "must be a number of at least 0"),
        (["{run}", "--temperature", "nan"], "must be a number of at least 0"),
        (["{run}", "--model-path", "nowhere"], "no checkpoint there"),
        (["{run}/predictions"], "no run there"),
        (["{run}", "--format", "chat", "--prompt", "x"], "has no chat template"),
    ],
)
def test_mistake_is_one_message(arguments, message, trained, capsys):
    code, out, err = chat(capsys, *(argument.format(run=trained("mosld")) for argument in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_damaged_adapter_is_rejected_before_a_model_loads(trained, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(trained("mosld"), tmp_path / "run")
    weights = run / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    # With them the adapter would be made again.
    shutil.rmtree(run / "checkpoints")
    monkeypatch.setattr("mosld.recipes.load.load_base_model", lambda *_: pytest.fail("a model was loaded"))
    code, _, err = chat(capsys, str(run), "--prompt", "x")
    assert code == 2
    assert "adapter_model.safetensors differs from its checksum" in err


def test_session_does_not_change_the_run(trained, capsys):
    run = trained("mosld")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    chat(capsys, str(run), "--prompt", "Why?", "--experts")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_help_names_every_flag(capsys):
    code, out, _ = chat(capsys, "--help")
    assert code == 0
    assert all(flag in out for flag in ("--prompt", "--experts", "--format", "/experts", "Ctrl-C"))


def test_expert_tables_of_a_long_answer_fit_the_screen():
    experts = {f"model.layers.{i}.mlp": [[(0, 0.75), (3, 0.25)]] * 30 for i in range(2)}
    tables = experts_tables(experts, [" word"] * 30, width=60)
    assert sum(len(table.columns) - 1 for table in tables) == 30
    console = Console(width=60, file=io.StringIO())
    for table in tables:
        console.print(table)
    lines = console.file.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 60
    assert "…" not in console.file.getvalue()
    assert sum(line.count("0:.75 3:.25") for line in lines) == 60


def test_summary_is_the_mean_gate_of_each_expert_on_at_most_a_screen():
    # In layer i the even tokens take expert 0 alone, the odd ones 0 and i + 1.
    tokens = [[(0, 1.0)], [(0, 0.8), (1, 0.2)]] * 5
    experts = {
        f"model.layers.{i}.{kind}": [[(e and i + 1, gate) for e, gate in taken] for taken in tokens]
        for i in range(32)
        for kind in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    }
    for width, height in ((80, 24), (80, 50), (200, 40), (80, None)):
        table, legend = experts_summary(experts, width, height)
        console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system="standard")
        console.print(table)
        console.print(legend)
        lines = re.sub("\x1b\\[[0-9;]*m", "", console.file.getvalue()).splitlines()
        assert len(lines) < (height or 100)
        assert max(map(len, lines)) <= width
        assert ("one of" in legend) == (height is not None and height < 37)
        rows = [line.split() for line in lines if line.split()[0].isdigit()]
        assert "\x1b[1;31m0:.90\x1b[0m" in console.file.getvalue()
        assert all(row[1] == "0:.90" for row in rows)
        if width == 200:
            assert [row[2] for row in rows] == [f"{int(row[0]) + 1}:.10" for row in rows]


@pytest.mark.parametrize("way", ["--system", "/system"])
def test_system_prompt_stands_before_the_question(way, trained, monkeypatch, capsys):
    run = trained("mosld")
    expected = plain_generate(*loaded(run), "Be short.\n\nQuestion: Why?\nAnswer:", max_new_tokens=3, do_sample=False)
    if way == "--system":
        out = chat(capsys, str(run), "--prompt", "Why?", "--system", "Be short.", "--max-new-tokens", "3")[1]
    else:
        out = piped(monkeypatch, capsys, run, "/system Be short.\nWhy?\n")[1]
    assert out == expected.lstrip() + "\n"


def test_reset_forgets_the_turns_and_system_without_a_text_the_prompt(trained, monkeypatch, capsys):
    alone = piped(monkeypatch, capsys, trained("mosld"), "Why?\n")[1]
    code, out, err = piped(monkeypatch, capsys, trained("mosld"), "/system Be short.\n/system\n/reset\nWhy?\n")
    assert (code, out) == (0, alone)
    assert err.splitlines()[-3:] == ["system prompt: Be short.", "system prompt: none", "a new conversation"]


@pytest.mark.parametrize("line", ["Which is hot? | the sun | an ice cube", "Why?"])
def test_system_prompt_that_has_no_place_is_refused(line, trained, capsys):
    form = ["--format", "plain"] if line == "Why?" else []
    code, out, err = chat(capsys, str(trained("mosld")), "--prompt", line, "--system", "Be short.", *form)
    assert (code, out) == (2, "")
    assert "system prompt (--system, /system)" in err
