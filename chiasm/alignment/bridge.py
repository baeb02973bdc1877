"""Bridge an image classifier's features to text vectors without any paired data.

ConSE (Norouzi et al. 2014, "Zero-shot learning by convex combination of semantic embeddings", eq. 3): an image stands
where the embeddings of its most probable class names stand, weighted by their probabilities. Arrays in, arrays out.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from chiasm.vectors import unit_rows

TOP = 20
TEMPERATURE = 1.5
CHUNK = 1024  # rows at a time: 4 MB of probabilities at 1000 classes, whatever the collection's size


def conse(
    vectors: Float[np.ndarray, "n dim"],
    *,
    weight: Float[np.ndarray, "dim classes"],
    bias: Float[np.ndarray, " classes"],
    names: Float[np.ndarray, "classes anchor"],
    top: int = TOP,
    temperature: float = TEMPERATURE,
) -> Float[np.ndarray, "n anchor"]:
    """Return unit vectors of images in the space of their class names.

    Args:
        vectors: the classifier's features.
        weight: its linear layer.
        bias: its intercept.
        names: unit vectors of the class names.
        top: how many classes take part (T in the paper); classes that tie with the last of them take part, too.
        temperature: above 1 the probabilities are flatter. The paper uses 1; from 1 to 2 it makes no
            difference beyond the noise on the stamps.

    Example:
        >>> two = np.eye(2, dtype=np.float32)
        >>> conse(np.array([[9.0, 0.0]]), weight=two, bias=np.zeros(2), names=two, top=1).tolist()
        [[1.0, 0.0]]

    Raises:
        ValueError: `top` below 1, or a temperature that is not above 0.
    """
    if top < 1 or not temperature > 0:
        raise ValueError(f"top must be at least 1 and temperature above 0; got {top} and {temperature}")
    placed = np.empty((len(vectors), names.shape[1]), dtype=np.float32)
    top = min(top, len(bias))
    for first in range(0, len(vectors), CHUNK):
        logits = (vectors[first : first + CHUNK] @ weight + bias) / temperature
        logits -= logits.max(axis=1, keepdims=True)
        probabilities = np.exp(logits)
        least = np.partition(probabilities, -top, axis=1)[:, -top, None]
        probabilities[probabilities < least] = 0
        placed[first : first + CHUNK] = unit_rows(probabilities @ names)
    return placed
