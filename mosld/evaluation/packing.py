"""Pack the options of a question, and questions with a common beginning, into one sequence.

The prompt stands once and its options follow side by side; each option attends to the prompt and to itself. Questions
that begin alike (the same worked examples, or the same passage) share that beginning in the same way. A block mask and
position ids that restart make the scores those of one sequence per option, at a fraction of the cost. The last token of
an option is predicted but never an input, so a one-token option (a letter) adds nothing to its prompt.

Shapes: B sequences, S longest packed sequence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from mosld.data.tokens.prompts import Encoded

# Padding up to this share of a batch costs less than one more forward pass.
MAX_PADDING_SHARE = 1 / 32
# Questions are packed together up to this length: attention and its mask grow with the square of it.
MAX_SHARED_TOKENS = 2048
# Owner and segment of a padding token.
PADDING = -1


@dataclass(slots=True)
class Packed:
    """One question, or several that begin alike, in one sequence.

    Attributes:
        owners: the question of each token, counted from 1; 0 for tokens that all questions share.
        segments: the option of each token, counted from 1; 0 for tokens of a prompt.
        scored_positions: indices into `tokens` whose next token is scored, ascending.
        targets: for each option, question after question, pairs of (index into `scored_positions`, next token).
    """

    questions: tuple[Encoded, ...]
    tokens: list[int]
    positions: list[int]
    owners: list[int]
    segments: list[int]
    scored_positions: list[int]
    targets: list[list[tuple[int, int]]]

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def task(self) -> str:
        """The task of the questions, which is the same for all."""
        return self.questions[0].row.task

    def append(self, tokens: list[int], position: int, owner: int, segment: int) -> None:
        """Append tokens whose position ids start at `position`."""
        self.tokens.extend(tokens)
        self.positions.extend(range(position, position + len(tokens)))
        self.owners.extend([owner] * len(tokens))
        self.segments.extend([segment] * len(tokens))


Item = TypeVar("Item", Packed, Encoded)


def pack(*questions: Encoded) -> Packed:
    """Pack questions: the common beginning of their prompts, then the rest of each prompt and its options.

    Options of one question with the same tokens are packed once, so that they get the same score.
    """
    shared = shared_prefix_length(questions)
    packed = Packed(questions, [], [], [], [], [], [])
    packed.append(questions[0].prompt[:shared], 0, 0, 0)
    for owner, question in enumerate(questions, start=1):
        packed.append(question.prompt[shared:], shared, owner, 0)
        prompt_end = len(packed.scored_positions)
        packed.scored_positions.append(packed.length - 1)
        targets: list[list[tuple[int, int]]] = []
        for number, option in enumerate(question.options, start=1):
            first = question.options.index(option)
            if first < number - 1:
                targets.append(targets[first])
                continue
            start = len(packed.scored_positions)
            inputs = option[:-1]
            packed.scored_positions.extend(range(packed.length, packed.length + len(inputs)))
            packed.append(inputs, len(question.prompt), owner, number)
            targets.append(list(zip([prompt_end, *range(start, start + len(inputs))], option, strict=True)))
        packed.targets.extend(targets)
    return packed


def shared_prefix_length(questions: Sequence[Encoded]) -> int:
    """Number of tokens with which all prompts begin, leaving each prompt at least one; 0 for a single question."""
    if len(questions) == 1:
        return 0
    prompts = [question.prompt for question in questions]
    shortest = min(map(len, prompts))
    # In sorted order, what the first and the last prompt share is shared by all between them.
    pairs = zip(min(prompts), max(prompts), strict=False)
    first_difference = next((i for i, (a, b) in enumerate(pairs) if a != b), shortest)
    return min(first_difference, shortest - 1)


def pack_shared_prefix(questions: Sequence[Encoded], max_tokens: int) -> list[Packed]:
    """Pack questions, several together where sharing a beginning halves the tokens of the one that joins.

    Args:
        questions: questions of any tasks; those of different tasks are never packed together.
        max_tokens: longest sequence of several questions, at most `MAX_SHARED_TOKENS`.
    """
    groups: list[list[Encoded]] = []
    # Of the last group: the length of each question packed by itself.
    lengths: list[int] = []
    for question in sorted(questions, key=lambda q: (q.row.task, q.prompt)):
        length = pack(question).length
        if groups and groups[-1][0].row.task == question.row.task:
            joined = [*groups[-1], question]
            before = sum(lengths) - shared_prefix_length(groups[-1]) * (len(lengths) - 1)
            after = sum(lengths) + length - shared_prefix_length(joined) * len(lengths)
            if after <= min(max_tokens, MAX_SHARED_TOKENS) and after - before < length / 2:
                groups[-1] = joined
                lengths.append(length)
                continue
        groups.append([question])
        lengths = [length]
    return [pack(*group) for group in groups]


def unpack_options(question: Encoded) -> list[Packed]:
    """One sequence per option, for models that do not take a block mask."""
    packed = [pack(replace(question, options=[option])) for option in question.options]
    return [replace(one, questions=(question,)) for one in packed]


def batches(items: Sequence[Item], batch_tokens: int, max_padding: int | None = None) -> Iterator[list[Item]]:
    """Batches of items of similar length, longest first.

    Args:
        batch_tokens: most padded tokens of a batch; a batch holds at least one item.
        max_padding: most padding tokens of a batch; None: `MAX_PADDING_SHARE` of `batch_tokens`.
    """
    if max_padding is None:
        max_padding = int(batch_tokens * MAX_PADDING_SHARE)
    batch: list[Item] = []
    tokens = 0
    for item in sorted(items, key=lambda item: -item.length):
        padded = batch[0].length * (len(batch) + 1) if batch else 0
        if padded > batch_tokens or padded - tokens - item.length > max_padding:
            yield batch
            batch = []
            tokens = 0
        batch.append(item)
        tokens += item.length
    if batch:
        yield batch


def unpacked_inputs(batch: Sequence[Packed], pad_token_id: int) -> dict[str, Tensor]:
    """Keyword arguments of the model's forward for `unpack_options`: a 2-D mask and the model's own position ids."""
    return {
        "input_ids": _padded([one.tokens for one in batch], pad_token_id),
        "attention_mask": token_mask(batch),
        "logits_to_keep": scored_mask(batch),
    }


def packed_inputs(batch: Sequence[Packed], pad_token_id: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Keyword arguments of the model's forward for `pack`, with a 4-D mask of `dtype`."""
    owners_BS = _padded([one.owners for one in batch], PADDING)
    segments_BS = _padded([one.segments for one in batch], PADDING)
    visible_BSS = (_visible(owners_BS) & _visible(segments_BS)).tril()
    mask_BSS = torch.zeros(visible_BSS.shape, dtype=dtype).masked_fill(~visible_BSS, torch.finfo(dtype).min)
    return {
        "input_ids": _padded([one.tokens for one in batch], pad_token_id),
        "position_ids": _padded([one.positions for one in batch], 0),
        "attention_mask": mask_BSS.unsqueeze(1),
        "logits_to_keep": scored_mask(batch),
    }


def scored_mask(batch: Sequence[Packed]) -> Tensor:
    """True where the next token is scored [B, S]; the model returns logits of these positions only."""
    mask_BS = torch.zeros(len(batch), max(one.length for one in batch), dtype=torch.bool)
    for i, one in enumerate(batch):
        mask_BS[i, one.scored_positions] = True
    return mask_BS


def prompt_mask(batch: Sequence[Packed]) -> Tensor:
    """1 for tokens of a prompt, 0 for options and padding [B, S]."""
    return (_padded([one.segments for one in batch], PADDING) == 0).long()


def token_mask(batch: Sequence[Packed]) -> Tensor:
    """1 for tokens, 0 for padding [B, S]."""
    return (_padded([one.segments for one in batch], PADDING) != PADDING).long()


def questions_per_token(batch: Sequence[Packed]) -> Tensor:
    """How many questions each token belongs to [B, S]: all of its sequence where it is shared, 0 for padding."""
    owners_BS = _padded([one.owners for one in batch], PADDING)
    counts_B1 = torch.tensor([len(one.questions) for one in batch]).unsqueeze(1)
    return torch.where(owners_BS == 0, counts_B1, (owners_BS != PADDING).long())


def _visible(labels_BS: Tensor) -> Tensor:
    """Whether a token may attend to another [B, S, S]: to one with its own label, or with label 0."""
    return (labels_BS.unsqueeze(-1) == labels_BS.unsqueeze(-2)) | (labels_BS == 0).unsqueeze(-2)


def _padded(rows: Sequence[Sequence[int]], fill_value: int) -> Tensor:
    table = torch.full((len(rows), max(map(len, rows))), fill_value)
    for i, row in enumerate(rows):
        table[i, : len(row)] = torch.tensor(row)
    return table
