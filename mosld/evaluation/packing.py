"""Questions as packed sequences: the prompt once, then its options side by side, each seeing the prompt and itself.

Questions that begin alike (with the same solved examples, or about the same passage) share that part, too: it stands
once, then the questions side by side, each with its options. A block mask and restarted position ids make the packed
scores those of one sequence per option, at a fraction of the cost. The last token of an option is only predicted, never
fed; one-token options (letters) add nothing to their prompt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mosld.data.prompts import Encoded

# PART: Questions as packed sequences: the prompt once, then its options side by side, each seeing the prompt and
# itself. Questions that begin alike (with the same solved examples, or about the same passage) share that part,
# too: it stands once, then the questions side by side, each with its options. A block mask and restarted position
# ids make the packed scores those of one sequence per option, at a fraction of the cost. The last token of an
# option is only predicted, never fed; one-token options (letters) add nothing to their prompt.


class Measured(Protocol):
    """What has a length in tokens."""

    @property
    def length(self) -> int:
        """Tokens."""


Long = TypeVar("Long", bound=Measured)
PADS = 32  # a batch holds at most a 32nd of its budget in pads: past that another forward pass costs less
TOGETHER = 2048  # most tokens of questions in one sequence: attention grows with its square, and so does the mask
PADDING = -1  # owner and segment of a pad


@dataclass(slots=True)
class Packed:
    """Questions in one sequence: one, or several that begin alike.

    Attributes:
        questions: what was packed.
        tokens, positions: per packed token its id and its place in its own sequence.
        owners: whose it is: 0 all questions', 1, 2, ... that of one.
        segments: 0 of a prompt, 1, 2, ... of an option.
        sites: packed indices whose prediction is wanted, in rising order.
        targets: for each option, question after question, pairs of (index into `sites`, token to be predicted there).
    """

    questions: tuple[Encoded, ...]
    tokens: list[int]
    positions: list[int]
    owners: list[int]
    segments: list[int]
    sites: list[int]
    targets: list[list[tuple[int, int]]]

    @property
    def length(self) -> int:
        """Packed tokens."""
        return len(self.tokens)

    def add(self, tokens: list[int], position: int, owner: int, segment: int) -> None:
        """Lay tokens behind those that are there; the first stands at this place of its own sequence."""
        self.tokens.extend(tokens)
        self.positions.extend(range(position, position + len(tokens)))
        self.owners.extend([owner] * len(tokens))
        self.segments.extend([segment] * len(tokens))

    @property
    def task(self) -> str:
        """The task of its questions: those of two tasks are never packed together."""
        return self.questions[0].row.task


def pack(*questions: Encoded) -> Packed:
    """Lay questions into one sequence: what all their prompts begin with, then the rest of each and its options.

    An option's last token is left out. Equal options stand once, to score equally.
    """
    shared = common(questions)
    packed = Packed(questions, [], [], [], [], [], [])
    packed.add(questions[0].prompt[:shared], 0, 0, 0)
    for owner, question in enumerate(questions, start=1):
        packed.add(question.prompt[shared:], shared, owner, 0)
        last, targets = len(packed.sites), list[list[tuple[int, int]]]()
        packed.sites.append(packed.length - 1)
        for number, option in enumerate(question.options, start=1):
            first = question.options.index(option)
            if first < number - 1:
                targets.append(targets[first])
                continue
            inner = range(len(packed.sites), len(packed.sites) + len(option) - 1)
            packed.sites.extend(range(packed.length, packed.length + len(option) - 1))
            packed.add(option[:-1], len(question.prompt), owner, number)
            targets.append(list(zip([last, *inner], option, strict=True)))
        packed.targets.extend(targets)
    return packed


def common(questions: Sequence[Encoded]) -> int:
    """How many tokens the prompts of several questions begin with alike, leaving each at least one; 0 of one alone."""
    if len(questions) == 1:
        return 0
    prompts = [question.prompt for question in questions]
    first, last, shortest = min(prompts), max(prompts), min(map(len, prompts))  # all share what these two share
    differs = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return min(next(differs, shortest), shortest - 1)


def pack_shared_prefix(questions: Sequence[Encoded], most_tokens: int) -> list[Packed]:
    """Pack questions, several together where they begin alike: where that halves the tokens of the one that joins.

    Args:
        questions: those of two tasks are never packed together.
        most_tokens: most tokens of several questions that are packed together, if below `TOGETHER`.
    """
    groups: list[list[Encoded]] = []
    lengths: list[int] = []  # of the last group's questions, each packed alone
    for question in sorted(questions, key=lambda q: (q.row.task, q.prompt)):
        length = pack(question).length
        if groups and groups[-1][0].row.task == question.row.task:
            joined = [*groups[-1], question]
            before = sum(lengths) - common(groups[-1]) * (len(lengths) - 1)
            after = sum(lengths) + length - common(joined) * len(lengths)
            if after <= min(most_tokens, TOGETHER) and after - before < length / 2:
                groups[-1], lengths = joined, [*lengths, length]
                continue
        groups.append([question])
        lengths = [length]
    return [pack(*group) for group in groups]


def spread(question: Encoded) -> list[Packed]:
    """Every option but its last token as a sequence of its own, for models that cannot see a block mask."""
    found = []
    for option in question.options:
        packed = pack(replace(question, options=[option]))
        found.append(replace(packed, questions=(question,)))
    return found


def batches(questions: Sequence[Long], batch_tokens: int, most_pads: int | None = None) -> Iterator[list[Long]]:
    """Questions of similar length together, the longest first.

    Args:
        questions: what has a length.
        batch_tokens: most padded tokens of a batch, which has one question at least.
        most_pads: most pads among them (default: a 32nd).
    """
    most_pads = batch_tokens // PADS if most_pads is None else most_pads
    batch: list[Long] = []
    tokens = 0
    for question in sorted(questions, key=lambda q: -q.length):
        padded = batch[0].length * (len(batch) + 1) if batch else 0
        if padded > batch_tokens or padded - tokens - question.length > most_pads:
            yield batch
            batch, tokens = [], 0
        batch.append(question)
        tokens += question.length
    if batch:
        yield batch


# PART: Packed sequences as the model's inputs, and masks over them. Shapes: B sequences, S longest packed sequence,
# P scored positions of the batch, V words of the vocabulary.


def spread_inputs(batch: Sequence[Packed], pad: int) -> dict[str, Tensor]:
    """Keyword arguments of the model's forward on what `spread` made: a 2-D mask, positions are the model's own."""
    return {
        "input_ids": _table([q.tokens for q in batch], pad),
        "attention_mask": token_mask(batch),
        "logits_to_keep": site_mask(batch),
    }


def packed_inputs(batch: Sequence[Packed], pad: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Keyword arguments of the model's forward: input_ids, position_ids, logits_to_keep [B, S], a 4-D mask."""
    owners, segments = (_table(rows, PADDING) for rows in ([q.owners for q in batch], [q.segments for q in batch]))
    seen_BSS = (_sees(owners) & _sees(segments)).tril()
    mask = torch.zeros(seen_BSS.shape, dtype=dtype).masked_fill(~seen_BSS, torch.finfo(dtype).min)
    return {
        "input_ids": _table([q.tokens for q in batch], pad),
        "position_ids": _table([q.positions for q in batch], 0),
        "attention_mask": mask.unsqueeze(1),
        "logits_to_keep": site_mask(batch),
    }


def site_mask(batch: Sequence[Packed]) -> Tensor:
    """True where a prediction is wanted [B, S]: the model's logits are then [P, V], sequence after sequence."""
    sites_BS = torch.zeros(len(batch), max(q.length for q in batch), dtype=torch.bool)
    rows = [row for row, q in enumerate(batch) for _ in q.sites]
    sites_BS[rows, [site for q in batch for site in q.sites]] = True
    return sites_BS


def prompt_mask(batch: Sequence[Packed]) -> Tensor:
    """1 for the tokens of each prompt [B, S], 0 for options and pads."""
    return (_table([q.segments for q in batch], PADDING) == 0).long()


def token_mask(batch: Sequence[Packed]) -> Tensor:
    """1 for every token [B, S], 0 for pads."""
    return (_table([q.segments for q in batch], PADDING) != PADDING).long()


def questions_served(batch: Sequence[Packed]) -> Tensor:
    """For how many questions each token stands [B, S]: 1, all of a sequence where they share it, 0 for pads."""
    owners = _table([q.owners for q in batch], PADDING)
    counts = torch.tensor([len(q.questions) for q in batch]).unsqueeze(1)
    return torch.where(owners == 0, counts, (owners != PADDING).long())


def _sees(labels: Tensor) -> Tensor:
    """Whether a token may see another by their labels [B, S, S]: those of its own and those of all (0)."""
    return (labels.unsqueeze(-1) == labels.unsqueeze(-2)) | (labels == 0).unsqueeze(-2)


def _table(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    table = torch.full((len(rows), max(map(len, rows))), fill)
    for i, row in enumerate(rows):
        table[i, : len(row)] = torch.tensor(row)
    return table
