"""Scores of a benchmark told apart by the subjects of its questions, and by the categories of its subjects."""

from collections.abc import Callable, Sequence

from mosld.data.subjects import CATEGORIES, CATEGORY, subject_of
from mosld.evaluation.scores import Score

Places = dict[str, list[int]]  # by name, which of the questions


def by_subject(ids: Sequence[str], score: Callable[[list[int]], Score]) -> dict[str, dict[str, Score]]:
    """{"by_subject": {subject: score}, "by_category": {category: score}}, each over all of its questions.

    Args:
        ids: of the questions; each begins with its subject.
        score: from the places of some of them to their score.
    """
    subjects, categories = Places(), Places({name: [] for name in CATEGORIES})
    for place, name in enumerate(ids):
        subject = subject_of(name)
        subjects.setdefault(subject, []).append(place)
        categories[CATEGORY[subject]].append(place)

    def scores(places: Places) -> dict[str, Score]:
        """The score of each part."""
        return {name: score(found) for name, found in places.items() if found}

    return {"by_subject": scores(dict(sorted(subjects.items()))), "by_category": scores(categories)}
