"""transformers' Trainer with our adapters: a run that is resumed twice ends with the bits of a straight one."""

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

from tests.helpers.methods import ROWS, over

pytestmark = pytest.mark.slow

STEPS = 6


class StopAt(TrainerCallback):
    """Ends training at a step, as if the time of a job were over."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop |= state.global_step == self.step


def run(row, folder, resume, stop=STEPS):
    torch.manual_seed(torch.seed() % 2**32)  # another process has other random numbers
    ids = torch.randint(3, 250, (20, 12), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [{"input_ids": row, "labels": row, "domain": number % 2} for number, row in enumerate(ids)]
    arguments = TrainingArguments(
        str(folder), use_cpu=True, report_to=[], max_steps=STEPS, per_device_train_batch_size=2,
        gradient_accumulation_steps=2, learning_rate=1e-2, warmup_steps=2, logging_steps=1, save_steps=2,
        disable_tqdm=True, seed=0, remove_unused_columns=False,
    )  # fmt: skip
    data = Dataset.from_list(rows if row.domain else [{k: v for k, v in one.items() if k != "domain"} for one in rows])
    trainer = Trainer(
        row.adapted(trained=False), arguments, train_dataset=data, data_collator=default_data_collator,
        callbacks=[StopAt(stop)],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    assert trainer.state.global_step == stop
    return trainer


def curve(trainer):
    logs = [line for line in trainer.state.log_history if "loss" in line]
    return [(line["step"], line["loss"], line["grad_norm"], line["learning_rate"]) for line in logs]


@over(ROWS)
def test_resuming_twice_changes_no_bit(row, tmp_path):
    straight = run(row, tmp_path / "straight", resume=False)
    run(row, tmp_path / "parts", resume=False, stop=2)
    run(row, tmp_path / "parts", resume=True, stop=4)
    twice = run(row, tmp_path / "parts", resume=True)
    assert curve(twice) == curve(straight)
    weights, wanted = twice.model.state_dict(), straight.model.state_dict()
    assert [name for name in wanted if not torch.equal(weights[name], wanted[name])] == []
