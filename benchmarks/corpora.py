"""The corpora of the benchmarks, fetched once into the cache and embedded once into collections there."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float

import chiasm
from chiasm import encoders
from chiasm.demo import SMALLEST_CLASS, stamps_root, stamps_rows
from chiasm.encoders.cache import cache_folder
from chiasm.recognition import ModalityArrays
from chiasm.space import Space, start_space
from chiasm.store.collection import FORMAT_VERSION, Collection
from chiasm.verbs.dataset import class_names, shared_block

EMOJI_VERSION = "16.0.0"


@dataclass(frozen=True)
class Pairs:
    """Items with an image and a caption: embeddings as the encoders give them, a row an item."""

    image: Float[np.ndarray, "items 1280"]
    text: Float[np.ndarray, "items 384"]
    captions: np.ndarray
    categories: np.ndarray
    kinds: np.ndarray  # a finer category, of emoji only
    ids: np.ndarray


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


def stamps_table(folder: Path, *, categories: Container[str] | None = None) -> Path:
    """A manifest of the captioned stamps (image, caption, category), of all categories or of those given."""
    rows = stamps_rows(stamps_root(say))
    return _table(folder / "stamps.csv", [row for row in rows if categories is None or row["category"] in categories])


def emoji_table(vendor: str, folder: Path) -> Path:
    """A manifest of one vendor's emoji (64-pixel image, name, category) from the npm package emoji-datasource-VENDOR."""
    root = cache_folder() / "npm" / f"emoji-datasource-{vendor}-{EMOJI_VERSION}"
    if not root.is_dir():
        work = root.with_name(root.name + ".part")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        say(f"Fetching emoji-datasource-{vendor}")
        subprocess.run(
            ["npm", "pack", "--silent", f"emoji-datasource-{vendor}@{EMOJI_VERSION}"],
            cwd=work,
            check=True,
            stdout=sys.stderr,
        )
        with tarfile.open(next(work.glob("*.tgz"))) as archive:
            wanted = [
                m for m in archive if m.name.startswith(f"package/img/{vendor}/64/") or m.name == "package/emoji.json"
            ]
            archive.extractall(work, wanted, filter="data")
        (work / "package").rename(root)
        shutil.rmtree(work)
    rows = []
    for emoji in json.loads((root / "emoji.json").read_text(encoding="utf-8")):
        picture = root / "img" / vendor / "64" / emoji["image"]
        if picture.is_file():
            text = (emoji["name"] or emoji["short_name"]).lower()
            rows.append(
                {
                    "id": emoji["unified"],
                    "image": str(picture),
                    "text": text,
                    "category": emoji["category"],
                    "kind": emoji["subcategory"],
                }
            )
    return _table(folder / f"emoji-{vendor}.csv", rows)


def _table(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "image", "text", "category", "kind"], restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a manifest."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    """Write rows as a manifest, and return its path."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def benchmarks_folder() -> Path:
    """Return where corpora are kept, embedded; by the format of collections, since those of another are made anew."""
    return cache_folder() / "benchmarks" / f"format-{FORMAT_VERSION}"


def pairs(name: str) -> Pairs:
    """`"stamps"` or `"emoji-VENDOR"`, embedded by the offline encoder."""
    folder = benchmarks_folder()
    manifest = stamps_table(folder) if name == "stamps" else emoji_table(name.removeprefix("emoji-"), folder)
    chiasm.add([manifest], to=folder / name)
    collection = Collection.open(folder / name)
    networks = encoders.resolve("offline")
    rows = {str(row["id"]): row for row in collection.items()}
    found = {}
    for modality in ("image", "text"):
        network = next(network for network in networks if modality in network.modalities)
        vectors = collection.vectors(network.fingerprint)
        found[modality] = dict(zip(vectors.items, vectors.vectors, strict=True))
    ids = sorted(found["image"].keys() & found["text"].keys())
    return Pairs(
        np.stack([found["image"][item] for item in ids]),
        np.stack([found["text"][item] for item in ids]),
        np.array([rows[item]["text"][0] for item in ids]),
        np.array([rows[item]["category"] for item in ids]),
        np.array([rows[item]["kind"] or "" for item in ids]),
        np.array(ids),
    )


def spoken_stamps() -> dict[str, Float[np.ndarray, " dim"]]:
    """Embeddings of the English spoken descriptions of captioned stamps, by the stamp's id; few stamps have one."""
    folder = benchmarks_folder()
    rows = [row for row in stamps_rows(stamps_root(say)) if row["audio"]]
    manifest = folder / "stamps-spoken.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "audio"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    chiasm.add([manifest], to=folder / "stamps-spoken")
    speech = next(network for network in encoders.resolve("offline") if "audio" in network.modalities)
    vectors = Collection.open(folder / "stamps-spoken").vectors(speech.fingerprint)
    return dict(zip(vectors.items, vectors.vectors, strict=True))


def pictures(data: Pairs) -> Pairs:
    """Without letters, digits and other symbols."""
    return take(data, data.categories != "symbols")


def classes(data: Pairs) -> Pairs:
    """Without symbols, and only classes of at least ten."""
    sizes = Counter(data.categories.tolist())
    return take(data, np.array([name != "symbols" and sizes[name] >= SMALLEST_CLASS for name in data.categories]))


def take(data: Pairs, rows: np.ndarray) -> Pairs:
    return Pairs(*(getattr(data, field.name)[rows] for field in fields(data)))


def offline_space() -> Space:
    return start_space(encoders.resolve("offline"))


def modality_arrays(data: Pairs, space: Space) -> ModalityArrays:
    """As `chiasm fit` hands them to the recogniser."""
    own = slice(*shared_block(space))
    shared = {"image": space.start("image", data.image)[:, own], "text": space.start("text", data.text)[:, own]}
    return ModalityArrays({"image": data.image}, shared=shared)


def embedded_names(data: Pairs, space: Space) -> dict[str, Float[np.ndarray, " dim"]]:
    labels = sorted(set(data.categories.tolist()))
    return class_names(labels, space, encoders.resolve("offline"), modality_arrays(data, space))
