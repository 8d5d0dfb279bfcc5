"""The auxiliary loss under trainers of other libraries: there exactly once, or a warning or an error says otherwise.

With B = 0 no other loss reaches a router, so its gradient before the first update must be that of the balance losses of
the step's micro-batches, which a loop over tokens and experts computes from the inputs that the trainer made.
"""

import warnings
from copy import copy
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from peft import get_peft_model
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

import mosld
from mosld.data.rows import Row
from mosld.data.tokens.encoding import Example
from tests.helpers import naive
from tests.helpers.toy_runs import stepper_of

trl = pytest.importorskip("trl", reason="TRL is in the extra `test`")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]

WEIGHT = 3.0
# With room for all tokens, SiRA does not depend on the order of the rows.
METHODS = {
    "mosl": {},
    "mosld": {},
    "mola": {},
    "sira": {"gate_dropout": 0.0, "capacity_factor": 9.0},
    "mixlora": {},
}
MOA = {"domains": ["a", "b"], "router_weight": WEIGHT, "dropout": 0.0, "dropout_on": "none"}
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
QUESTIONS = ["What is hot?", "What is red?", "What is big?", "What is wet?"]  # rows of one length
TEXTS = [{"prompt": text, "completion": " A sun"} for text in QUESTIONS]
# "domain" is for MoA alone; the other methods pass over it.
TOKENS = [
    {"input_ids": list(text.encode()), "labels": list(text.encode()), "domain": i % 2}
    for i, text in enumerate(QUESTIONS)
]
COMMON = {
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
    "max_steps": 1,
    "learning_rate": 0.0,
    "max_grad_norm": 0,
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
    "seed": 0,
    "per_device_train_batch_size": 4,
    "remove_unused_columns": False,
}


def fresh(method, weight=WEIGHT, **options):
    if method == "moa":
        return mosld.adapt(mosld.load_base("tiny")[0], method, seed=0, **MOA)
    if method != "mixlora":
        options = {"targets": "qv", "allocation": 4} | METHODS[method] | options
    return mosld.adapt(mosld.load_base("tiny")[0], method, balance_weight=weight, seed=0, **options)


def routers(model):
    return {name.rpartition("model.layers.")[2]: p for name, p in model.named_parameters() if ".router." in name}


class Spy(TrainerCallback):
    """Keeps what the base model is given in training, and the routers' gradients before the first update."""

    def __init__(self, model):
        self.model, self.inputs, self.gradients = model, [], {}
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        base.register_forward_pre_hook(self.note, with_kwargs=True, prepend=True)

    def note(self, module, args, kwargs):
        if module.training and torch.is_grad_enabled():
            keys = ("input_ids", "attention_mask", "position_ids", "domain")
            self.inputs.append({key: kwargs[key].clone() for key in keys if kwargs.get(key) is not None})

    def on_pre_optimizer_step(self, *args, **kwargs):
        self.gradients = {name: p.grad.clone() for name, p in routers(self.model).items() if p.grad is not None}


def by_hand(method, inputs, base=None):
    """The routers' gradient of the mean balance loss of these micro-batches, as a loop computes it."""
    model = fresh(method) if base is None else base
    model.train()
    for one in inputs:
        with model.base_model.context.recording() as routings, torch.enable_grad():
            model.get_base_model()(**one, use_cache=False)
        if method == "moa":
            rows = torch.arange(len(one["domain"]))
            losses = [-r.probs_BSE[rows, 0, one["domain"]].log().mean() for r in routings.values()]
            (WEIGHT * sum(losses) / len(losses) / len(inputs)).backward()
            continue
        mask = one.get("attention_mask", torch.ones_like(one["input_ids"]))
        formula = "sira" if method == "sira" else "switch"
        losses = [
            naive.balance(
                r.probs_BSE.double(), (r.gates_BSE if r.chosen_BSE is None else r.chosen_BSE) > 0, mask, formula
            )
            for r in routings.values()
        ]
        (WEIGHT * sum(losses) / len(losses) / len(inputs)).backward()
    return {name: p.grad for name, p in routers(model).items()}


def arguments(kind, folder, **options):
    return kind(output_dir=str(folder), **COMMON | options)


def hf(model, folder, kind=Trainer, loss=None, **options):
    return kind(
        model,
        arguments(TrainingArguments, folder, **options),
        train_dataset=Dataset.from_list(TOKENS),
        data_collator=default_data_collator,
        compute_loss_func=loss,
    )


def add_adapter(model, folder):
    """The same adapter put on a base by transformers instead of PEFT."""
    base = mosld.load_base("tiny")[0]
    torch.manual_seed(0)
    base.add_adapter(model.peft_config["default"])
    return hf(base, folder)


def sft(model, folder, rows=TEXTS, loss=None, **options):
    tokenizer = mosld.load_base("tiny")[1]
    tokenizer.chat_template = TEMPLATE
    config = arguments(trl.SFTConfig, folder, **options)
    return trl.SFTTrainer(
        model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, compute_loss_func=loss
    )


def chats():
    roles = ("user", "assistant")
    return [
        {
            "messages": [
                {"role": role, "content": row[key]} for role, key in zip(roles, ("prompt", "completion"), strict=True)
            ]
        }
        for row in TEXTS
    ]


def dpo(model, folder, **options):
    rows = [{**row, "chosen": row["completion"], "rejected": " No sun"} for row in TEXTS]
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
    config = arguments(trl.DPOConfig, folder, **options)
    return trl.DPOTrainer(
        model, args=config, train_dataset=Dataset.from_list(rows), processing_class=mosld.load_base("tiny")[1]
    )


def grpo(model, folder, **options):
    config = arguments(trl.GRPOConfig, folder, num_generations=2, max_completion_length=4, **options)
    return trl.GRPOTrainer(
        model,
        reward_funcs=lambda completions, **_: [float(len(text)) for text in completions],
        args=config,
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in TEXTS]),
        processing_class=mosld.load_base("tiny")[1],
    )


def mean_cross_entropy(outputs, labels, num_items_in_batch=None):
    logits = outputs.logits[:, :-1].flatten(0, 1)
    return cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / num_items_in_batch


def with_auxiliary_loss(outputs, labels, num_items_in_batch=None):
    share = (labels[:, 1:] != -100).sum() / num_items_in_batch
    return mean_cross_entropy(outputs, labels, num_items_in_batch) + WEIGHT * share * outputs.aux_loss


def reward(method, folder, **options):
    config = LlamaConfig(**{**mosld.load_base("tiny")[0].config.to_dict(), "num_labels": 1, "architectures": None})
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_config(config)
    adapter = copy(fresh(method).peft_config["default"])
    adapter.task_type = None
    rows = [{"chosen": row["prompt"] + " A sun", "rejected": row["prompt"] + " No sun"} for row in TEXTS]
    return trl.RewardTrainer(
        get_peft_model(base, adapter),
        arguments(trl.RewardConfig, folder, **options),
        train_dataset=Dataset.from_list(rows),
        processing_class=mosld.load_base("tiny")[1],
    )


HALVES = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
TRAINERS = {
    "Trainer": hf,
    "Trainer, gradient_accumulation_steps=2": lambda model, folder: hf(model, folder, **HALVES),
    "Trainer, compute_loss_func with outputs.aux_loss": lambda model, folder: hf(
        model, folder, loss=with_auxiliary_loss, **HALVES
    ),
    "Trainer, gradient_checkpointing": lambda model, folder: hf(
        model, folder, gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False}
    ),
    "Trainer, model.add_adapter": add_adapter,
    "SFTTrainer": sft,
    "SFTTrainer, gradient_accumulation_steps=2": lambda model, folder: sft(model, folder, **HALVES),
    "SFTTrainer, loss_type=dft": lambda model, folder: sft(model, folder, loss_type="dft"),
    "SFTTrainer, packing": lambda model, folder: sft(
        model, folder, packing=True, max_length=64, per_device_train_batch_size=1
    ),
    "SFTTrainer, assistant_only_loss": lambda model, folder: sft(model, folder, rows=chats(), assistant_only_loss=True),
    "DPOTrainer": dpo,
    "DPOTrainer, gradient_accumulation_steps=2": lambda model, folder: dpo(model, folder, **HALVES),
    "GRPOTrainer": grpo,
    "GRPOTrainer, gradient_accumulation_steps=2": lambda model, folder: grpo(model, folder, **HALVES),
}


@pytest.mark.parametrize(
    ("trainer", "method"),
    [(trainer, method) for trainer in TRAINERS for method in (*METHODS, "moa") if method != "moa" or trainer[0] == "T"],
)
def test_routers_get_the_gradient_of_the_balance_loss_once(trainer, method, tmp_path):
    running = TRAINERS[trainer](fresh(method), tmp_path)
    spy = Spy(running.model)
    running.add_callback(spy)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*auxiliary loss")
        running.train()
    wanted = by_hand(method, spy.inputs)
    assert all(gradient.any() for gradient in wanted.values())
    torch.testing.assert_close(spy.gradients, wanted, rtol=1e-4, atol=1e-7)


WARNED = {
    "Trainer, label_smoothing_factor": lambda model, folder: hf(model, folder, label_smoothing_factor=0.1),
    "Trainer, compute_loss_func": lambda model, folder: hf(model, folder, loss=mean_cross_entropy),
    "SFTTrainer, label_smoothing_factor": lambda model, folder: sft(model, folder, label_smoothing_factor=0.1),
    "SFTTrainer, compute_loss_func": lambda model, folder: sft(model, folder, loss=mean_cross_entropy),
}


@pytest.mark.parametrize(
    ("trainer", "method"),
    [
        (trainer, method)
        for trainer in (*WARNED, "RewardTrainer")
        for method in (*METHODS, "moa")
        if method != "moa" or trainer[0] != "S"
    ],
)
def test_a_trainer_that_leaves_the_balance_loss_out_is_warned_of_once(trainer, method, tmp_path):
    running = reward(method, tmp_path) if trainer == "RewardTrainer" else WARNED[trainer](fresh(method), tmp_path)
    running.args.max_steps = 2
    with pytest.warns(UserWarning, match=r"no auxiliary loss .*weight 3.0.*label_smoothing_factor") as caught:
        running.train()
    assert sum("auxiliary loss" in str(warning.message) for warning in caught) == 1


@pytest.mark.parametrize("trainer", [*WARNED, "SFTTrainer, router_aux_loss_coef=0"])
def test_without_a_weight_nothing_is_warned_of(trainer, tmp_path):
    if trainer in WARNED:
        running = WARNED[trainer](fresh("mosl", weight=0.0), tmp_path)
    else:
        running = sft(fresh("mosl"), tmp_path, router_aux_loss_coef=0.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*auxiliary loss")
        running.train()
    assert running.state.global_step > 0


class Losses(TrainerCallback):
    """The loss of each step."""

    def __init__(self):
        self.values = []

    def on_log(self, args, state, control, logs=None, **_):
        self.values += [logs["loss"]] if "loss" in logs else []


@pytest.mark.parametrize("method", METHODS)
def test_sft_has_the_losses_of_the_project_s_own_loop(method, tmp_path):
    """Over three steps, on rows of several lengths; with SGD, whose updates do not amplify rounding errors."""
    texts = [{"prompt": "What is hot?", "completion": " A sun"}, {"prompt": "Hi", "completion": " you, who reads"}]
    still = {} if method == "mixlora" else {"dropout": 0.0, "dropout_on": "none"}
    options = {"learning_rate": 0.1, "optim": "sgd", "lr_scheduler_type": "constant", "logging_strategy": "steps"}
    theirs, losses = (
        sft(fresh(method, **still), tmp_path, rows=texts, max_steps=3, logging_steps=1, **options),
        Losses(),
    )
    theirs.add_callback(losses)
    theirs.train()
    tokenizer = mosld.load_base("tiny")[1]
    row = Row("arc_e", "row", "", "?", ("a", "b"), 0)
    examples = [
        Example(
            row,
            [*tokenizer(text["prompt"] + text["completion"]).input_ids, tokenizer.eos_token_id],
            len(text["prompt"]),
        )
        for text in texts
    ]
    model = fresh(method, **still)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad])
    stepper = stepper_of(model, optimizer)
    steps = [stepper.step(examples, 2, 0.1, number) for number in range(3)]
    ours = [step.cross_entropy + WEIGHT * step.auxiliary for step in steps]
    assert losses.values == pytest.approx(ours, rel=1e-6)
    assert len(set(ours)) == 3


@pytest.mark.parametrize("method", [*METHODS, "moa"])
def test_accelerate_s_own_loop_has_the_balance_loss_once(method):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = fresh(method)
    spy = Spy(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    model, optimizer = accelerator.prepare(model.train(), optimizer)
    for rows in (TOKENS[:2], TOKENS[2:]):
        with accelerator.accumulate(model):
            accelerator.backward(model(**default_data_collator(rows)).loss)
    torch.testing.assert_close(
        {name: p.grad for name, p in routers(model).items()}, by_hand(method, spy.inputs), rtol=1e-4, atol=1e-7
    )


def test_bf16_has_the_gradient_up_to_its_precision(tmp_path):
    running = hf(fresh("mosl"), tmp_path, bf16=True)
    spy = Spy(running.model)
    running.add_callback(spy)
    running.train()
    # Hidden states have 8 bits, so some tokens may choose another expert.
    torch.testing.assert_close(spy.gradients, by_hand("mosl", spy.inputs), rtol=0.1, atol=0.02)


@pytest.mark.parametrize("trainer", [trainer for trainer in (*TRAINERS, *WARNED) if trainer[0] != "T"])
def test_trainers_that_pass_no_domains_are_refused(trainer, tmp_path):
    with pytest.raises(ValueError, match=r"domain=|position_ids start anew"):
        (TRAINERS | WARNED)[trainer](fresh("moa"), tmp_path).train()


def test_the_coefficient_of_sft_overrides_the_weight(tmp_path):
    running = sft(fresh("mosl"), tmp_path, router_aux_loss_coef=2 * WEIGHT)
    spy = Spy(running.model)
    running.add_callback(spy)
    running.train()
    wanted = {name: 2 * gradient for name, gradient in by_hand("mosl", spy.inputs).items()}
    torch.testing.assert_close(spy.gradients, wanted, rtol=1e-4, atol=1e-7)


def test_the_page_names_every_trainer_tried_here():
    page = (Path(__file__).parents[2] / "docs/how-to/adapters_elsewhere.md").read_text()
    table = page[page.index("| trainer |") :].split("\n\n")[0]
    named = {line.split("|")[1].strip() for line in table.splitlines()[2:]}
    assert named == {*TRAINERS, *WARNED, "RewardTrainer", "accelerate's own loop", "Trainer, bf16"}
