"""A gallery on disk that is searched while it changes: rows are added and deleted, and at times it is built anew.

The rows lie in segments. What is added makes a segment that is searched exactly; `build` joins all segments into one
and, above a size, divides it into lists (`retrieval.approximate`). A search goes through all segments, so a row is found
at once. Nothing that is written is changed: a segment is a folder of arrays that is renamed to its place when it is
whole, and `index.json`, which names the segments, is replaced at once. A run that is killed leaves the index as it was
saved last.

What is left to others: where vectors come from and what rows mean (`chiasm.verbs`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
from filelock import FileLock
from jaxtyping import Bool, Float, Int, UInt8

from chiasm.errors import CollectionError
from chiasm.retrieval.approximate import RECALL, Lists, PartitionedIndex, divide
from chiasm.retrieval.index import NOTHING, Candidates, ExactIndex, Ranking, best, check, ranked

FORMAT = "chiasm-index"
FORMAT_VERSION = 1

# Exact search of one query reads about 8 GB/s: 15 ms for 2^27 bytes, which is 87,000 rows of 384 dimensions. Below,
# lists save little; above, they answer in one.
APPROXIMATE_BYTES = 2**27
CHANGED = 0.1  # of a divided segment's rows, as many that were added or deleted since make a new build due
SEGMENTS = 32  # more make a new build due: each costs open files and some calls
SMALL = 4096  # rows; smaller segments grow with what is added
BLOCK = 2**22  # numbers copied at a time, 16 MB
ABANDONED = 86_400.0  # seconds after which a folder that no index names was left by a killed run

DType: TypeAlias = Literal["float32", "float16"]


class _Names:
    """Strings in two arrays, so that a million of them are opened without being read."""

    def __init__(self, text: UInt8[np.ndarray, " bytes"], ends: Int[np.ndarray, " names"]) -> None:
        self.text = text
        self.ends = ends

    @classmethod
    def of(cls, names: Sequence[str]) -> _Names:
        parts = [name.encode("utf-8", "surrogatepass") for name in names]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, place: int) -> str:
        start = int(self.ends[place - 1]) if place else 0
        return self.text[start : int(self.ends[place])].tobytes().decode("utf-8", "surrogatepass")

    @cached_property
    def hashes(self) -> Int[np.ndarray, " names"]:
        """64 bits a name. Two of a million names share theirs with a probability of 3e-8."""
        return np.array([_hash(self[place]) for place in range(len(self))], dtype=np.int64)


def _hash(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _hashes(names: Collection[str]) -> Int[np.ndarray, " names"]:
    return np.array([_hash(name) for name in names], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Segment:
    """Rows with their vectors, never changed; which of them are deleted is said anew in a copy."""

    vectors: Float[np.ndarray, "rows dim"]
    rows: Int[np.ndarray, " rows"]  # numbers in the index
    ids: _Names
    owners: _Names
    id_keys: Int[np.ndarray, " rows"]
    owner_keys: Int[np.ndarray, " rows"]
    lists: Lists | None = None
    name: str | None = None  # of its folder, once it is written
    dead: Bool[np.ndarray, " rows"] | None = None  # deleted since

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def gone(self) -> int:
        return 0 if self.dead is None else int(self.dead.sum())

    @cached_property
    def index(self) -> ExactIndex | PartitionedIndex:
        if self.lists is None:
            return ExactIndex(self.vectors, self.owner_keys, rows=self.rows)
        return PartitionedIndex(self.vectors, self.lists, self.owner_keys, rows=self.rows)

    @cached_property
    def exact(self) -> ExactIndex:
        return ExactIndex(self.vectors, self.owner_keys, rows=self.rows)

    @cached_property
    def sorted(self) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
        """Places by row number, and the numbers in that order."""
        order = np.argsort(self.rows, kind="stable")
        return order, self.rows[order]

    def places(self, rows: Int[np.ndarray, " some"]) -> Int[np.ndarray, " some"]:
        """Where row numbers are, -1 for those of other segments."""
        order, numbers = self.sorted
        at = np.minimum(np.searchsorted(numbers, rows), len(numbers) - 1)
        return np.where(numbers[at] == rows, order[at], -1)

    def named(
        self, names: _Names, keys: Int[np.ndarray, " rows"], wanted: Collection[str], hashes: Int[np.ndarray, " names"]
    ) -> Bool[np.ndarray, " rows"]:
        """The rows, not deleted, whose name is wanted; names are compared where their hashes agree."""
        found = np.isin(keys, hashes)
        if self.dead is not None:
            found &= ~self.dead
        for place in np.flatnonzero(found).tolist():
            found[place] = names[place] in wanted
        return found

    def without(self, deleted: Bool[np.ndarray, " rows"]) -> _Segment:
        return replace(self, dead=deleted if self.dead is None else self.dead | deleted)


class Index:
    """A gallery of unit vectors in a folder. `Index(folder, ...)` starts an empty one, `Index.load` opens a saved one.

    Several threads may search, add and delete at once; a search sees the rows of the moment at which it began. Several
    processes may read one folder; of two that save, the second is refused.

    A row has a number, given when it is added and never used again, an id, and an owner (an item with several files):
    of one owner only the best row is a hit.

    Args:
        folder: where it is kept. Nothing is written before `save` or `build`.
        space: digest of the space that the vectors are in; an index of another one is refused by `load`.
        dim: numbers a vector.
        dtype: as what vectors are kept. float16 halves the file and the memory that it takes to search it; an exact
            search is then up to twice as slow, and scores are off by up to 1e-4.
    """

    def __init__(self, folder: Path, *, space: str, dim: int, dtype: DType = "float32") -> None:
        self.folder = folder
        self.space = space
        self.dim = dim
        self.dtype: DType = dtype
        self.size = 0  # rows ever added: numbers are below it
        self._segments: tuple[_Segment, ...] = ()
        self._generation = 0
        self._sealed = 0  # rows of lower numbers are being built and stay in their segments
        self._lock = threading.RLock()
        self._building: Future[None] | None = None

    def __len__(self) -> int:
        return sum(len(segment) - segment.gone for segment in self._segments)

    # ------------------------------------------------------------------------------------------------ change

    def add(
        self, ids: Sequence[str], vectors: Float[np.ndarray, "rows dim"], *, owners: Sequence[str] | None = None
    ) -> None:
        """Add rows; they can be found at once, and are kept by the next `save`. An id that is there is replaced.

        Args:
            ids: a name a row.
            vectors: unit length. Large arrays may be kept without a copy: do not write into them afterwards.
            owners: what the rows belong to. Default: every row by itself.

        Raises:
            ValueError: not one id and owner a row, an id twice, an empty name, vectors of another
                width, or not finite.
        """
        if len(ids) != len(vectors) or (owners is not None and len(owners) != len(vectors)):
            raise ValueError(
                f"{len(vectors)} vectors need as many ids and owners; got {len(ids)}"
                + ("" if owners is None else f" and {len(owners)}")
            )
        if vectors.shape[1] != self.dim:
            raise ValueError(f"the index holds vectors of {self.dim} dimensions; got {vectors.shape[1]}")
        if len(set(ids)) != len(ids):
            raise ValueError("an id is given twice; ids name one row each")
        if "" in ids or (owners is not None and "" in owners):
            raise ValueError("an id or an owner is empty; give each row a name")
        if not len(ids):
            return
        kept = np.ascontiguousarray(vectors, dtype=self.dtype)
        if not np.isfinite(kept.sum(axis=1, dtype=np.float32)).all():
            raise ValueError("vectors have numbers that are not finite; give unit vectors")
        names = _Names.of(ids)
        belongs = names if owners is None else _Names.of(owners)
        with self._lock:
            self._drop(ids, names.hashes, of="ids")
            rows = np.arange(self.size, self.size + len(ids))
            self.size += len(ids)
            new = _Segment(kept, rows, names, belongs, names.hashes, belongs.hashes)
            last = self._segments[-1] if self._segments else None
            if (
                last is not None
                and last.lists is None
                and len(last) + len(new) <= SMALL
                and int(last.rows.min()) >= self._sealed
            ):
                self._segments = (*self._segments[:-1], _joined([last, new]))
            else:
                self._segments = (*self._segments, new)

    def delete(self, owners: Collection[str]) -> int:
        """Delete all rows of some owners. Gives how many rows there were."""
        return self._drop(owners, _hashes(owners), of="owners")

    def delete_rows(self, ids: Collection[str]) -> int:
        """Delete rows by their ids; other rows of their owners stay. Gives how many there were."""
        return self._drop(ids, _hashes(ids), of="ids")

    def _drop(self, names: Collection[str], hashes: Int[np.ndarray, " names"], *, of: Literal["ids", "owners"]) -> int:
        wanted = frozenset(names)
        count = 0
        with self._lock:
            changed = []
            for segment in self._segments:
                keys = segment.id_keys if of == "ids" else segment.owner_keys
                found = segment.named(getattr(segment, of), keys, wanted, hashes)
                here = int(found.sum())
                changed.append(segment.without(found) if here else segment)
                count += here
            self._segments = tuple(changed)
        return count

    # ------------------------------------------------------------------------------------------------ ask

    def search(
        self,
        queries: Float[np.ndarray, "queries dim"],
        *,
        k: int,
        among: Bool[np.ndarray, " mask"] | Collection[str] | None = None,
        exact: bool = False,
    ) -> Ranking:
        """The k best owners of each query. A filter never gives fewer hits than there are.

        Args:
            queries: unit vectors.
            k: hits a query, at least 1.
            among: what may be found, by row number (`rows` gives them; rows added after the mask was made are not
                in it), or the owners that may be found. Default: all.
            exact: compare with every row, also where there are lists.

        Raises:
            ValueError: k below 1, queries of another width, or a mask longer than `size`.
        """
        check(queries, k, None, rows=0, dim=self.dim)
        segments = self._segments
        if isinstance(among, np.ndarray) and len(among) > self.size:
            raise ValueError(f"the mask has {len(among)} rows and the index {self.size}")
        mask = among if isinstance(among, np.ndarray) else None
        allowed = None if among is None or mask is not None else _hashes(among)
        parts: list[Candidates] = [NOTHING]
        for segment in segments:
            found = None if segment.dead is None else ~segment.dead
            right = None
            if mask is not None:
                inside = segment.rows < len(mask)
                right = mask[segment.rows] if inside.all() else inside & mask[np.where(inside, segment.rows, 0)]
            elif allowed is not None:
                right = np.isin(segment.owner_keys, allowed)
            if right is not None:
                found = right if found is None else found & right
            parts.append((segment.exact if exact else segment.index).candidates(queries, k=k, among=found))
        return ranked(best(parts, k=k), queries=len(queries), k=k)

    def rows(self, ids: Sequence[str]) -> Int[np.ndarray, " ids"]:
        """Numbers of rows by their ids, -1 for ids that are not there."""
        hashes = _hashes(ids)
        places = {name: place for place, name in enumerate(ids)}
        result = np.full(len(ids), -1, np.int64)
        for segment in self._segments:
            for found in np.flatnonzero(segment.named(segment.ids, segment.id_keys, places.keys(), hashes)).tolist():
                result[places[segment.ids[found]]] = segment.rows[found]
        return result

    def ids(self) -> list[str]:
        """Ids of all rows, in order of their numbers."""
        source = _Rows(self._segments)
        return source.all("ids", np.argsort(source.gather("rows", np.arange(len(source))))) if len(source) else []

    def ids_of(self, rows: Int[np.ndarray, " rows"]) -> list[str | None]:
        """Ids by row numbers, e.g. of a `Ranking`; None for -1 and for rows that a build has taken out since."""
        return self._named("ids", rows)

    def owners_of(self, rows: Int[np.ndarray, " rows"]) -> list[str | None]:
        """Owners by row numbers, as `ids_of`."""
        return self._named("owners", rows)

    def _named(self, of: Literal["ids", "owners"], rows: Int[np.ndarray, " rows"]) -> list[str | None]:
        result: list[str | None] = [None] * len(rows)
        for segment in self._segments:
            for number, place in enumerate(segment.places(rows).tolist()):
                if place >= 0:
                    result[number] = getattr(segment, of)[place]
        return result

    @property
    def divided(self) -> Lists | None:
        """The lists of the divided segment, if there is one: how many are read, and the recall measured with them."""
        return next((segment.lists for segment in self._segments if segment.lists is not None), None)

    # ------------------------------------------------------------------------------------------------ build

    def due(self) -> bool:
        """Whether `build` would make searching faster by a measure: see the constants of this module."""
        segments = self._segments
        loose = sum(len(segment) - segment.gone for segment in segments if segment.lists is None)
        if loose * self.dim * 4 > APPROXIMATE_BYTES or len(segments) > SEGMENTS:
            return True
        changed = loose + sum(segment.gone for segment in segments)
        settled = sum(len(segment) for segment in segments if segment.lists is not None)
        if settled:
            return changed > CHANGED * settled
        return sum(segment.gone for segment in segments) > max(SMALL, loose)

    def build(
        self,
        *,
        divided: bool | None = None,
        queries: Float[np.ndarray, "queries dim"] | None = None,
        recall: float = RECALL,
        seed: int = 0,
    ) -> None:
        """Join all rows into one segment, without those that are deleted, and save. Searches go on meanwhile.

        Where a build runs already, it is waited for.

        Args:
            divided: whether it is divided into lists. Default: if it is larger than `APPROXIMATE_BYTES`.
            queries: vectors like those that will be asked, see `approximate.divide`.
            recall: see `approximate.divide`.
            seed: of what is sampled.

        Raises:
            CollectionError: the folder cannot be written, or was changed by another process; the index stays as it is.
        """
        future, mine = self._claim()
        if mine:
            self._run(future, {"divided": divided, "queries": queries, "recall": recall, "seed": seed})
        future.result()

    def build_in_background(
        self,
        *,
        divided: bool | None = None,
        queries: Float[np.ndarray, "queries dim"] | None = None,
        recall: float = RECALL,
        seed: int = 0,
    ) -> Future[None]:
        """`build` in a thread, whose errors are those of the future's `result`. Of a build that runs, its future."""
        future, mine = self._claim()
        if mine:
            options = {"divided": divided, "queries": queries, "recall": recall, "seed": seed}
            threading.Thread(target=self._run, args=(future, options), name="chiasm-index", daemon=True).start()
        return future

    def _claim(self) -> tuple[Future[None], bool]:
        """The future of the build that runs, or a new one that is the caller's to fulfil."""
        with self._lock:
            mine = self._building is None or self._building.done()
            if self._building is None or mine:
                self._building = Future()
            return self._building, mine

    def _run(self, future: Future[None], options: Mapping[str, Any]) -> None:
        try:
            self._build(**options)
        except BaseException as error:  # noqa: BLE001  # it is raised where the future is asked
            future.set_exception(error)
        else:
            future.set_result(None)

    def _build(
        self,
        *,
        divided: bool | None,
        queries: Float[np.ndarray, "queries dim"] | None,
        recall: float,
        seed: int,
    ) -> None:
        with self._lock:
            self._sealed = until = self.size
            segments = self._segments
        source = _Rows(segments)
        if divided is None:
            divided = len(source) * self.dim * 4 > APPROXIMATE_BYTES
        built: tuple[_Segment, ...] = ()
        if len(source):
            lists, order = None, np.arange(len(source))
            if divided:
                lists, order = divide(source.take, len(source), queries=queries, recall=recall, seed=seed)
            with self._writing():
                name = self._write(source, order, lists)
            built = (self._read(name, len(source), lists),)
        with self._lock:
            later = [segment for segment in self._segments if int(segment.rows.min()) >= until]
            dead = [s.rows[s.dead] for s in self._segments if s.dead is not None and int(s.rows.min()) < until]
            if built and dead:
                gone = np.isin(built[0].rows, np.concatenate(dead))
                built = (built[0].without(gone),) if gone.any() else built
            before = self._segments
            self._segments = (*built, *later)
            try:
                self.save()
            except CollectionError:
                self._segments = before
                raise

    # ------------------------------------------------------------------------------------------------ keep

    def save(self) -> None:
        """Write what was added and deleted. After a crash the folder holds the index before or after, whole.

        Raises:
            CollectionError: the folder cannot be written, or was changed by another process since this index was
                loaded or saved.
        """
        with self._lock, self._writing(), FileLock(self.folder / ".lock"):
            there = _header(self.folder) if (self.folder / "index.json").exists() else {"generation": 0, "segments": []}
            if there["generation"] != self._generation:
                raise CollectionError(
                    f"the index {self.folder} was changed by another process. Load it again, and repeat the change"
                )
            segments, entries = [], []
            for segment in self._segments:
                if segment.gone == len(segment):
                    continue
                kept = segment
                if segment.name is None:
                    own = _Rows((replace(segment, dead=None),))
                    name = self._write(own, np.arange(len(segment)), None)
                    kept = replace(self._read(name, len(segment), None), dead=segment.dead)
                segments.append(kept)
                entries.append(self._entry(kept))
            body = {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "space": self.space,
                "dim": self.dim,
                "metric": "cosine",
                "dtype": self.dtype,
                "size": self.size,
                "count": sum(len(segment) - segment.gone for segment in segments),
                "generation": self._generation + 1,
                "segments": entries,
            }
            _replace_text(self.folder / "index.json", json.dumps({**body, "digest": _digest(body)}, indent=2) + "\n")
            self._generation += 1
            self._segments = tuple(segments)
            self._sweep(before=_named_by(there), now=_named_by(body))

    def _entry(self, segment: _Segment) -> dict[str, Any]:
        deleted = None
        if segment.dead is not None and segment.gone:
            deleted = f"deleted-{uuid.uuid4().hex}.npy"
            with (self.folder / deleted).open("wb") as file:
                np.save(file, np.flatnonzero(segment.dead))
                _to_disk(file)
        lists = segment.lists
        return {
            "name": segment.name,
            "rows": len(segment),
            "deleted": deleted,
            "lists": None if lists is None else {"probes": lists.probes, "recall": lists.recall},
        }

    def _write(self, source: _Rows, order: Int[np.ndarray, " rows"], lists: Lists | None) -> str:
        """Write a segment under a passing name and rename it. Gives its name."""
        name = f"segment-{uuid.uuid4().hex}"
        passing = self.folder / f".{name}"
        passing.mkdir(parents=True)
        ids, owners = _Names.of(source.all("ids", order)), _Names.of(source.all("owners", order))
        arrays = {
            "rows": source.gather("rows", order),
            "ids": ids.text,
            "id_ends": ids.ends,
            "id_keys": source.gather("id_keys", order),
            "owners": owners.text,
            "owner_ends": owners.ends,
            "owner_keys": source.gather("owner_keys", order),
        }
        if lists is not None:
            arrays |= {"centres": lists.centres, "starts": lists.starts}
        for key, array in arrays.items():
            with (passing / f"{key}.npy").open("wb") as file:
                np.save(file, array)
                _to_disk(file)
        with (passing / "vectors.npy").open("wb") as file:
            kind = np.dtype(self.dtype)
            np.lib.format.write_array_header_2_0(
                file,
                {
                    "descr": np.lib.format.dtype_to_descr(kind),
                    "fortran_order": False,
                    "shape": (len(order), self.dim),
                },
            )
            step = max(1, BLOCK // self.dim)
            for start in range(0, len(order), step):
                file.write(source.gather("vectors", order[start : start + step]).astype(kind, copy=False).tobytes())
            _to_disk(file)
        passing.rename(self.folder / name)
        return name

    def _read(self, name: str, count: int, lists: Lists | Mapping[str, Any] | None) -> _Segment:
        folder = self.folder / Path(name).name

        def array(key: str) -> np.ndarray:
            found: np.ndarray = np.load(folder / f"{key}.npy", mmap_mode="r", allow_pickle=False)
            return found.view(np.ndarray)

        vectors, rows, id_keys, owner_keys = (array(key) for key in ("vectors", "rows", "id_keys", "owner_keys"))
        ids, owners = (_Names(array(f"{kind}s"), array(f"{kind}_ends")) for kind in ("id", "owner"))
        if vectors.shape != (count, self.dim) or vectors.dtype != self.dtype:
            raise ValueError(
                f"{name} has {vectors.dtype} {vectors.shape} where {self.dtype} {(count, self.dim)} is said"
            )
        if {len(part) for part in (rows, id_keys, owner_keys, ids, owners)} != {count}:
            raise ValueError(f"{name} has not {count} rows everywhere")
        if isinstance(lists, Mapping):
            lists = Lists(np.array(array("centres")), np.array(array("starts")), lists["probes"], lists["recall"])
        segment = _Segment(vectors, rows, ids, owners, id_keys, owner_keys, lists, name)
        _ = segment.index  # the parts fit each other
        return segment

    @classmethod
    def load(cls, folder: Path, *, space: str, dim: int) -> Index:
        """Open a saved index. Its arrays are mapped, not read.

        Raises:
            CollectionError: there is none, it is damaged, of another format version, space or width.
        """
        for attempt in range(5):
            header = _header(folder)
            try:
                return cls._loaded(folder, header, space=space, dim=dim)
            except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
                # Another process may have saved, and swept away what this header names, between the two reads.
                if _header(folder) == header or attempt == 4:
                    raise _damaged(folder, error) from error
        raise AssertionError("the last attempt returns or raises")

    @classmethod
    def _loaded(cls, folder: Path, header: Mapping[str, Any], *, space: str, dim: int) -> Index:
        if (header["space"], header["dim"]) != (space, dim):
            raise CollectionError(
                f"the index {folder} holds vectors of the space {header['space']} ({header['dim']} dimensions); asked is "
                f"{space} ({dim}). Vectors of different encoders are never mixed: use another folder, or delete this one"
            )
        index = cls(folder, space=space, dim=dim, dtype=header["dtype"])
        index.size, index._generation = header["size"], header["generation"]
        segments = []
        for entry in header["segments"]:
            segment = index._read(entry["name"], entry["rows"], entry["lists"])
            if int(segment.rows.min()) < 0 or int(segment.rows.max()) >= index.size:
                raise ValueError(f"{entry['name']} has rows that are not in 0 to {index.size}")
            if entry["deleted"] is not None:
                dead = np.zeros(len(segment), bool)
                dead[np.load(folder / Path(entry["deleted"]).name, allow_pickle=False)] = True
                segment = segment.without(dead)
            segments.append(segment)
        index._segments = tuple(segments)
        return index

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what a full or read-only disk says into an error that teaches."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise CollectionError(
                f"the index {self.folder} cannot be written: {error.strerror or error}. It is as it was saved last: "
                "free space or fix the permissions, and try again"
            ) from error

    def _sweep(self, *, before: Collection[str], now: Collection[str]) -> None:
        """Remove what the last index named and this one does not, and what killed runs left, after a day."""
        for path in self.folder.iterdir():
            if path.name in now or not path.name.startswith(("segment-", ".segment-", "deleted-")):
                continue
            if path.name not in before and time.time() - path.stat().st_mtime < ABANDONED:
                continue  # another process may be writing it
            if path.is_dir():
                shutil.rmtree(path)  # readers that have it open keep what they have mapped
            else:
                path.unlink()


class _Rows:
    """The rows of some segments that are not deleted, one after the other."""

    def __init__(self, segments: Sequence[_Segment]) -> None:
        self.segments = segments
        self.places = [np.arange(len(s)) if s.dead is None else np.flatnonzero(~s.dead) for s in segments]
        self.starts = np.concatenate([[0], np.cumsum([len(places) for places in self.places], dtype=np.int64)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def take(self, at: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some dim"]:
        """Vectors, float32."""
        return self.gather("vectors", at).astype(np.float32, copy=False)

    def gather(self, of: str, at: Int[np.ndarray, " some"]) -> np.ndarray:
        """Numbers of the rows at some positions."""
        first = getattr(self.segments[0], of)
        result = np.empty((len(at), *first.shape[1:]), first.dtype)
        if len(self.segments) == 1:
            return np.asarray(getattr(self.segments[0], of)[self.places[0][at]])
        for number, (segment, places) in enumerate(zip(self.segments, self.places, strict=True)):
            here = (at >= self.starts[number]) & (at < self.starts[number + 1])
            result[here] = getattr(segment, of)[places[at[here] - self.starts[number]]]
        return result

    def all(self, of: Literal["ids", "owners"], at: Int[np.ndarray, " some"]) -> list[str]:
        """Names of the rows at some positions; every name is read for it."""
        every: list[str] = []
        for segment, places in zip(self.segments, self.places, strict=True):
            names: _Names = getattr(segment, of)
            every += [names[place] for place in places.tolist()]
        return [every[position] for position in at.tolist()]


def _joined(segments: Sequence[_Segment]) -> _Segment:
    """One segment in memory with the rows that are not deleted."""
    source = _Rows(segments)
    every = np.arange(len(source))
    return _Segment(
        source.gather("vectors", every),
        source.gather("rows", every),
        _Names.of(source.all("ids", every)),
        _Names.of(source.all("owners", every)),
        source.gather("id_keys", every),
        source.gather("owner_keys", every),
    )


# ------------------------------------------------------------------------------------------------------------- files


def _header(folder: Path) -> dict[str, Any]:
    """What `index.json` says, whole and of this format."""
    path = folder / "index.json"
    if not path.exists():
        raise CollectionError(f"{folder} holds no index. Make one with Index({str(folder)!r}, ...), and save it")
    try:
        header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        digest = header.pop("digest")
        version = (header["format"], header["format_version"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, error) from error
    if version != (FORMAT, FORMAT_VERSION):
        raise CollectionError(
            f"{folder} is {version[0]} version {version[1]}; this chiasm reads {FORMAT} version {FORMAT_VERSION}. {_AGAIN}"
        )
    if digest != _digest(header):
        raise _damaged(folder, ValueError("its digest does not fit what it says"))
    return header


_AGAIN = "Delete the folder: an index holds nothing that its vectors do not, and is built anew from them"


def _damaged(folder: Path, error: Exception) -> CollectionError:
    return CollectionError(f"the index {folder} is damaged ({type(error).__name__}: {error}). {_AGAIN}")


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).hexdigest()


def _named_by(header: Mapping[str, Any]) -> set[str]:
    return {str(entry[part]) for entry in header["segments"] for part in ("name", "deleted") if entry[part]}


def _replace_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    passing = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    with passing.open("w", encoding="utf-8") as file:
        file.write(text)
        _to_disk(file)
    passing.replace(path)


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
