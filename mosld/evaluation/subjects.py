"""Scores of a benchmark told apart by the subjects of its questions, and by the categories of its subjects."""

from collections.abc import Sequence

from mosld.data.rows import AnyRow
from mosld.data.subjects import CATEGORIES, CATEGORY, subject_of
from mosld.evaluation.scores import Outcome, Score, task_score

Places = dict[str, list[int]]  # by name, which of the questions


def by_subject(rows: Sequence[AnyRow], outcomes: Sequence[Outcome], style: str) -> dict[str, dict[str, Score]]:
    """{"by_subject": {subject: score}, "by_category": {category: score}}, each over all of its questions.

    Args:
        rows: the questions; the id of each begins with its subject.
        outcomes: the answers, in the same order.
        style: the prompt format.
    """
    subjects, categories = Places(), Places({name: [] for name in CATEGORIES})
    for place, row in enumerate(rows):
        subject = subject_of(row.id)
        subjects.setdefault(subject, []).append(place)
        categories[CATEGORY[subject]].append(place)

    def scores(places: Places) -> dict[str, Score]:
        """The score of each part."""
        return {
            name: task_score([rows[i] for i in found], [outcomes[i] for i in found], style)
            for name, found in places.items()
            if found
        }

    return {"by_subject": scores(dict(sorted(subjects.items()))), "by_category": scores(categories)}
