"""axe-core (MPL-2.0), which judges whether a page can be used by everybody; fetched once from npm into the user's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

VERSION = "4.14.1"
SERIOUS = ("serious", "critical")


def axe_source() -> str:
    """Return the script, or skip the test where it is neither in the cache nor to be had."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "chiasm-tests"
    kept = root / f"axe-core-{VERSION}.js"
    if not kept.is_file():
        npm = shutil.which("npm")
        if npm is None:  # shown in the summary of the run, so not in silence
            pytest.skip("axe-core comes from npm, which is not on this machine. On Debian: apt-get install npm")
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as work:
            done = subprocess.run(
                [npm, "pack", "--silent", f"axe-core@{VERSION}"], cwd=work, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                pytest.skip(f"axe-core cannot be fetched from npm: {done.stderr.strip()[-200:]}")
            with tarfile.open(next(Path(work).glob("*.tgz"))) as archive:
                member = archive.extractfile("package/axe.min.js")
                assert member is not None
                part = Path(work) / "axe.js"
                part.write_bytes(member.read())
            part.replace(kept)
    return kept.read_text(encoding="utf-8")


def findings(page: Page, source: str) -> list[dict[str, Any]]:
    """Return what is seriously wrong with a page, by the rules of WCAG 2.2 A and AA: rule, element and reason."""
    page.evaluate(source)
    found = page.evaluate(
        """() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] })"""
    )
    return [
        {"rule": one["id"], "at": node["target"], "why": node["failureSummary"]}
        for one in found["violations"]
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]
