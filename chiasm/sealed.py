"""Sealed files: a file or a folder as one encrypted file, whole or not at all, read back only with its key.

    chiasm-sealed-1\\n    16 bytes
    name of the key      8 bytes, derived from it, so that a wrong key is told from damage
    salt                 16 bytes, random: every file has a key of its own (HKDF, SHA-256)
    blocks               1 MiB of a tar each, AES-256-GCM, with a number, and a mark on the last one: none can be left out

What is not hidden: the size, to a megabyte's block exactly, and when it was written.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chiasm._optional import require
from chiasm.errors import ChiasmError
from chiasm.files import temporary_of, whole_folder, write_whole

MAGIC = b"chiasm-sealed-1\n"
KEY = "CHIASM_KEY"  # environment variable with a key in hexadecimal digits
_BLOCK = 2**20
_TAG = 16
_HEAD = len(MAGIC) + 8 + 16


def key_of(file: Path | None) -> bytes:
    """Return the key in a file of 64 hexadecimal digits, or in `$CHIASM_KEY`.

    Raises:
        ChiasmError: there is none, or it is no key; what it holds is not repeated.
    """
    if file is None and KEY not in os.environ:
        raise ChiasmError(f"a key is needed: --key-file FILE, or the variable {KEY}")
    try:
        text = os.environ[KEY] if file is None else file.read_text(encoding="ascii")
        key = bytes.fromhex(text.strip())
    except FileNotFoundError:
        raise ChiasmError(
            f"there is no key in {file}. Without the key what it sealed cannot be read by anybody"
        ) from None
    except (OSError, ValueError):
        key = b""
    if len(key) != 32:
        raise ChiasmError(f"{file or KEY} holds no key: 64 hexadecimal digits were expected")
    return key


def make_key(file: Path) -> bytes:
    """Write a new key that only its owner may read, and return it."""
    key = secrets.token_bytes(32)
    write_whole(file, key.hex() + "\n", mode=0o600)
    return key


def is_sealed(path: str | Path) -> bool:
    """Return whether a path is a sealed file."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def seal(source: Path, out: Path, key: bytes) -> None:
    """Write a file or folder as one sealed file; the source stays. Links are sealed as what they point to.

    Raises:
        OSError: it cannot be read, or the file cannot be written; what was there stays.
    """
    import tarfile

    temporary = temporary_of(out)
    try:
        with temporary.open("xb") as file:
            writer = _Writer(file, key)
            with tarfile.open(fileobj=writer, mode="w|", dereference=True) as archive:  # type: ignore[call-overload]
                archive.add(source, arcname=source.name)
            writer.finish()
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def unseal(path: Path, room: Path, key: bytes) -> Path:
    """Write what was sealed into an empty folder, and return where it is.

    Raises:
        ChiasmError: it was sealed with another key, or is damaged.
    """
    import tarfile

    with path.open("rb") as file:
        reader = _Reader(file, key, path)
        try:
            with tarfile.open(fileobj=io.BufferedReader(reader, _BLOCK), mode="r|") as archive:
                archive.extractall(room, filter="data")
            while reader.read(_BLOCK):  # to its end, which says that nothing is missing
                pass
        except (tarfile.TarError, EOFError) as error:
            raise ChiasmError(f"{path} is damaged ({error}). Restore it from a copy") from None
    (content,) = room.iterdir()
    return content


def unseal_to(path: Path, target: Path, key: bytes) -> None:
    """Write what was sealed under a name that is free; nothing of it where it cannot be read to its end.

    Raises:
        ChiasmError: as `unseal`.
        OSError: the name is taken, or the disk cannot be written to.
    """
    with tempfile.TemporaryDirectory(dir=target.absolute().parent) as room:
        content = unseal(path, Path(room), key)
        if content.is_dir():
            with whole_folder(target) as draft:
                shutil.copytree(content, draft, dirs_exist_ok=True)
        else:
            if target.exists():
                raise FileExistsError(f"{target} exists")
            content.replace(target)


@contextmanager
def opened(path: str | Path, key_file: Path | None = None) -> Iterator[Path]:
    """Yield the folder that a path names; of a sealed one a copy in memory that is gone afterwards.

    Raises:
        ChiasmError: the key is wrong or missing, or there is no folder in memory.
    """
    if not is_sealed(path):
        yield Path(path)
        return
    memory = Path("/dev/shm")  # noqa: S108  a folder in it, which nobody else may enter, is made below
    if not memory.is_dir():
        raise ChiasmError(
            f"{path} is sealed, and there is no /dev/shm to open it in: chiasm decrypt it onto a disk in memory"
        )
    key = key_of(key_file)
    with tempfile.TemporaryDirectory(dir=memory, prefix="chiasm-") as room:
        yield unseal(Path(path), Path(room), key)


def derive_key(key: bytes, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes that depend on a key and say nothing about it (HKDF with SHA-256)."""
    hashes, kdf = (
        require(f"cryptography.hazmat.primitives.{name}", "private", "encrypt") for name in ("hashes", "kdf.hkdf")
    )
    return bytes(kdf.HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(key))


def _name(key: bytes) -> bytes:
    return derive_key(key, b"", b"chiasm name of a key")[:8]


class _Cipher:
    """Blocks of one file, each with its number and whether it is the last."""

    def __init__(self, key: bytes, head: bytes) -> None:
        ciphers = require("cryptography.hazmat.primitives.ciphers.aead", "private", "encrypt")
        self._cipher: Any = ciphers.AESGCM(derive_key(key, head[-16:], b"chiasm sealed"))
        self._head, self._number = head, 0

    def _nonce(self, *, last: bool) -> bytes:
        self._number += 1
        return struct.pack(">QI", self._number, last)

    def encrypt(self, block: bytes, *, last: bool) -> bytes:
        return bytes(self._cipher.encrypt(self._nonce(last=last), block, self._head))

    def decrypt(self, block: bytes, *, last: bool) -> bytes:
        return bytes(self._cipher.decrypt(self._nonce(last=last), block, self._head))


class _Writer:
    """Encrypts what is written to it."""

    def __init__(self, file: Any, key: bytes) -> None:
        head = MAGIC + _name(key) + secrets.token_bytes(16)
        file.write(head)
        self._file, self._cipher, self._waiting = file, _Cipher(key, head), bytearray()

    def write(self, content: bytes) -> int:
        self._waiting += content
        while len(self._waiting) > _BLOCK:
            self._file.write(self._cipher.encrypt(bytes(self._waiting[:_BLOCK]), last=False))
            del self._waiting[:_BLOCK]
        return len(content)

    def finish(self) -> None:
        self._file.write(self._cipher.encrypt(bytes(self._waiting), last=True))


class _Reader(io.RawIOBase):
    """Decrypts what is read from it; nothing is given back that was changed."""

    def __init__(self, file: Any, key: bytes, path: Path) -> None:
        head = file.read(_HEAD)
        if len(head) != _HEAD or not head.startswith(MAGIC):
            raise ChiasmError(f"{path} is not a sealed file (chiasm encrypt writes them)")
        if head[len(MAGIC) : -16] != _name(key):
            raise ChiasmError(f"{path} was sealed with another key than this one. Name the right one")
        self._file, self._cipher, self._path = file, _Cipher(key, head), path
        self._next, self._left = file.read(_BLOCK + _TAG), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left and self._next:
            block, self._next = self._next, self._file.read(_BLOCK + _TAG)
            exceptions = require("cryptography.exceptions", "private", "encrypt")
            try:
                self._left = self._cipher.decrypt(block, last=not self._next)
            except exceptions.InvalidTag:
                raise ChiasmError(
                    f"{self._path} is damaged, or was cut off or changed. Restore it from a copy"
                ) from None
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count
