"""Make and check API keys: shown once, stored as salted hashes, compared in constant time.

A key is 256 random bits, so a fast hash (BLAKE2b, RFC 7693, with a salt of its own) is enough: there is nothing that
guessing could find. A slow one such as scrypt, made for passwords, would cost every request its tens of milliseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from chiasm.errors import ChiasmError
from chiasm.files import write_whole

PREFIX = "chiasm_"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}) blake2b (?P<salt>[0-9a-f]{32}) (?P<hash>[0-9a-f]{64})")
_LONGEST = 256


@dataclass(frozen=True)
class HashedKey:
    """One row of the key file."""

    name: str
    salt: bytes
    digest: bytes


@dataclass(frozen=True)
class KeyRing:
    """The keys that the server accepts."""

    keys: tuple[HashedKey, ...]

    def name_of(self, key: str) -> str | None:
        """Return the name of a key, or None. Takes the same time for a wrong key as for a right one."""
        given = key.encode("utf-8", "surrogatepass")[:_LONGEST]
        found = None
        for one in self.keys:  # all of them, whichever fits
            if hmac.compare_digest(_digest(given, one.salt), one.digest):
                found = one.name
        return found

    @classmethod
    def read(cls, path: str | Path) -> KeyRing:
        """Read a file of keys: a line each, `NAME blake2b SALT HASH`.

        Raises:
            ChiasmError: there is none, others than its owner may change it, or a line is no key.
        """
        try:
            mode = Path(path).stat().st_mode
            lines = Path(path).read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ChiasmError(
                f"the key file {path} cannot be read ({error}). Make one: chiasm make-key {path}"
            ) from error
        if os.name == "posix" and mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ChiasmError(f"others may write to the key file {path}. Run: chmod 600 {path}")
        keys = []
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise ChiasmError(
                    f"{path}, line {number}: not NAME blake2b SALT HASH. Keys themselves never stand in the file; make "
                    "one with chiasm make-key"
                )
            keys.append(HashedKey(match["name"], bytes.fromhex(match["salt"]), bytes.fromhex(match["hash"])))
        if not keys:
            raise ChiasmError(f"the key file {path} has no keys. Make one: chiasm make-key {path}")
        return cls(tuple(keys))


def make_key(file: str | Path, *, name: str = "default") -> str:
    """Make an API key for `serve`, add its hash to a file that only its owner may read, and return the key.

    Args:
        file: the key file; made if there is none. A key of the same name is replaced.
        name: the name of the key, used in logs and feedback.

    Raises:
        ChiasmError: the name has other characters than letters, digits, `.`, `_` and `-`, or the file is no key file
            or cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise ChiasmError(f"a key's name has 1 to 64 letters, digits, '.', '_' or '-'; got {name!r}")
    path = Path(file)
    others = [one for one in KeyRing.read(path).keys if one.name != name] if path.exists() else []
    key = PREFIX + secrets.token_urlsafe(32)
    salt = secrets.token_bytes(16)
    rows = [*others, HashedKey(name, salt, _digest(key.encode(), salt))]
    text = "".join(f"{one.name} blake2b {one.salt.hex()} {one.digest.hex()}\n" for one in rows)
    try:
        write_whole(path, text, mode=0o600)
    except OSError as error:
        raise ChiasmError(f"the key file {path} cannot be written: {error}") from error
    return key


def _digest(key: bytes, salt: bytes) -> bytes:
    return hashlib.blake2b(key, salt=salt, digest_size=32, person=b"chiasm-api-key").digest()
