"""axe-core (MPL-2.0), which judges whether a page can be used by everybody; fetched once from npm into the user's cache."""

from __future__ import annotations

from typing import Any

from npm import npm_files
from playwright.sync_api import Page

VERSION = "4.14.1"
SERIOUS = ("serious", "critical")


def axe_source() -> str:
    """Return the script, or skip the test where it is neither in the cache nor to be had."""
    return (npm_files("axe-core", VERSION, ["axe.min.js"]) / "axe.min.js").read_text(encoding="utf-8")


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
