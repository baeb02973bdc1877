"""The verbs `encrypt` and `decrypt`: collections, models, statistics and bundles as sealed files, see `chiasm.sealed`."""

from __future__ import annotations

from pathlib import Path

from chiasm.errors import ChiasmError
from chiasm.sealed import is_sealed, key_of, make_key, opened, seal, unseal_to


def encrypt(
    source: str | Path, *, out: str | Path, key_file: str | Path | None = None, new_key: str | Path | None = None
) -> Path:
    """Write a collection, a model or any file as one encrypted file, and return it. The source stays: delete it yourself.

    Nobody may write to the source meanwhile.

    `search` and `predict` read such files. What is sealed already is sealed anew, with the new key.

    Args:
        source: a folder or a file; or a sealed one, whose key is to change.
        out: the file to write.
        key_file: file with the key, 64 hexadecimal digits. Default: the variable `CHIASM_KEY`.
        new_key: file of the key to seal with, made where there is none. Default: the key above.

    Raises:
        ChiasmError: no source, no key, a wrong key, or the file cannot be written.
        MissingExtraError: the extra `private` is not installed.
    """
    path, target = Path(source), Path(out)
    if not path.exists():
        raise ChiasmError(f"there is no {path} to encrypt")
    if path.is_dir() and target.absolute().is_relative_to(path.absolute()):
        raise ChiasmError(f"{out} lies in {source} itself. Name a file elsewhere")
    old_file = None if key_file is None else Path(key_file)
    old = key_of(old_file) if is_sealed(path) or new_key is None else b""
    key = old if new_key is None else key_of(Path(new_key)) if Path(new_key).exists() else make_key(Path(new_key))
    try:
        with opened(path, old_file) as content:  # in memory, where it was sealed
            seal(content.absolute(), target, key)
    except OSError as error:
        raise ChiasmError(f"{target} cannot be written: {error}") from error
    return target


def decrypt(source: str | Path, *, out: str | Path, key_file: str | Path | None = None) -> Path:
    """Write what `encrypt` sealed as it was, and return it.

    Args:
        source: the sealed file.
        out: a name that is free.
        key_file: as of `encrypt`.

    Raises:
        ChiasmError: it is not sealed, the key is wrong or missing, it is damaged, or it cannot be written.
    """
    if not Path(source).is_file():
        raise ChiasmError(f"there is no sealed file {source}")
    try:
        unseal_to(Path(source), Path(out), key_of(None if key_file is None else Path(key_file)))
    except OSError as error:
        raise ChiasmError(f"{out} cannot be written: {error}") from error
    return Path(out)
