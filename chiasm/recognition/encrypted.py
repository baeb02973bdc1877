"""Outputs of linear heads for items that whoever has the heads cannot read: homomorphic encryption (CKKS).

The one who asks embeds an item, encrypts its feature row and keeps the key; the one who answers multiplies it with the weights
(Cheon et al. 2017, eprint 2016/421, by TenSEAL). Products of features and weights come back in a slot each, hidden by random
numbers that sum to zero over a class, and are summed after decryption. So an answer takes one multiplication by plain numbers
and no rotation, of which a product of a matrix and an encrypted vector takes hundreds.

What is not hidden: of the item, its modalities; of the model, all but the weights and the examples, see `public_part`. Who may ask
as many questions as there are features can solve for the weights, as of any linear model that tells its outputs.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float64

from chiasm._optional import require
from chiasm.errors import ChiasmError
from chiasm.recognition.columns import Fitted
from chiasm.recognition.heads import Head
from chiasm.recognition.modalities import Subset
from chiasm.recognition.recognizer import Recognizer

_DEGREE, _BITS = (
    8192,
    (60, 40, 60),
)  # of the polynomials and their moduli: 128 bits of security (homomorphicencryption.org)
_SCALE = 2.0**40
_SLOTS = _DEGREE // 2
_MASK = 2.0**17
"""Random numbers lie within this; products are a few units at most. The last modulus leaves room for 2 ** 19."""

LARGEST_CIPHERTEXT = 2**19
"""Bytes; one has 235,000 when it is encrypted."""

Question: TypeAlias = list[bytes]
"""An encrypted feature row: ciphertexts, one but for rows of more than 4,096 features."""


@dataclass(frozen=True)
class Answer:
    """Encrypted outputs of a head."""

    parts: tuple[bytes, ...]
    unit: float  # that the outputs are to be multiplied by


class Key:
    """Encrypts feature rows and decrypts what comes back. The key stays in the memory of the process.

    Example:
        >>> head = Head("linear", np.arange(2), {"coef": np.eye(2, 3), "intercept": np.array([0.5, 0.25])}, {}, items=9)
        >>> key, row = Key(), np.array([0.6, 0.0, 0.8])
        >>> key.decrypt(answer(head, key.encrypt(row)), outputs=2, width=3).round(4).tolist()
        [1.1, 0.25]
    """

    @cached_property
    def _context(self) -> Any:
        return _new_context()

    def encrypt(self, row: Float[np.ndarray, " width"]) -> Question:
        """Encrypt a feature row."""
        pieces, length, repeats = _layout(len(row))
        slots = np.zeros((pieces, length))
        slots.ravel()[: len(row)] = row
        tenseal = _tenseal()
        return [tenseal.ckks_vector(self._context, np.tile(one, repeats)).serialize() for one in slots]

    def decrypt(self, answer: Answer, *, outputs: int, width: int) -> Float64[np.ndarray, " outputs"]:
        """Return the outputs of a head.

        Args:
            answer: of `answer`.
            outputs: of the head.
            width: of the row that was encrypted.

        Raises:
            ChiasmError: it is no answer to a question by this key.
        """
        _, length, repeats = _layout(width)
        found = [np.array(_load(self._context, part, repeats * length).decrypt()) for part in answer.parts]
        sums = np.concatenate([one.reshape(repeats, length).sum(axis=1) for one in found]) if found else np.zeros(0)
        if not outputs <= len(sums) < outputs + repeats or not np.isfinite(sums).all():
            raise ChiasmError(f"the answer has {len(sums)} outputs where {outputs} were expected")
        return answer.unit * sums[:outputs]


def answer(head: Head, question: Question) -> Answer:
    """Return the encrypted outputs of a linear head, `coef @ row + intercept`.

    Args:
        head: a linear one.
        question: an encrypted row, by whoever is to read the outputs.

    Raises:
        ChiasmError: the question is none, or of a row of another width.
    """
    coef, intercept = (head.tensors[name].astype(np.float64) for name in ("coef", "intercept"))
    pieces, length, repeats = _layout(coef.shape[1])
    if len(question) != pieces:
        raise ChiasmError(f"an encrypted row of {coef.shape[1]} features has {pieces} ciphertexts; got {len(question)}")
    context = _public_context()
    rows = [_load(context, part, repeats * length) for part in question]
    unit = 2.0 ** np.ceil(np.log2(max(1.0, np.abs(coef).max(), np.abs(intercept).max())))
    weights = np.zeros((len(coef), pieces * length))
    weights[:, : coef.shape[1]] = coef / unit
    parts = []
    for first in range(0, len(coef), repeats):
        some = np.zeros((repeats, pieces, length))
        here = slice(first, first + repeats)
        some[: len(weights[here])] = weights[here].reshape(-1, pieces, length)
        hidden = _random(repeats, length)
        hidden -= hidden.mean(axis=1, keepdims=True)
        hidden[: len(weights[here])] += intercept[here, None] / unit / length
        try:
            products = [row * some[:, piece].ravel().tolist() for piece, row in enumerate(rows)]
            parts.append(sum(products[1:], start=products[0] + hidden.ravel().tolist()).serialize())
        except (ValueError, RuntimeError) as error:
            raise _not_encrypted() from error
    return Answer(tuple(parts), float(unit))


@dataclass(frozen=True, eq=False)
class RemoteHead(Head):
    """A linear head whose weights are elsewhere.

    Attributes:
        key: that rows are encrypted with.
        ask: takes an encrypted row to where the weights are, and returns the answer.
    """

    key: Key | None = None
    ask: Callable[[Question], Answer] | None = None

    def outputs(self, rows: Float[np.ndarray, "rows dim"]) -> Float64[np.ndarray, "rows known"]:
        """Ask for the outputs of each row."""
        assert self.key is not None
        assert self.ask is not None
        found = np.empty((len(rows), len(self.known)))
        for number, row in enumerate(rows):
            said = self.ask(self.key.encrypt(row))
            found[number] = self.key.decrypt(said, outputs=len(self.known), width=len(row))
        return found


def public_part(recognizer: Recognizer) -> Recognizer:
    """Return what asking for encrypted outputs needs of a recogniser.

    These are the names, the means of the embeddings that it learned from, and what probabilities, sets, intervals and several heads
    are made with; not the weights, the examples, the alarm for unknown items, or how many items there were of each class.

    Raises:
        ChiasmError: not all of its heads are linear.
    """
    part = copy.copy(recognizer)
    part.together_ = ()
    part.columns_ = {name: _without_weights(column) for name, column in recognizer.columns_.items()}
    return part


def with_remote_heads(part: Recognizer, ask: Callable[[str, Subset, Question], Answer]) -> Recognizer:
    """Return a recogniser that asks for the outputs of its heads.

    Args:
        part: of `public_part`.
        ask: takes the name of a column, the modalities of the head and an encrypted row, and returns the answer.
    """
    key = Key()

    def remote(column: str, modalities: Subset, head: Head) -> Head:
        own = partial(ask, column, modalities)
        return RemoteHead(head.rung, head.known, head.tensors, head.numbers, head.items, key=key, ask=own)

    part = copy.copy(part)
    part.columns_ = {
        name: replace(column, heads={one: remote(name, one, head) for one, head in column.heads.items()})
        for name, column in part.columns_.items()
    }
    return part


def _without_weights(column: Fitted) -> Fitted:
    if column.network is not None or not all(head.is_linear for head in column.heads.values()):
        raise ChiasmError(
            f"{column.column}: only linear heads can be asked with encrypted embeddings, and this one is a network. Fit it "
            "again with --adapter linear, several columns one by one"
        )
    heads = {
        modalities: replace(head, tensors={name: np.zeros_like(array) for name, array in head.tensors.items()})
        for modalities, head in column.heads.items()
    }
    return replace(column, heads=heads, detectors={}, exemplars=None, counts=None, held_out=None)


# --------------------------------------------------------------------------------------------------------- ciphertexts


def _layout(width: int) -> tuple[int, int, int]:
    """Return in how many ciphertexts a row goes, how many features each holds, and how often, for as many classes at once."""
    pieces = -(-width // _SLOTS)
    length = -(-width // pieces)
    return pieces, length, _SLOTS // length


def _load(context: Any, content: bytes, slots: int) -> Any:
    """Return a ciphertext that somebody else has sent."""
    if len(content) > LARGEST_CIPHERTEXT:
        raise ChiasmError(f"a ciphertext has at most {LARGEST_CIPHERTEXT} bytes; got {len(content)}")
    try:
        vector = _tenseal().ckks_vector_from(context, content)
        if vector.size() != slots or len(vector.ciphertext()) != 1:
            raise ValueError(f"{vector.size()} slots in {len(vector.ciphertext())} ciphertexts")
    except (ValueError, RuntimeError) as error:
        raise _not_encrypted() from error
    return vector


def _not_encrypted() -> ChiasmError:
    return ChiasmError("this is no row that was encrypted by the same version of chiasm and for this model. Ask again")


def _random(rows: int, columns: int) -> Float64[np.ndarray, "rows columns"]:
    """Return uniform numbers that nobody can foretell."""
    whole = np.frombuffer(os.urandom(8 * rows * columns), dtype=np.uint64).reshape(rows, columns)
    return (whole / 2.0**63 - 1.0) * _MASK


def _tenseal() -> Any:
    return require("tenseal", "private", "predict with encrypted embeddings")


def _new_context() -> Any:
    tenseal = _tenseal()
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, _DEGREE, coeff_mod_bit_sizes=list(_BITS))
    context.global_scale = _SCALE
    return context


@cache
def _public_context() -> Any:
    """Return the parameters, without a key that could read anything."""
    context = _new_context()
    context.make_context_public()
    return context
