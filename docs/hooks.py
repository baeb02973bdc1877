"""What the site needs beside the pages in docs/: files of the repository as pages, and the REST reference from OpenAPI."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from chiasm.serving.reference import routes_of

ROOT = Path(__file__).parents[1]
FROM_ROOT = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md", "benchmarks/LOG.md")
_UP = re.compile(r"\]\(((?:\.\./)*)((?:docs/|benchmarks/|examples/|CHANGELOG|CONTRIBUTING|README)[^)\s]*)")


def on_files(files: Files, config: Any) -> Files:
    """Add pages that lie elsewhere in the repository, and the icon of the served page."""
    for name in FROM_ROOT:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    icon = ROOT / "chiasm" / "serving" / "static" / "icon.svg"
    files.append(File.generated(config, "icon.svg", abs_src_path=str(icon)))
    files.append(File.generated(config, "examples.md", content=_examples()))
    return files


def _examples() -> str:
    """Return the programs of examples/ as one page."""
    programs = sorted((ROOT / "examples").glob("*.py"))
    parts = [f"## {path.name}\n\n```python\n{path.read_text(encoding='utf-8').strip()}\n```" for path in programs]
    return "# Programs to start from\n\nEach is run by the tests.\n\n" + "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages, and fill in the REST reference."""
    source = page.file.src_uri
    here = source if source in FROM_ROOT else f"docs/{source}"

    def moved(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        path = (Path(here).parent / match[1] / target).as_posix()
        parts: list[str] = []
        for part in path.split("/"):
            if part == "..":
                parts.pop()
            elif part != ".":
                parts.append(part)
        inside = "/".join(parts).removeprefix("docs/")
        if inside == "README.md":
            inside = "index.md"
        if inside.startswith("examples/"):
            inside = "examples.md"
        return f"]({'../' * source.count('/')}{inside}{'#' * bool(anchor)}{anchor}"

    markdown = _UP.sub(moved, markdown)
    return markdown.replace("<!-- routes -->", _routes()) if source == "reference/rest.md" else markdown


def _routes() -> str:
    """Return the routes of docs/openapi.json as Markdown."""
    document = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    lines = []
    for route in routes_of(document):
        lines += [f"## `{route.method} {route.path}`", "", route.about, ""]
        if route.parameters:
            lines += ["| parameter | in | type | meaning |", "|---|---|---|---|"]
            lines += [
                f"| `{one.name}` | {one.where} | {_cell(one.type)} | {_cell(one.about)} |" for one in route.parameters
            ]
            lines.append("")
        if route.bodies:
            bodies = (f"`{kind}`" + (f" ({name})" if name else "") for kind, name in route.bodies)
            lines += [f"Body: {' or '.join(bodies)}.", ""]
        lines += [f"Answers: {'; '.join(f'{code} {_cell(meaning)}' for code, meaning, _ in route.answers)}", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").strip()
