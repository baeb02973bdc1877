"""The demonstration: the main job from a folder of media to a report, on a real corpus.

Uses the public verbs only. The corpus comes from Debian's package archive, without being root.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chiasm
from chiasm import media
from chiasm.encoders.cache import cache_folder
from chiasm.errors import ChiasmError
from chiasm.report.page import Card, Page
from chiasm.report.plots import Bar, bar_chart
from chiasm.report.sections import show_classification
from chiasm.report.summary import recognition_summary, search_summary
from chiasm.store.add import AddReport
from chiasm.store.collection import Collection
from chiasm.store.ingest import Progress
from chiasm.types import Modality
from chiasm.verbs.align import AlignReport
from chiasm.verbs.fit import FitReport
from chiasm.verbs.query import Hit, Query
from chiasm.verbs.spaces import START

PACKAGE = "tuxpaint-stamps-default"
SHOTS = 5
SMALLEST_CLASS = 10  # items a class needs to take part in the recogniser's part
VOICES = 8  # spoken descriptions that are asked with
SPOKEN = 20  # spoken descriptions that are stored, too; a second or two each
TEXT_QUERIES = ("a bird", "something sweet to eat", "a vehicle with wheels")
IMAGE_QUERY = "animals/mammals/elephant.png"


@dataclass(frozen=True)
class _Corpus:
    """The corpus of the demonstration, and the questions asked of it."""

    name: str
    path: Path  # for `add`
    label: str | None = None
    fit_where: str | None = None
    texts: tuple[str, ...] = ()  # text queries
    image: Path | None = None  # image query
    voices: tuple[tuple[str, Path], ...] = ()  # spoken queries, with the ids of what they describe
    root: Path | None = None  # that the table names files in, if it lies elsewhere


def run(
    path: Path | None,
    out: Path,
    *,
    say: Callable[[str], None],
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Add, search, align, fit, and write `report.html`. Return the numbers for `--json`.

    Args:
        path: a folder or table of one's own; None for the Tux Paint stamps.
        out: folder for the collection, the models and the report. What an earlier run left there is used again.
        say: called with each line for people.
        on_progress: called after every file while adding.
    """
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    corpus = _stamps(out, say) if path is None else _Corpus(str(path), path)
    fetched = time.monotonic()
    collection = out / "collection"

    say(f"1. Add: embed every file of {corpus.name} once")
    added = chiasm.add([corpus.path], to=collection, on_progress=on_progress)
    if corpus.root is not None:  # so that `serve` shows the pictures
        Collection.open(collection).record_roots([str(corpus.root.resolve())])
    counts = ", ".join(f"{count} {name}" for name, count in sorted(added.counts.items()))
    say(f"   {added.items} items; files: {counts}; {added.encoded} embedded in {added.seconds:.1f} s")

    say("2. Search, by words, a picture and a voice")
    searches = _searches(collection, corpus, say)

    say("3. Align: learn from image-caption pairs, measure on pairs held out")
    aligned = _align(collection, say)

    say(f"4. Fit: recognise with {SHOTS} examples a class")
    fits = _fits(collection, corpus, out, say)

    page = _page(corpus, added, searches, aligned, fits, collection, out)
    report = out / "report.html"
    page.save(report)
    shown = collection / "reports" / report.name  # where `serve` looks for the newest
    shown.parent.mkdir(exist_ok=True)
    page.save(shown)
    end = time.monotonic()
    say(f"Done in {end - fetched:.0f} s (and {fetched - begin:.0f} s to get the corpus).")
    say(f"Report: {report}   Collection: {collection}   Models: {out / 'models'}")
    say(f'Next: chiasm search {collection} "a red fruit"')
    return {
        "report": str(report),
        "collection": str(collection),
        "items": added.items,
        "files": added.counts,
        "searches": [{"query": query, "hits": [hit.id for hit in hits]} for query, _, _, hits in searches],
        "align": None if aligned is None else aligned.as_dict(),
        "fit": {"+".join(fit.modalities): fit.metrics["f1_macro"] for fit in fits},
        "seconds": round(end - fetched, 1),
    }


# ---------------------------------------------------------------------------------------------------------- the corpus


def fetch_debian(package: str, say: Callable[[str], None]) -> Path:
    """Unpack a Debian package into the cache and return the folder; nothing is installed, and root is not needed.

    Raises:
        ChiasmError: no apt-get or dpkg-deb here, or the package cannot be downloaded.
    """
    target = cache_folder() / "debian" / package
    if target.is_dir():
        return target
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise ChiasmError(
            f"the corpus comes from the Debian package {package}, and {' and '.join(missing)} is not on this machine. "
            "Use a folder of your own: chiasm demo --path FOLDER"
        )
    say(f"Fetching the Debian package {package} (once)")
    work = target.with_name(f".{package}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    (work / "lists" / "partial").mkdir(parents=True)
    try:
        done = _call(["apt-get", "download", package], work)
        if done.returncode != 0:
            # The machine's package lists are old or missing. Lists of our own can be fetched without being root.
            own = (
                f"-oDir::State::Lists={work / 'lists'}",
                "-oAPT::Sandbox::User=",
                f"-oDir::Cache::pkgcache={work / 'pkg.bin'}",
                f"-oDir::Cache::srcpkgcache={work / 'src.bin'}",
            )
            done = _call(["apt-get", *own, "update"], work)
            if done.returncode == 0:
                done = _call(["apt-get", *own, "download", package], work)
        archives = sorted(work.glob("*.deb"))
        if done.returncode != 0 or not archives:
            raise ChiasmError(
                f"apt-get cannot download {package}: {done.stderr.strip()[-300:] or 'no archive came'}. Check the network "
                "and that the machine's apt sources have Debian's main archive, or use a folder of your own: chiasm demo "
                "--path FOLDER"
            )
        unpacked = _call(["dpkg-deb", "-x", str(archives[0]), str(work / "tree")], work)
        if unpacked.returncode != 0:
            raise ChiasmError(f"dpkg-deb cannot unpack {archives[0].name}: {unpacked.stderr.strip()[-300:]}")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            (work / "tree").rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _call(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)  # noqa: S603


def stamps_rows(root: Path) -> list[dict[str, str]]:
    """Return the captioned stamps: picture, first (English) line of the caption file, category (top folder), spoken description."""
    rows = []
    for picture in sorted(root.rglob("*.png")):
        caption = picture.with_suffix(".txt")
        if picture.stem.endswith("_mirror") or not caption.is_file():
            continue
        with caption.open(encoding="utf-8") as lines:
            text = lines.readline().strip()
        if text:
            name = picture.relative_to(root)
            spoken = picture.with_name(f"{picture.stem}_desc.ogg")
            rows.append(
                {
                    "id": str(name.with_suffix("")),
                    "image": str(picture),
                    "text": text,
                    "audio": str(spoken) if spoken.is_file() else "",
                    "category": name.parts[0],
                }
            )
    return rows


def stamps_root(say: Callable[[str], None]) -> Path:
    """Return the folder of the Tux Paint stamps: installed, or fetched into the cache."""
    installed = Path("/usr/share/tuxpaint/stamps")
    if installed.is_dir() and any(installed.rglob("*_desc.ogg")):
        return installed
    return fetch_debian(PACKAGE, say) / "usr" / "share" / "tuxpaint" / "stamps"


def _stamps(out: Path, say: Callable[[str], None]) -> _Corpus:
    root = stamps_root(say)
    rows = stamps_rows(root)
    if not rows:
        raise ChiasmError(f"no captioned pictures in {root}: the package {PACKAGE} has another layout than expected")
    sizes = Counter(row["category"] for row in rows)
    spoken = [row for row in rows if row["audio"] and row["category"] != "symbols"]
    # Equal steps through the sorted list, so that every category is heard.
    stored = {row["id"] for row in spoken[:: max(1, len(spoken) // SPOKEN)][:SPOKEN]}
    others = [row for row in spoken if row["id"] not in stored]
    asked = [others[len(others) * number // VOICES] for number in range(min(VOICES, len(others)))]
    manifest = out / "stamps.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "image", "text", "audio", "category"])
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "audio": row["audio"] if row["id"] in stored else ""})
    classes = sorted(name for name, size in sizes.items() if size >= SMALLEST_CLASS and name != "symbols")
    picture = root / IMAGE_QUERY
    return _Corpus(
        "Debian's Tux Paint stamps",
        manifest,
        "category",
        "category IN (" + ", ".join(f"'{name}'" for name in classes) + ")",
        TEXT_QUERIES,
        picture if picture.is_file() else Path(rows[0]["image"]),
        tuple((row["id"], Path(row["audio"])) for row in asked),
        root,
    )


# ------------------------------------------------------------------------------------------------------------ the parts

_Search = tuple[str, Path | None, Path | None, tuple[Hit, ...]]  # words for people, picture, sound, hits


def _searches(collection: Path, corpus: _Corpus, say: Callable[[str], None]) -> list[_Search]:
    rows = Collection.open(collection).items()
    has = chiasm.status(collection).embeddings
    modality: Modality | None = "image" if "image" in has else None
    texts, image = list(corpus.texts), corpus.image
    if not texts:  # a corpus of one's own: ask for what it says of itself
        texts = [_words(str(row["text"][0])) for row in rows if row["text"]][:3]
    if image is None:
        image = next((Path(row["image"][0]) for row in rows if row["image"]), None)
    results: list[_Search] = [
        (f"words: {text}", None, None, chiasm.search(collection, text, modality=modality, k=6, space=START).hits)
        for text in texts
    ]
    if image is not None and "image" in has:
        hits = chiasm.search(collection, image=image, modality="image", k=7, space=START).hits
        results.append(
            ("a picture, for pictures like it", image, None, tuple(h for h in hits if h.path != str(image))[:6])
        )
    if corpus.voices:
        try:
            results.append(_voices(collection, corpus.voices, modality))
        except ChiasmError as error:
            say(f"   no search by voice: {error}")
    for query, _, _, hits in results:
        say(f"   {query} -> {', '.join(hit.id for hit in hits[:3])}")
    return results


def _voices(collection: Path, voices: Sequence[tuple[str, Path]], modality: Modality | None) -> _Search:
    """Ask with every voice, and show the first that finds what it describes, with how many do."""
    searcher, options = chiasm.Searcher(collection, space=START), chiasm.SearchOptions(k=6, modality=modality)
    found: list[tuple[Hit, ...]] = []
    for _, path in voices:
        try:
            found.append(searcher.search(Query((searcher.open(path),)), options).hits)
        except ChiasmError:  # no words are recognised in this one
            if path == voices[-1][1] and not any(found):
                raise
            found.append(())
    right = [number for number, (item, _) in enumerate(voices) if item in {hit.id for hit in found[number]}]
    shown = right[0] if right else 0
    words = f"a voice ({voices[shown][1].name}); {len(right)} of {len(voices)} voices find what they describe among the first 6"
    return words, None, voices[shown][1], found[shown]


def _words(text: str) -> str:
    """Return the beginning of a text, or of the file that holds it."""
    return " ".join((media.words_of(text) or "").split())[:80]


def _align(collection: Path, say: Callable[[str], None]) -> AlignReport | None:
    try:
        report = chiasm.align(collection)
    except ChiasmError as error:
        say(f"   not aligned: {error}")
        return None
    for direction in report.gain:
        before, after = report.before[direction]["hit@10"], report.after[direction]["hit@10"]
        say(
            f"   {direction.replace('_', ' ')}: hit@10 {before:.2f} -> {after:.2f} on {report.aligned['image'].held_out} held-out pairs"
        )
    return report


def _fits(collection: Path, corpus: _Corpus, out: Path, say: Callable[[str], None]) -> list[FitReport]:
    columns = chiasm.status(collection).columns
    label = corpus.label or next((name for name in ("label", "category", "class") if name in columns), None)
    if label is None:
        say("   nothing to recognise: the items have no column label, category or class")
        return []
    reports = []
    choices: tuple[tuple[Modality, ...], ...] = (("image",), ("text",), ("image", "text"))
    for modalities in choices:
        name = "+".join(modalities)
        try:
            report = chiasm.fit(
                collection,
                label=label,
                out=out / "models" / name,
                modalities=modalities,
                shots=SHOTS,
                where=corpus.fit_where,
            )
        except ChiasmError as error:
            say(f"   {name}: {error}")
            continue
        say(f"   {name}: {recognition_summary(report.metrics).sentence}")
        reports.append(report)
    return reports


def _page(
    corpus: _Corpus,
    added: AddReport,
    searches: Sequence[_Search],
    aligned: AlignReport | None,
    fits: Sequence[FitReport],
    collection: Path,
    out: Path,
) -> Page:
    lead = f"{corpus.name}: {added.items} items, embedded once and used for everything below."
    page = Page("chiasm demo", lead, {"encoder": "offline"})
    if fits:
        page.summary(recognition_summary(fits[-1].metrics))
    elif aligned is not None:
        page.summary(search_summary({**aligned.after, "before": aligned.before}))
    page.section("Search", "Each row is one query and the items nearest to it, before anything was learned.")
    for query, picture, sound, hits in searches:
        cards = [
            Card(
                Path(hit.path) if hit.path and hit.modality == "image" else None,
                hit.id.rpartition("/")[2].replace("_", " "),
                f"{hit.score:.2f}",
            )
            for hit in hits
        ]
        page.cards(query, cards, picture=picture, sound=sound)
    if aligned is not None:
        page.section(
            "Align",
            f"Learned from pairs of image and caption in closed form, measured on {aligned.aligned['image'].held_out} pairs that were held "
            "out. hit@10: how often the right one is among the first ten.",
        )
        bars = [
            Bar(direction.replace("_", " "), float(values[direction]["hit@10"]), key=when)
            for direction in aligned.gain
            for when, values in (("before", aligned.before), ("after", aligned.after))
        ]
        page.chart(bar_chart("hit@10 before and after", bars, x_range=(0, 1)))
        shown = ("hit@1", "hit@5", "hit@10", "mrr", "median_rank")
        page.table(
            ("", "direction", *shown),
            [
                (when, direction.replace("_", " "), *(float(values[direction][name]) for name in shown))
                for when, values in (("before", aligned.before), ("after", aligned.after))
                for direction in aligned.gain
            ],
        )
    if fits:
        page.section(
            "Recognise",
            f"{len(fits[0].classes)} classes of {fits[0].label!r}, {SHOTS} examples each, measured on {fits[0].measured}.",
        )
        scores = [Bar("+".join(fit.modalities), float(fit.metrics["f1_macro"])) for fit in fits]
        page.chart(bar_chart("Macro-F1", scores, x_range=(0, 1)))
        page.paragraph("The last of them in full:")
        show_classification(page, fits[-1].metrics)
    page.section("Files")
    page.table(("outcome", "files"), sorted(added.counts.items()))
    if added.outcomes:
        page.table(("file", "outcome", "reason"), [(o.path, o.outcome.value, o.reason) for o in added.outcomes[:30]])
    page.section("What to try next")
    model = out / "models" / "+".join(fits[-1].modalities) if fits else out / "models" / "mine"
    page.code(
        f'chiasm search {collection} "a red fruit" --modality image\n'
        f"chiasm search {collection} --image PICTURE.png\n"
        f"chiasm evaluate {collection} --pairs image,text --report search.html\n"
        f"chiasm predict {model} PICTURE.png\n"
        'chiasm add YOUR_FOLDER --to mine && chiasm search mine "..."'
    )
    return page
