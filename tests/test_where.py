"""Conditions mean what they mean in SQLite, or are refused; nothing else reaches Lance."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chiasm.errors import CollectionError
from chiasm.store.where import DEEPEST, LONGEST, MOST_TERMS, where_sql

TEXTS = ["owl", "Owl", "it's", "100%", "a_b", "a\\b", "a\nb", "é", "", None]
WHOLE = [0, 1, -1, 3, 4, 2**53 + 1, 2**63 - 1, -(2**63), None, 7]
NUMBERS = [
    0.0,
    1.5,
    -0.25,
    3.0,
    9007199254740992.0,
    1e30,
    None,
    1e-07,
    2.0,
    -1e30,
]  # beside no whole number that rounds to it
FLAGS = [True, False, None, True, False, True, None, False, True, True]
TABLE = pa.table(
    {
        "id": pa.array([str(row) for row in range(10)]),
        "label": pa.array(TEXTS),
        "n": pa.array(WHOLE, pa.int64()),
        "x": pa.array(NUMBERS, pa.float64()),
        "kept": pa.array(FLAGS, pa.bool_()),
        'the "place"': pa.array([*TEXTS[5:], *TEXTS[:5]]),
        "day": pa.array([date(2024, 1, 1 + row) for row in range(9)] + [None], pa.date32()),
        "taken": pa.array([datetime(2024, 1, 1 + row, 12) for row in range(9)] + [None], pa.timestamp("us")),
        "tags": pa.array([["a", "b"], ["b"], [], None, *[["c"]] * 6], pa.list_(pa.string())),
        "image": pa.array([["/secret/1.png"]] * 5 + [None] * 5, pa.list_(pa.string())),
        "_source": pa.array(["/secret"] * 10),
        "_vector": pa.array([[1.0, 0.0]] * 10, pa.list_(pa.float32(), 2)),
    }
)
IN_SQLITE = ["id", "label", "n", "x", "kept", 'the "place"']


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> lance.LanceDataset:
    return lance.write_dataset(TABLE, str(tmp_path_factory.mktemp("where") / "rows.lance"))


@pytest.fixture(scope="module")
def judge() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.execute("PRAGMA case_sensitive_like = ON")
    connection.execute('CREATE TABLE t (id TEXT, label TEXT, n INTEGER, x REAL, kept INTEGER, "the ""place""" TEXT)')
    connection.executemany(
        "INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)",
        [tuple(row.values()) for row in TABLE.select(IN_SQLITE).to_pylist()],
    )
    for name, function in {
        "starts_with": str.startswith,
        "ends_with": str.endswith,
        "contains": str.__contains__,
    }.items():

        def of_nulls(one: str | None, other: str | None, function: Any = function) -> bool | None:
            return None if one is None or other is None else function(one, other)

        connection.create_function(name, 2, of_nulls, deterministic=True)
    yield connection
    connection.close()


def ids(stored: lance.LanceDataset, where: str) -> list[str]:
    sql = f"((({where_sql(where, TABLE.schema)}) AND (id IS NOT NULL)) AND (id IS NOT NULL))"  # as deep as in a search
    return list(stored.to_table(filter=sql, columns=["id"])["id"].to_pylist())


COLUMNS = st.sampled_from(["id", "label", "n", "x", "kept", '"the ""place"""', "`label`", '"n"'])
VALUES = st.one_of(
    st.sampled_from([text for text in TEXTS if text is not None]).map(lambda text: "'" + text.replace("'", "''") + "'"),
    st.integers(-(2**64), 2**64).map(str),
    st.floats(-1e31, 1e31).map(repr),
    st.sampled_from(["0", "1.5", "3.0", "3.5", ".5", "4.", "1e30", "true", "false", "9007199254740993", "- 1", "+2"]),
    st.sampled_from(["-9223372036854775808", "9223372036854775807", "9223372036854775808", "'%'", "'o%'", "'_w_'"]),
)
OPERANDS = st.recursive(
    COLUMNS | VALUES,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["lower", "UPPER", "length"]), inner).map(lambda one: f"{one[0]}({one[1]})"),
        st.tuples(st.sampled_from(["starts_with", "ends_with", "contains"]), inner, inner).map(
            lambda one: f"{one[0]}({one[1]}, {one[2]})"
        ),
        inner.map("({})".format),
    ),
    max_leaves=3,
)
NOT = st.sampled_from(["", "", "NOT "])
PREDICATES = st.one_of(
    st.tuples(OPERANDS, st.sampled_from(["=", "==", "!=", "<>", "<", "<=", ">", ">="]), OPERANDS).map(" ".join),
    st.tuples(OPERANDS, st.just("IS"), NOT, st.sampled_from(["NULL", "TRUE", "false"])).map(" ".join),
    st.tuples(OPERANDS, NOT, st.lists(VALUES, min_size=1, max_size=3)).map(
        lambda one: f"{one[0]} {one[1]}in ({', '.join(one[2])})"
    ),
    st.tuples(OPERANDS, NOT, OPERANDS, OPERANDS).map(lambda one: f"{one[0]} {one[1]}between {one[2]} and {one[3]}"),
    st.tuples(
        COLUMNS, NOT, st.sampled_from(["'o%'", "'%\\%'", "'a!_b' ESCAPE '!'", "'a_b'", "'%\\\\%' ESCAPE '\\'"])
    ).map(lambda one: f"{one[0]} {one[1]}LIKE {one[2]}"),
    COLUMNS,
)
CONDITIONS = st.recursive(
    PREDICATES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "or"]), inner).map(" ".join),
        inner.map("NOT {}".format),
        inner.map("({})".format),
    ),
    max_leaves=5,
)
PIECES = st.lists(
    st.one_of(
        COLUMNS,
        VALUES,
        st.sampled_from(
            [*"(),=<;*%'\"`", ">=", "--", "/*", "||", "and", "OR", "not", "in", "like", "IS", "null", "between"]
        ),
    )
)


@example(where="n > 3.5")
@example(where="n >= 1e30 OR n <= -1e30 OR n <> 2.5")
@example(where="NOT (n = 2.5)")
@example(where="x < 9007199254740993 AND x >= 9007199254740991")
@example(where="label LIKE 'a%b' OR label LIKE 'a_b'")
@example(where="NOT label = 'owl' AND kept OR kept IS NOT TRUE")
@example(where="label IN ('owl', 'it''s') OR n NOT IN (1, 3.5)")
@example(where="n NOT BETWEEN 0.5 AND 3 AND x = n")
@example(where="NOT (" * (DEEPEST // 2) + "n = 4 OR n = 3 AND x > 0" + ")" * (DEEPEST // 2))
@example(where="(label = 'none' OR kept AND NOT " * (DEEPEST // 2) + "n = 4" + ")" * (DEEPEST // 2))
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(where=CONDITIONS | PIECES.map(" ".join) | st.text(max_size=30))
def test_a_condition_means_what_it_means_in_sqlite_or_is_refused(
    stored: lance.LanceDataset, judge: sqlite3.Connection, where: str
) -> None:
    try:
        found = ids(stored, where)
    except CollectionError as error:
        assert "cannot be used" in str(error)
        assert "/secret" not in str(error)
        return
    expected = [row[0] for row in judge.execute(f"SELECT id FROM t WHERE {where}")]
    assert found == expected


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("day > '2024-01-08'", ["8"]),
        ("day >= '2024-01-08 00:00:00.000001'", ["8"]),
        ("day = '2024-01-08 12:00'", []),
        ("day <> '2024-01-08 12:00' AND day < DATE '2024-01-02'", ["0"]),
        ("day IN ('2024-01-02', '2024-01-03')", ["1", "2"]),
        ("'2024-01-08' < taken", ["7", "8"]),
        ("taken = '2024-01-08T14:00+02:00'", ["7"]),
        ("taken BETWEEN '2024-01-01' AND TIMESTAMP '2024-01-01 12:00:00'", ["0"]),
        ("day < taken AND n = 0", ["0"]),
        ("day IS NULL", ["9"]),
        ("label ILIKE 'OWL'", ["0", "1"]),
        ("contains(tags, 'b')", ["0", "1"]),
        ("image IS NULL AND n = 7", ["9"]),
        ("image IS NOT NULL AND n < 0", ["2"]),
        ("id IN ('" + "', '".join("x" * 3 for _ in range(MOST_TERMS - 3)) + "', '4')", ["4"]),
        (" OR ".join(["n = 12"] * (MOST_TERMS // 2 - 1)) + " OR n = 4", ["4"]),
        ("label LIKE '" + "%_" * 99 + "%'", []),
    ],
)
def test_conditions_that_sqlite_does_not_know(stored: lance.LanceDataset, where: str, expected: list[str]) -> None:
    assert ids(stored, where) == expected


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("array_resize(image, 100000000) = image", "there is no function 'array_resize'; there are lower"),
        ("levenshtein(repeat(id, 3000), repeat('b', 30000)) > 1", "there is no function 'levenshtein'"),
        ("image = 'x'", "of 'image' it can only be asked whether there is any"),
        ("contains(image, '/secret')", "takes text; got 'image' (files)"),
        ("_source LIKE '/s%'", "no column '_source'"),
        ("_vector IS NULL", "no column '_vector'"),
        ("_rowid = 1", "no column '_rowid'"),
        ("n = 'many'", "'n' (integer) cannot be compared with 'many' (text)"),
        ("label > 3", "'label' (text) cannot be compared with 3 (integer)"),
        ("day > 3", "'day' (date) cannot be compared with 3 (integer)"),
        ("day > 'spring'", "'spring' is no date: write 2024-05-31"),
        ("day > '2024-02-30'", "is no date"),
        ("tags = 'a'", "write contains(tags, 'bird')"),
        ("label = NULL", "write IS NULL"),
        ('label = "owl"', "no column 'owl'"),
        ("colour = 'red'", "no column 'colour' (at character 1). Columns: id (text), label (text), n (integer)"),
        ("label = 'owl", "a single quote is not closed (at character 9)"),
        ("n", "'n' (integer) is no condition"),
        ("n = 1 AND", "it ends too early"),
        ("n = 1) OR (n = 2", "')' was not expected"),
        ("n = 1; DROP TABLE items", "';' means nothing here"),
        ("n = 1 -- more", "'-' was not expected"),
        ("n + 1 = 2", "'+' was not expected"),
        ("n = 1e999", "too large"),
        ("n = " + "9" * 5000, "too large"),
        ("label LIKE '" + "%" * 300 + "'", "a pattern has at most"),
        ("(" * 900 + "true" + ")" * 900, "deep"),
        ("NOT " * 900 + "true", "deep"),
        ("lower(" * 900 + "label" + ")" * 900, "deep"),
        (" OR ".join(["n=1"] * 300), "more than 500"),
        ("n = 1 " + " " * LONGEST, "10,000 are the most"),
        ("label = '\0'", "a character that is none"),
        ("label = '\ud800'", "a character that is none"),
        ("", "it ends too early"),
    ],
)
def test_what_is_no_condition_is_refused_with_the_reason(where: str, says: str) -> None:
    with pytest.raises(CollectionError) as error:
        where_sql(where, TABLE.schema)
    assert says in str(error.value)
    assert len(str(error.value)) < 1200


def test_a_name_is_found_however_its_letters_are_composed(tmp_path: Path) -> None:
    table = pa.table({"id": ["größer"], "Größe": [3]})
    rows = lance.write_dataset(table, str(tmp_path / "rows.lance"))
    assert rows.count_rows(filter=where_sql("Gro\u0308ße = 3 AND id = 'gro\u0308ßer'", table.schema)) == 1


def test_many_columns_are_not_all_listed() -> None:
    schema = pa.schema([(f"c{number}", pa.string()) for number in range(200)])
    with pytest.raises(CollectionError, match=r"c39 \(text\) and 160 more"):
        where_sql("nosuch = 1", schema)
