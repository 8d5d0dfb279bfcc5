"""Tasks, rows, splits, prompts and batches.

1. `load_dataset` reads and checks the rows of every task (no torch is imported);
2. `prompts.PromptEncoder` turns rows into tokens, with a tokenizer that is passed in;
3. `batches` makes the tensors of training steps.
"""

from mosld.data.dataset import Dataset, leak_notes, load_dataset
from mosld.data.rows import AnyRow, Reply, Row, Solution
from mosld.data.tasks import TASKS, Task

__all__ = ["TASKS", "AnyRow", "Dataset", "Reply", "Row", "Solution", "Task", "leak_notes", "load_dataset"]
