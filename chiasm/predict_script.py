"""Recognise files, or search a collection, with one file that `chiasm export` wrote.

    python predict.py cats.chiasm photo.jpg caption.txt folder
    python predict.py photos.chiasm --search "a red boat"

It needs numpy, onnxruntime, Pillow and tokenizers. Files of one folder with one name (bird.jpg, bird.txt) are one item;
.txt and .md are texts, the others pictures. `chiasm predict` runs this module, never the copy in a stranger's file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tokenizers import Tokenizer

FORMAT, VERSION = "chiasm-bundle", 1
SIDE, MAX_TOKENS = 224, 256  # of a picture, and of a text; with more all-MiniLM-L6-v2 was not trained
MOST_BYTES, MOST_RATIO = 4 << 30, 200  # that it may unpack to: all, and each part to its size in the file
Item = Mapping[Any, Sequence["str | Path"]]  # files by modality; a str among texts is the text itself
About = Mapping[str, Any]  # a part of about.json
Problems = list[tuple[int, str, str]]  # item, file and reason


class BundleError(Exception):
    """The file is no bundle, is damaged, or was not made for what was asked."""


class Bundle:
    """A file that `chiasm export` wrote. Nothing is unpacked to the disk, and no code in it is run."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.run = Path(path), cache(self._session)
        with self._reading("about.json"):
            self.about: dict[str, Any] = json.loads(self.read("about.json"))
            self.modalities: dict[str, dict[str, Any]] = dict(self.about["modalities"])
            if (self.about["format"], self.about["version"]) != (FORMAT, VERSION):
                raise BundleError(f"{path} is no {FORMAT} of version {VERSION}: export it again")

    @contextmanager
    def _reading(self, part: str) -> Iterator[None]:
        """Make an error of ours of whatever a damaged part leads to: the libraries that read it may raise anything."""
        try:
            yield
        except BundleError:
            raise
        except Exception as error:
            raise BundleError(f"{self.path} is damaged or no bundle of chiasm: {part}: {str(error)[:300]}") from error

    def read(self, name: str) -> bytes:
        """Return a part of the file, after a look at all that it claims to hold."""
        with self._reading(name), zipfile.ZipFile(self.path) as archive:
            parts = archive.infolist()
            for part in parts:
                steps = re.split(r"[/\\:]", part.filename)
                outside = "" in steps or ".." in steps or stat.S_ISLNK(part.external_attr >> 16)
                if outside or part.file_size > MOST_RATIO * part.compress_size + 4096:
                    raise ValueError(f"{part.filename!r} leads out of it, or unpacks to too much")
            if sum(part.file_size for part in parts) > MOST_BYTES or len({*archive.namelist()}) < len(parts):
                raise ValueError("it holds too much, or a name twice")
            return archive.read(name)

    def _session(self, name: str) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
        """Return a function that runs one of the networks."""
        from onnxruntime import InferenceSession, SessionOptions

        content, options = self.read(name), SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        with self._reading(name):
            if b"location" in content:  # the key by which a tensor is in a file of its own, which would be read
                raise ValueError("it refers to another file")
            session = InferenceSession(content, options, providers=["CPUExecutionProvider"])

        def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            with self._reading(name):
                values = session.run(None, {one.name: feeds[one.name] for one in session.get_inputs()})
            return {one.name: value for one, value in zip(session.get_outputs(), values, strict=True)}

        return run

    def embed(self, items: Sequence[Item]) -> tuple[dict[str, dict[int, Any]], Problems]:
        """Return vectors by modality and item, the mean of its files, and what cannot be used."""
        vectors: dict[str, dict[int, Any]] = {name: {} for name in self.modalities}
        files = [(row, name, source) for row, item in enumerate(items) for name in item for source in item[name]]
        takes = f"{self.path.name} takes {' and '.join(vectors)}, not "
        problems = [(row, str(source), takes + name) for row, name, source in files if name not in vectors]
        for modality in self.modalities:
            prepare: Any = read_text if modality == "text" else lambda source: fit(read_picture(source))
            owners, media = [], []
            for row, source in ((row, source) for row, name, source in files if name == modality):
                try:
                    media.append(prepare(source))
                    owners.append(row)
                except Exception as error:  # noqa: BLE001  # whatever a library makes of a bad file
                    problems.append((row, str(source), str(error) or type(error).__name__))
            pairs = [{"pixels": np.stack(media[at : at + 2])} for at in range(0, len(media), 2) if modality != "text"]
            rows = self._run_all("encode/image.onnx", pairs) if pairs else self._texts(media) if media else np.empty(0)
            for row in {*owners}:
                vectors[modality][row] = rows[np.array(owners) == row].mean(axis=0, dtype=np.float32)
        return vectors, problems

    def _run_all(self, name: str, batches: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        """Return the rows of small batches, which run side by side, one a core."""
        run = self.run(name)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.concatenate([*pool.map(lambda batch: next(iter(run(batch).values())), batches)])

    def _texts(self, texts: list[str]) -> np.ndarray:
        owners, ids = [], []
        for row, encoding in enumerate(self._tokenizer.encode_batch_fast(texts)):
            first, *inner, last = encoding.ids
            for part in np.array_split(inner, -(-len(inner) // (MAX_TOKENS - 2)) or 1):  # of a long text, windows
                owners.append(row)
                ids.append([first, *map(int, part), last])
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))  # like lengths together, so little is padding
        batches = []
        for group in (order[at : at + 8] for at in range(0, len(order), 8)):
            tokens = np.zeros((2, len(group), len(ids[group[-1]])), np.int64)
            for place, row in enumerate(group):
                tokens[:, place, : len(ids[row])] = ids[row], [1] * len(ids[row])
            batches.append({"input_ids": tokens[0], "attention_mask": tokens[1]})
        rows = self._run_all("encode/text.onnx", batches)
        vectors = np.zeros((len(texts), rows.shape[1]), np.float32)
        np.add.at(vectors, [owners[row] for row in order], rows * [[len(ids[row])] for row in order])
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    @cached_property
    def _tokenizer(self) -> Any:
        with self._reading("tokenizer.json"):
            return Tokenizer.from_str(self.read("tokenizer.json").decode())

    def recognise(self, items: Sequence[Item], level: float, rate: float) -> tuple[list[dict[str, Any]], Problems]:
        """Return modalities and answers of each item; `level`: of sets, `rate`: of known items that are called unknown."""
        if "columns" not in self.about or not (0 < level < 1 and 0 < rate < 1):
            raise BundleError(f"{self.path} is of a collection, to be searched; or a rate is not within 0 and 1")
        with self._reading("about.json"):
            vectors, problems = self.embed(items)
            sets = [tuple(name for name in vectors if row in vectors[name]) for row in range(len(items))]
            answers: list[dict[str, Any]] = [{"modalities": own, "columns": {}} for own in sets]
            for own in {*sets} - {()}:
                rows = [row for row, other in enumerate(sets) if other == own]
                feeds = {name: np.stack([vectors[name][row] for row in rows]) for name in own}
                for name in own:
                    feeds |= self.run(f"place/{name}.onnx")(feeds) if self.modalities[name]["placed"] else {}
                outputs = self.run(f"answer/{'+'.join(own)}.onnx")(feeds)
                for number, column in enumerate(self.about["columns"]):
                    limits = column["limits"].get("+".join(own))  # none: it goes by nothing that they have
                    for at, row in enumerate(rows if limits else ()):
                        said = outputs[f"values.{number}"][at].tolist(), float(outputs[f"strange.{number}"][at])
                        answers[row]["columns"][column["name"]] = answer_of(column, *said, limits, level, rate)
        return answers, problems

    def search(self, modality: str, query: str | Path, k: int = 10) -> list[dict[str, Any]]:
        """Return the items of the collection that are nearest to a text or a picture, by the cosine of their vectors."""
        if "rows" not in self.about or modality not in self.modalities:
            raise BundleError(f"{self.path} is not to be searched with {modality}: it is of a model, or takes none")
        best: dict[str, dict[str, Any]] = {}
        with self._reading("vectors"):
            vectors, problems = self.embed([{modality: [query]}])
            if problems:
                raise BundleError(f"{query}: {problems[0][2]}")
            wanted = self.run(f"place/{modality}.onnx")({modality: vectors[modality][0][None]})[f"{modality}_placed"][0]
            scales = np.frombuffer(self.read("vectors.scales"), "<f4")
            values = np.frombuffer(self.read("vectors.int8"), np.int8).reshape(len(scales), len(wanted))
            blocks = np.array_split(values, len(values) // 4096 + 1)
            scores = np.concatenate([block.astype(np.float32) @ wanted for block in blocks]) * scales
            for row in np.argsort(-scores, kind="stable"):
                if len(best) >= k or scores[row] <= 0:
                    break
                entry = self.about["rows"][row]
                best.setdefault(entry["id"], {**entry, "score": float(scores[row])})  # of an item, its nearest file
        return [*best.values()]


def answer_of(column: About, values: list[float], strange: float, limits: About, level: float, rate: float) -> About:
    """Return what an item is in one column, by what the network says of it and said of held-out items."""
    most = max((quantile(scores, level) for scores in limits["scores"]), default=math.inf)
    if column["kind"] == "number":
        low, high = (values[0] - most, values[0] + most) if math.isfinite(most) else (None, None)
        return {"value": values[0], "low": low, "high": high}
    chances = dict(zip(column["names"], values, strict=True))
    if column["kind"] == "labels":
        least = dict(zip(column["names"], limits["thresholds"], strict=True))
        has = [name for name, chance in chances.items() if chance > least[name]]
        return {"value": "; ".join(has), "probabilities": chances}
    best = max(chances, key=lambda name: chances[name])
    inside = tuple(name for name, chance in chances.items() if 1 - chance <= most or name == best)
    unknown = any(strange > quantile(scores, 1 - rate) for scores in limits["alarm"])
    return {"value": best, "probabilities": chances, "set": inside, "unknown": unknown}


def quantile(scores: About, level: float) -> float:
    """Return the score of held-out items that a share of new ones stays below, by the conformal rank."""
    kept, count = scores["kept"], scores["count"]
    rank = math.ceil(round((count + 1) * level, 9))
    return math.inf if rank > count else float(kept[(rank - 1) * len(kept) // count])


def read_picture(path: str | Path) -> Image.Image:
    """Return a picture upright, in RGB on white, at a whole fraction of its size, not below what is needed."""
    with Image.open(path) as picture:
        picture.draft("RGB", (SIDE, SIDE))
        picture.load()
        turned = ImageOps.exif_transpose(picture)
    if turned.mode.startswith("I"):  # 16 bits
        turned = Image.fromarray(((np.asarray(turned).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    if turned.has_transparency_data:
        clear = turned.convert("RGBA")
        turned = Image.new("RGB", clear.size, "white")
        turned.paste(clear, mask=clear)
    return turned.convert("RGB").reduce(max(1, min(turned.size) // SIDE))


def fit(picture: Image.Image, side: int = SIDE) -> np.ndarray:
    """Return the whole picture scaled into a square; what it leaves free gets the colour of the picture's border."""
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    # A gap of 3 lets Pillow shrink large pictures by a whole factor first: several times faster, the same to the eye.
    scaled = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0), dtype=np.uint8)
    border = np.concatenate([scaled[0], scaled[-1], scaled[:, 0], scaled[:, -1]])
    square = np.full((side, side, 3), np.median(border, axis=0), np.uint8)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    square[top : top + size[1], left : left + size[0]] = scaled
    return square


def read_text(source: str | Path) -> str:
    """Return a text itself, or what is in its file, in UTF-8 or in UTF-16 with a mark."""
    data = source.encode() if isinstance(source, str) else source.read_bytes()
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    if not text.strip():
        raise BundleError("it holds no words")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def items_of(paths: Sequence[Path]) -> dict[str, dict[str, list[str | Path]]]:
    """Return items by name, each its files by modality; folders are looked through."""
    items: dict[str, dict[str, list[str | Path]]] = {}
    for file in (file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])):
        modality = "text" if file.suffix.lower() in (".txt", ".md") else "image"
        if file.is_file() or (file in paths and not file.is_dir()):  # a pipe in a folder would be waited for
            items.setdefault(str(file.with_suffix("")), {}).setdefault(modality, []).append(file)
    return items


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: a line of JSON an item or a hit; return 1 where there is none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("files", type=Path, nargs="*", help="files and folders to recognise")
    parser.add_argument("--text", action="append", default=[], metavar="WORDS", help="a text to recognise")
    parser.add_argument("--level", type=float, default=0.9, help="how often a set is to hold the true class (0.9)")
    parser.add_argument("--false-alarm-rate", type=float, default=0.05, help="known items called unknown (0.05)")
    parser.add_argument("--search", metavar="WORDS", help="search the collection with words")
    parser.add_argument("--like", type=Path, metavar="PICTURE", help="search the collection with a picture")
    parser.add_argument("-k", type=int, default=10, help="how many items a search returns (10)")
    parser.add_argument("--thumbnails", type=Path, metavar="FOLDER", help="write those of what a search returns there")
    asked = parser.parse_args(arguments)
    if sum(map(bool, (asked.files or asked.text, asked.search, asked.like))) != 1:
        parser.error("name files to recognise, or search with --search WORDS, or with --like PICTURE")
    try:
        bundle, used = Bundle(asked.bundle), 0
        if asked.search or asked.like:
            hits = bundle.search("text" if asked.search else "image", asked.search or asked.like, asked.k)
            for rank, hit in enumerate(hits, 1):
                if asked.thumbnails and "thumbnail" in hit:
                    asked.thumbnails.mkdir(parents=True, exist_ok=True)
                    content, hit["thumbnail"] = bundle.read(hit["thumbnail"]), str(asked.thumbnails / f"{rank}.jpg")
                    Path(hit["thumbnail"]).write_bytes(content)
                sys.stdout.write(json.dumps(hit, ensure_ascii=False) + "\n")
            return 0 if hits else 1
        items = [*items_of(asked.files).items(), *((words, {"text": [words]}) for words in asked.text)]
        for part in (items[at : at + 64] for at in range(0, len(items), 64)):
            answers, problems = bundle.recognise([item for _, item in part], asked.level, asked.false_alarm_rate)
            sys.stderr.writelines(f"{file}: {reason}\n" for _, file, reason in problems)
            for (name, _), answer in zip(part, answers, strict=True):
                used += bool(answer["columns"])
                sys.stdout.write(json.dumps({"item": name, **answer}, ensure_ascii=not name.isprintable()) + "\n")
        return 0 if used else 1
    except (BundleError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    sys.exit(main())
