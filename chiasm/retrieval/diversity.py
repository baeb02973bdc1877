"""Diverse results by maximal marginal relevance: arrays in, an order out."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def diversify(
    vectors: Float[np.ndarray, "candidates dim"],
    scores: Float[np.ndarray, " candidates"],
    *,
    k: int,
    relevance: float,
) -> Int[np.ndarray, " chosen"]:
    """Choose k candidates one after the other, each for being relevant and unlike those chosen before.

    The next is the one of the largest `relevance * score - (1 - relevance) * largest cosine with any chosen` (maximal
    marginal relevance; Carbonell & Goldstein 1998, equation 1, with `relevance` their lambda). Scores are brought to
    0..1 over the candidates first, so that those of any scorer can stand beside cosines. The first is the best
    candidate. Each step looks at every candidate once: k times the candidates in all.

    Args:
        vectors: unit vectors of the candidates, best first.
        scores: falling.
        k: how many to choose; all of them in a new order where there are no more.
        relevance: from 0 (as unlike as can be) to 1 (the order as it was).

    Returns:
        Places among the candidates, in the order chosen. Of equal values the earlier candidate is chosen.

    Raises:
        ValueError: k below 1, `relevance` outside 0..1, or scores that rise or are not finite.

    Example:
        >>> pictures = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> diversify(pictures, np.array([0.9, 0.8, 0.7]), k=2, relevance=0.5).tolist()
        [0, 2]
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}")
    if not 0 <= relevance <= 1:
        raise ValueError(f"relevance has to be from 0 (as diverse as can be) to 1 (the plain order); got {relevance}")
    if not np.isfinite(scores).all() or (np.diff(scores) > 0).any():
        raise ValueError("scores have to be finite and fall from the first candidate to the last")
    number = min(k, len(scores))
    if relevance == 1 or number == 0:
        return np.arange(number)  # scaling could make ties of scores that differ in the last digit
    spread = float(scores[0]) - float(scores[-1])
    gain = relevance * (scores.astype(np.float64) - float(scores[-1])) / (spread if spread > 0 else 1)
    alike = np.full(len(scores), -1.0)
    chosen = np.zeros(number, dtype=np.int64)
    for step in range(1, number):
        last = chosen[step - 1]
        gain[last] = -np.inf
        np.maximum(alike, vectors @ vectors[last], out=alike)
        chosen[step] = np.argmax(gain - (1 - relevance) * alike)
    return chosen
