"""Masks that cancel out in a sum: fixed-point numbers modulo 2**64, and streams of random numbers from shared secrets.

Who adds which masks, and how the sum is freed of them, is in `chiasm.verbs.federate`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from chiasm._optional import require
from chiasm.errors import ChiasmError
from chiasm.sealed import derive_key

FRACTION = 32  # bits behind the point
LARGEST = 2.0**29  # of a number; sums of four parties' largest still fit into 64 bits

_PURPOSE = "mask the sums of parties"

Words = Shaped[np.ndarray, " numbers"]
"""Whole numbers modulo 2**64, uint64."""


def to_words(values: Float[np.ndarray, " numbers"]) -> Words:
    """Return numbers in fixed point: rounded to 2**-32.

    Raises:
        ChiasmError: a number is too large, or none.

    Example:
        >>> from_words(to_words(np.array([1.5])) + to_words(np.array([-2.0]))).tolist()
        [-0.5]
    """
    if not (np.abs(values) < LARGEST).all():
        raise ChiasmError(
            f"a sum is not below {LARGEST:.0f}, the largest that can be masked: divide the items among several parties"
        )
    return np.rint(np.asarray(values, np.float64) * 2.0**FRACTION).astype(np.int64).view(np.uint64)


def from_words(words: Words) -> Float[np.ndarray, " numbers"]:
    """Return what `to_words` was given."""
    return words.view(np.int64) / 2.0**FRACTION


def stream(seed: bytes, count: int) -> Words:
    """Return numbers that nobody can tell from random ones without the seed (AES-256 in counter mode)."""
    ciphers = require("cryptography.hazmat.primitives.ciphers", "private", _PURPOSE)
    cipher = ciphers.Cipher(ciphers.algorithms.AES(seed), ciphers.modes.CTR(bytes(16)))
    return np.frombuffer(cipher.encryptor().update(bytes(8 * count)), dtype="<u8").astype(np.uint64)


def new_key() -> tuple[bytes, bytes]:
    """Return a new private key of X25519 and its public key."""
    x25519 = require("cryptography.hazmat.primitives.asymmetric.x25519", "private", _PURPOSE)
    key = x25519.X25519PrivateKey.generate()
    return key.private_bytes_raw(), key.public_key().public_bytes_raw()


def shared_seed(private: bytes, public: bytes) -> bytes:
    """Return the seed that both holders of two keys can compute, and nobody else (X25519, HKDF with SHA-256).

    Raises:
        ChiasmError: the other one is no public key.
    """
    x25519: Any = require("cryptography.hazmat.primitives.asymmetric.x25519", "private", _PURPOSE)
    try:
        secret = x25519.X25519PrivateKey.from_private_bytes(private).exchange(
            x25519.X25519PublicKey.from_public_bytes(public)
        )
    except ValueError as error:
        raise ChiasmError(f"a party's key is none: {error}. Ask for its file again") from error
    return derive_key(secret, b"", b"chiasm mask")
