"""Instruction data: how a row is put, what of it is learnt, the sample of n rows, and what is never scored."""

import pytest

from mosld.common.errors import UserError
from mosld.config.compose import load_config
from mosld.config.schema import DataConfig, SourceConfig
from mosld.data.dataset import load_dataset
from mosld.data.encoding import encode_train
from mosld.data.prompts import PromptEncoder, render
from mosld.data.rows import Reply
from mosld.data.splits import needed_splits
from mosld.data.tasks import TASKS
from mosld.training.batching import IGNORED, pad_batch

ROW = Reply("openorca", "1", "", "Say hi.", "Hi.\nBye.", "Be brief.")
BUNDLED = SourceConfig(name="bundled")


def learnt(tokenizer, row: Reply) -> tuple[str, str]:
    """The prompt of a train row, and what of it has a loss."""
    (example,) = encode_train([row], PromptEncoder(tokenizer, "letter"), tokenizer.eos_token_id).examples
    labels = [token for token in pad_batch([example], 0)["labels"][0].tolist() if token != IGNORED]
    return tokenizer.decode(example.tokens[: example.answer_start]), tokenizer.decode(labels)


@pytest.mark.parametrize("style", ["letter", "list", "cloze"])
def test_a_reply_is_put_in_one_way_with_its_system_prompt_first(style):
    assert render(ROW, style) == ("Be brief.\n\nQuestion: Say hi.\nAnswer:", [" Hi.\nBye."])


def test_without_a_system_prompt_the_question_comes_first():
    assert render(Reply("openorca", "1", "", "Say hi.", "Hi."), "letter")[0] == "Question: Say hi.\nAnswer:"


def test_the_loss_is_on_the_response_and_the_end_alone(tokenizer):
    assert learnt(tokenizer, ROW) == ("Be brief.\n\nQuestion: Say hi.\nAnswer:", f" Hi.\nBye.{tokenizer.eos_token}")


def test_of_a_response_that_is_too_long_what_fits_is_learnt_without_an_end(tokenizer):
    row = Reply("openorca", "1", "", "Q?", "x" * 600)
    found = encode_train([row, ROW], PromptEncoder(tokenizer, "letter"), tokenizer.eos_token_id)
    assert len(found.examples[0].tokens) == TASKS["openorca"].cutoff
    assert (found.cut_responses, found.left_out, found.examples[0].tokens[-1]) == (1, 0, tokenizer("x").input_ids[0])


def test_a_row_whose_question_leaves_no_room_is_left_out(tokenizer):
    row = Reply("openorca", "1", "", "Q" * 600, "Hi.")
    found = encode_train([row, ROW], PromptEncoder(tokenizer, "letter"), tokenizer.eos_token_id)
    assert ([example.row for example in found.examples], found.left_out) == ([ROW], 1)


def test_openorca_has_train_rows_alone():
    assert needed_splits(TASKS["openorca"], training=True) == ("train",)
    assert needed_splits(TASKS["openorca"], training=False) == ()


def test_n_rows_are_taken_and_fewer_are_a_part_of_more():
    taken = [
        {
            row.id
            for row in load_dataset(DataConfig(tasks=["obqa", "openorca"], n_openorca=n), BUNDLED)
            .tasks["openorca"]
            .train
        }
        for n in (100, 300)
    ]
    assert [len(ids) for ids in taken] == [100, 300]
    assert taken[0] < taken[1]


def test_more_rows_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"data.n_openorca=2001: the bundled source has 2000 rows"):
        load_dataset(DataConfig(tasks=["obqa", "openorca"], n_openorca=2001), BUNDLED)


def test_n_openorca_without_openorca_is_refused():
    with pytest.raises(UserError, match=r"data.n_openorca=10: has no effect without openorca"):
        load_config(["data=mixture", "data.n_openorca=10"])


def test_the_mixture_is_the_six_tasks_and_the_papers_smallest_sample():
    data = load_config(["data=mixture_openorca"]).data
    assert data.tasks == [*load_config([]).data.tasks, "openorca"]
    assert data.n_openorca == 1375


def test_openorca_alone_has_nothing_to_score():
    with pytest.raises(UserError, match="nothing to score"):
        load_dataset(DataConfig(tasks=["openorca"]), BUNDLED, training=False)
