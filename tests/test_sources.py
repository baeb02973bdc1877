"""A source counts only as much as held-out scores of the target show that it helps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chiasm.recognition.linear_probe import LinearProbe
from chiasm.recognition.sources import choose_alpha


def scores_with_source(source: np.ndarray, source_y: np.ndarray, target: np.ndarray, y: np.ndarray) -> dict[float, Any]:
    """Held-out accuracy of the target by fold, with the source's rows weighted by alpha."""
    fold = np.arange(len(y)) // len(np.unique(y)) % 5
    scores: dict[float, Any] = {}
    for alpha in (0.0, 0.25, 0.5, 0.75):
        of_folds = []
        for f in range(5):
            train, test = fold != f, fold == f
            X, codes = np.concatenate([target[train], source]), np.concatenate([y[train], source_y])
            weight = np.r_[np.full(train.sum(), (1 - alpha) / train.sum()), np.full(len(source), alpha / len(source))]
            of_folds.append(
                (
                    LinearProbe(strengths=[0.1]).fit(X, codes, sample_weight=100 * weight).predict(target[test])
                    == y[test]
                ).mean()
            )
        scores[alpha] = np.array(of_folds)
    return scores


def test_a_related_source_is_used_and_an_unrelated_one_refused() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 40))
    y, source_y = np.tile(np.arange(6), 10), np.tile(np.arange(6), 60)
    target = centres[y] + 2.2 * rng.normal(size=(len(y), 40))
    related = centres[source_y] + 2.2 * rng.normal(size=(len(source_y), 40))
    used = choose_alpha(scores_with_source(related, source_y, target, y))
    assert used.alpha > 0
    assert not used.refused
    unrelated = choose_alpha(scores_with_source(related, np.roll(source_y, 1), target, y))
    assert unrelated.alpha == 0
    assert unrelated.refused
    assert "refused" in unrelated.sentence


def test_the_best_weight_wins_only_by_more_than_a_standard_error() -> None:
    alone = np.array([0.5, 0.6, 0.7, 0.6])
    choice = choose_alpha(
        {0.5: np.add(alone, [0.1, 0.12, 0.08, 0.1]), 0.0: alone, 1.0: np.add(alone, [0.4, -0.3, 0.5, -0.1])}
    )
    # 1.0 has the better mean, but within its standard error of the target alone.
    assert choice.scores == pytest.approx({0.0: 0.6, 0.5: 0.7, 1.0: 0.725})
    assert choice.gains == pytest.approx({0.0: 0.0, 0.5: 0.1, 1.0: 0.125})
    assert choice.standard_errors[0.5] == pytest.approx(np.std([0.1, 0.12, 0.08, 0.1], ddof=1) / 2)
    assert choice.standard_errors[1.0] > 0.125
    assert (choice.alpha, choice.refused) == (0.5, False)
    assert choice.sentence == (
        "The source is used with weight 0.5: held-out score 0.700 against 0.600 with the target alone "
        "(+0.100, standard error 0.008, 4 folds)."
    )


def test_a_refusal_gives_its_reason() -> None:
    alone = np.array([0.5, 0.6, 0.7, 0.6])
    for scores, refused, reason in [
        ({0.0: alone, 0.5: alone - 0.1, 0.9: alone - 0.2}, True, "would hurt: at its best weight, 0.5"),
        ({0.0: alone, 0.5: np.add(alone, [0.2, -0.1, 0.1, -0.15])}, True, "could be chance"),
        ({0.0: alone, 0.5: alone}, True, "would hurt"),
        ({0.0: alone}, False, "No source was tried"),
    ]:
        choice = choose_alpha(scores)
        assert (choice.alpha, choice.refused) == (0.0, refused)
        assert reason in choice.sentence


def test_of_equal_weights_the_smallest_is_taken() -> None:
    alone = np.array([0.5, 0.6])
    assert choose_alpha({0.75: alone + 0.1, 0.25: alone + 0.1, 0.0: alone}).alpha == 0.25


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ({0.5: [0.1, 0.2]}, "scores of alpha 0"),
        ({0.0: [0.1, 0.2], 1.5: [0.1, 0.2]}, "from 0 to 1; got 1.5"),
        ({0.0: [0.1, 0.2], 0.5: [0.1, 0.2, 0.3]}, "one score a fold"),
        ({0.0: [0.1], 0.5: [0.2]}, "2 or more folds"),
        ({0.0: [0.1, 0.2], 0.5: [0.1, np.nan]}, "finite"),
    ],
)
def test_bad_input_of_the_choice(scores: dict[float, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        choose_alpha(scores)
