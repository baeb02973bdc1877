"""Long texts: what a search should compare a question with, and what a text of several passages is as a whole.

Texts are the descriptions of the installed packages and the documentation of Python's own modules, those with more tokens
than the text encoder takes. Two kinds of questions, each with one right text:

- about: the line that says what the package or module is for; it is taken out of the text.
- inside: sentences from behind the first passage, taken out of the text before it is embedded (inverse cloze task; Lee et
  al. 2019, "Latent Retrieval for Weakly Supervised Open Domain Question Answering", ACL).

The way was chosen on a random half of the texts; the table is of the other half.
"""

from __future__ import annotations

import pydoc
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata

import numpy as np
from jaxtyping import Float

from benchmarks import record
from benchmarks.corpora import say
from chiasm import encoders
from chiasm.types import Text
from chiasm.vectors import unit_rows

LONGEST = 20_000  # characters of a text
SENTENCES = 3  # of each text
SEED = 0
_SENTENCE = re.compile(r"(?<=[.!?\n])\s*([A-Z][^.!?\n`<>|=]{40,200}[.!?])(?=\s)")


@dataclass(frozen=True)
class Document:
    """A text with questions that it answers."""

    text: str
    about: str
    inside: tuple[str, ...]


def main() -> None:
    network = next(network for network in encoders.resolve("offline") if "text" in network.modalities)
    documents = [one for text, about in texts() if (one := document(text, about)) is not None]
    batch = [network.prepare(Text(one.text)) for one in documents]
    found = network.encode_prepared("text", batch)
    assert found.moments is not None
    owners = found.moments.owners
    own = [found.moments.vectors[owners == row] for row in range(len(documents))]
    characters = found.moments.ends - found.moments.starts
    lengths = [characters[owners == row] for row in range(len(documents))]
    long = [row for row, passages in enumerate(own) if len(passages)]
    say(f"{len(long)} long texts, {sum(map(len, own))} passages")
    half = np.random.default_rng(SEED).permutation(len(long)) % 2
    body = [
        f"{len(long)} long texts of {np.mean([len(own[row]) for row in long]):.1f} passages; half of them chose, the other half is shown.",
        "",
    ]
    wholes: Mapping[str, Callable[[int], Float[np.ndarray, " dim"]]] = {
        "first passage": lambda row: own[row][0],
        "mean of passages": lambda row: own[row].mean(axis=0),
        "mean, by length": lambda row: np.average(own[row], axis=0, weights=lengths[row]),
        "first and mean": lambda row: own[row][0] + own[row].mean(axis=0),
    }
    for part, name in ((0, "chosen on"), (1, "shown")):
        rows = [row for row, side in zip(long, half, strict=True) if side == part]
        questions = {
            "about": ([documents[row].about for row in rows], np.arange(len(rows))),
            "inside": (
                [one for row in rows for one in documents[row].inside],
                np.repeat(np.arange(len(rows)), [len(documents[row].inside) for row in rows]),
            ),
        }
        table = []
        for kind, (asked, right) in questions.items():
            vectors = network.encode([Text(one) for one in asked]).vectors
            best = np.stack([(vectors @ own[row].T).max(axis=1) for row in rows], axis=1)
            for whole, make in wholes.items():
                alone = vectors @ unit_rows(np.stack([make(row) for row in rows])).T
                for scores, what in ((alone, "the whole"), (np.maximum(alone, best), "whole and passages")):
                    table.append((kind, len(asked), whole, what, *measure(scores, right)))
            table.append((kind, len(asked), "none", "passages", *measure(best, right)))
        lines = record.table(("questions", "number", "the whole", "compared with", "hit@1", "hit@10", "MRR"), table)
        if part == 0:
            sys.stderr.write(f"{name}\n{lines}\n")
        else:
            body.append(lines)
    record.write("passages", "Long texts", str(SEED), "\n".join(body))


def measure(scores: Float[np.ndarray, "questions texts"], right: np.ndarray) -> tuple[float, float, float]:
    """Return hit@1, hit@10 and the mean reciprocal rank."""
    mine = scores[np.arange(len(right)), right]
    ranks = 1 + (scores > mine[:, None]).sum(axis=1)
    return float((ranks <= 1).mean()), float((ranks <= 10).mean()), float((1 / ranks).mean())


def texts() -> Sequence[tuple[str, str]]:
    """Return texts with the line that says what they are about."""
    found: list[tuple[str, str]] = []
    for name in sorted({one.metadata["Name"] for one in metadata.distributions()}):
        fields = metadata.metadata(name).json
        found.append((str(fields.get("description", "")), str(fields.get("summary", ""))))
    for name in sorted(sys.stdlib_module_names):
        if name.startswith("_") or name in {"antigravity", "this", "idlelib", "test", "turtledemo"}:
            continue
        try:
            module = import_module(name)
        except ImportError:
            continue
        about, _ = pydoc.splitdoc(pydoc.getdoc(module))
        documentation = pydoc.render_doc(module, renderer=pydoc.TextDoc())
        found.append((re.sub(".\b", "", documentation), about))  # bold letters are struck twice
    return found


def document(text: str, about: str) -> Document | None:
    """Return a text without its questions; None where it has none."""
    text = text[:LONGEST].replace(about, "")
    found = [place.group(1) for place in _SENTENCE.finditer(text) if place.start() > 2000]
    if len(found) < SENTENCES or len(about.split()) < 3:
        return None
    inside = [found[number] for number in np.random.default_rng(SEED).permutation(len(found))[:SENTENCES]]
    for sentence in inside:
        text = text.replace(sentence, "")
    return Document(text, about, tuple(inside))


if __name__ == "__main__":
    main()
