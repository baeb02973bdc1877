"""One contract for every index: the nearest rows of a planted table, restated with NumPy, by themselves and with conditions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.store import index
from chiasm.store.index import ExactIndex, LanceIndex, VectorIndex, index_of, nearest
from chiasm.store.tables import matrix_of
from chiasm.vectors import unit_rows

ROWS, DIM = 3000, 16
COLUMNS = ["id", "price"]


def planted(seed: int = 0, rows: int = ROWS) -> pa.Table:
    """Vectors in clusters, with a price of 0 to 99 and a kind."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((30, DIM))
    vectors = unit_rows(centres[rng.integers(0, 30, rows)] + 0.5 * rng.standard_normal((rows, DIM))).astype(np.float32)
    return pa.table(
        {
            "id": [f"{seed}-{row}" for row in range(rows)],
            "price": rng.integers(0, 100, rows),
            "kind": np.array(["a", "b"])[rng.integers(0, 2, rows)],
            "west": vectors[:, 0] < 0,
            "_vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM),
        }
    )


def table(folder: Path, *, indexed: bool) -> lance.LanceDataset:
    """The planted rows in two fragments, with some of them deleted."""
    path = str(folder / "planted.lance")
    lance.write_dataset(planted(0), path)
    written = lance.write_dataset(planted(1, 500), path, mode="append")
    if indexed:
        written.create_index("_vector", "IVF_SQ", metric="cosine", num_partitions=20)
        written.create_scalar_index("price", "BTREE")
    written.delete("price = 7")
    return lance.dataset(path)


MAKERS: dict[str, Callable[[Path], VectorIndex]] = {
    "exact": lambda folder: ExactIndex(table(folder, indexed=False)),
    "lance": lambda folder: LanceIndex(table(folder, indexed=True)),
}


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VectorIndex]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


@pytest.fixture(params=MAKERS)
def one(request: pytest.FixtureRequest, indexes: dict[str, VectorIndex]) -> VectorIndex:
    return indexes[request.param]


ALL = pa.concat_tables([planted(0), planted(1, 500)])
KEPT = np.flatnonzero(ALL["price"].to_numpy() != 7)
VECTORS = matrix_of(ALL["_vector"])
QUERIES = unit_rows(np.random.default_rng(5).standard_normal((20, DIM)) + VECTORS[:20]).astype(np.float32)


def restated(query: np.ndarray, k: int, may: Any = None) -> tuple[list[str], np.ndarray]:
    """Ids and cosines of the nearest rows, by sorting all."""
    rows = KEPT if may is None else KEPT[np.asarray(may)[KEPT]]
    scores = VECTORS[rows] @ query
    order = np.argsort(-scores, kind="stable")[:k]
    return [ALL["id"][row].as_py() for row in rows[order].tolist()], scores[order]


PRICE, KIND = ALL["price"].to_numpy(), np.array(ALL["kind"].to_pylist())


@pytest.mark.parametrize("k", [1, 10, 200])
@pytest.mark.parametrize(
    ("where", "may"),
    [
        (None, None),
        ("price < 50", PRICE < 50),
        ("price = 17", PRICE == 17),
        ("price < 3 AND kind = 'a'", (PRICE < 3) & (KIND == "a")),
        ("price = 7", PRICE == 7),
        ("price > 1000", PRICE > 1000),
    ],
)
def test_the_nearest_rows_that_meet_a_condition(one: VectorIndex, where: str | None, may: Any, k: int) -> None:
    recalls = []
    for query in QUERIES:
        rows = one.search(query, k=k, columns=COLUMNS, where=where)
        ids, scores = restated(query, k, may)
        found = rows["id"].to_pylist()
        assert rows.schema.names == [*COLUMNS, "_score"]
        assert len(found) == len(set(found)) == len(ids), "never fewer than there are"
        cosines = rows["_score"].to_numpy()
        assert (np.diff(cosines) <= 1e-6).all(), "nearest first"
        recalls.append(len(set(found) & set(ids)) / len(ids) if ids else 1.0)
        if isinstance(one, ExactIndex):
            np.testing.assert_allclose(cosines, scores, atol=1e-5)
    assert np.mean(recalls) >= (1.0 if isinstance(one, ExactIndex) else 0.97)
    if where is not None:
        assert one.count(where) == int(np.asarray(may)[KEPT].sum())


@pytest.mark.parametrize(
    ("where", "may"), [("price < 80", PRICE < 80), ("price < 20", PRICE < 20), ("west", VECTORS[:, 0] < 0)]
)
def test_every_way_of_meeting_a_condition(
    indexes: dict[str, VectorIndex], where: str, may: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Applied to the nearest rows, before, and before since it leaves no row that is near."""
    monkeypatch.setattr(index, "FEW", 0)
    for query in unit_rows(np.eye(1, DIM) * 2 + QUERIES).astype(np.float32):  # in the east
        rows = indexes["lance"].search(query, k=10, columns=COLUMNS, where=where)
        ids, _ = restated(query, 10, may)
        assert rows.num_rows == 10
        assert len(set(rows["id"].to_pylist()) & set(ids)) >= 8


def test_a_warm_index_finds_the_same(tmp_path: Path, one: VectorIndex) -> None:
    warm = type(one)(table(tmp_path, indexed=isinstance(one, LanceIndex)))
    warm.warm()
    found, expected = (index.search(QUERIES[0], k=10, columns=COLUMNS) for index in (warm, one))
    assert found["id"].to_pylist() == expected["id"].to_pylist()


def test_a_row_is_nearest_to_itself(one: VectorIndex) -> None:
    for row in (3, 1500, ROWS + 3):
        if PRICE[row] == 7:
            continue
        rows = one.search(VECTORS[row], k=1, columns=["id", "_vector"])
        assert rows["id"].to_pylist() == [ALL["id"][row].as_py()]
        assert rows["_score"][0].as_py() == pytest.approx(1, abs=1e-5)
        np.testing.assert_array_equal(matrix_of(rows["_vector"])[0], VECTORS[row])


def test_sizes_and_what_is_refused(one: VectorIndex) -> None:
    assert one.size == len(KEPT)
    if isinstance(one, ExactIndex):
        with pytest.raises(ValueError, match="at least 1; got 0"):
            one.search(QUERIES[0], k=0, columns=COLUMNS)


def test_a_version_stays_as_it_was(tmp_path: Path) -> None:
    """Rows that are deleted and added after an index was made are not seen by it."""
    version = table(tmp_path, indexed=False)
    exact = ExactIndex(version)
    newest = lance.dataset(version.uri)
    newest.delete("price < 90")
    lance.write_dataset(planted(2, 100), version.uri, mode="append")
    rows = exact.search(QUERIES[0], k=10, columns=COLUMNS)
    assert rows["id"].to_pylist() == restated(QUERIES[0], 10)[0]
    assert exact.size == len(KEPT)


def test_lance_answers_where_there_is_an_index(tmp_path: Path) -> None:
    assert isinstance(index_of(table(tmp_path / "a", indexed=False)), ExactIndex)
    assert isinstance(index_of(table(tmp_path / "b", indexed=True)), LanceIndex)


def test_conditions_are_remembered_within_bounds(one: VectorIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "REMEMBERED", 3)
    for price in range(10):
        assert one.count(f"price = {price}") == int((PRICE[KEPT] == price).sum())


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, -1.0]), max_size=20), st.integers(1, 25))
def test_of_equal_scores_the_first_is_nearest(scores: list[float], k: int) -> None:
    expected = sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:k]
    assert nearest(np.array(scores), k).tolist() == expected
