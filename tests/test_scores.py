"""Scores of a planted space of two modalities that are apart, with hubs among the images."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from chiasm.errors import SpaceError
from chiasm.retrieval.scores import PREPARATIONS, HeldOut, PairScores, Preparation, ScoreModel
from chiasm.types import Modality
from chiasm.vectors import unit_rows

DIM, N = 32, 150


class Planted:
    """Images are their texts with noise and a gap; queries are texts with little noise."""

    def __init__(self, n: int = N, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)

        def noise(size: float) -> np.ndarray:
            return np.asarray(size * rng.standard_normal((n, DIM)) / np.sqrt(DIM))

        text = noise(1.0)
        gap = np.eye(1, DIM) * 1.5
        self.texts = unit_rows(text + 0.3).astype(np.float32)
        self.images = unit_rows(text + noise(1.0) + gap + np.abs(noise(1.0)) * np.eye(1, DIM, 5) * 4).astype(np.float32)
        self.queries = unit_rows(text + 0.3 + noise(0.4)).astype(np.float32)
        self.groups = np.arange(n)

    def pairs(self, searched: str, n: int = N) -> HeldOut:
        rows = self.images if searched == "image" else self.texts
        return HeldOut(self.queries[:n], self.groups[:n], rows[:n], self.groups[:n])


DATA, NEW = Planted(), Planted(seed=1)


def model(**options: Any) -> ScoreModel:
    rows: dict[Modality, np.ndarray] = {"image": DATA.images, "text": DATA.texts}
    return ScoreModel(
        {("text", kind): PairScores.fit(rows[kind], DATA.texts, pairs=DATA.pairs(kind), **options) for kind in rows}
    )


MODEL = model()


def gallery(data: Planted) -> tuple[np.ndarray, list[Any], np.ndarray]:
    return np.vstack([data.images, data.texts]), ["image"] * N + ["text"] * N, np.tile(data.groups, 2)


def hits(data: Planted, pair: PairScores, k: int = 1) -> float:
    scores = pair.prepared.queries(data.queries) @ pair.prepared.rows(data.images).T
    top = np.argsort(-scores, axis=1)[:, :k]
    return float(np.mean((top == data.groups[:, None]).any(axis=1)))


def test_a_chosen_preparation_finds_more_in_a_new_gallery() -> None:
    chosen = MODEL.pairs["text", "image"]
    plain = PairScores.fit(DATA.images, DATA.texts)
    assert chosen.choice.preparation != PREPARATIONS[0]
    assert chosen.choice.score > chosen.choice.plain_score
    assert hits(NEW, chosen, k=5) > hits(NEW, plain, k=5) + 0.03


def test_nothing_is_done_where_nothing_helps() -> None:
    rng = np.random.default_rng(3)
    x = unit_rows(rng.standard_normal((100, DIM)).astype(np.float32))
    near = unit_rows(x + 0.2 * unit_rows(rng.standard_normal((100, DIM)).astype(np.float32)))
    pair = PairScores.fit(x, near, pairs=HeldOut(near, np.arange(100), x, np.arange(100)))
    assert pair.choice.preparation == PREPARATIONS[0] and pair.choice.score == pair.choice.plain_score


def test_plain_scores_are_cosines() -> None:
    pair = PairScores.fit(DATA.images, DATA.texts)
    found = pair.prepared.queries(DATA.queries) @ pair.prepared.rows(DATA.images).T
    np.testing.assert_allclose(found, DATA.queries @ DATA.images.T, atol=1e-6)


def test_prepared_scores_restated() -> None:
    pair = PairScores.fit(DATA.images, DATA.texts, preparation=Preparation(True, 0.5, 20.0))
    q = unit_rows(DATA.queries - DATA.texts.mean(axis=0))
    x = unit_rows(DATA.images - DATA.images.mean(axis=0))
    bank = unit_rows(DATA.texts - DATA.texts.mean(axis=0))
    offsets = 0.5 * np.log(np.exp(20 * x @ bank.T).mean(axis=1)) / 20
    scores = pair.prepared.queries(DATA.queries) @ pair.prepared.rows(DATA.images).T
    np.testing.assert_allclose(scores, q @ x.T - offsets, atol=1e-3)  # the bank is kept in float16
    np.testing.assert_allclose(pair.offsets(DATA.images), offsets, atol=1e-3)


@pytest.mark.parametrize("preparation", [Preparation(), Preparation(True, 1.0)])
def test_standard_scores_are_exact_over_the_gallery(preparation: Preparation) -> None:
    pair = PairScores.fit(DATA.images, DATA.texts, preparation=preparation)
    queries = pair.prepared.queries(DATA.queries)
    scores = queries @ pair.prepared.rows(DATA.images).T
    expected = (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True)
    np.testing.assert_allclose(pair.standard(scores, queries), expected, atol=2e-3)


def test_a_row_of_zeros_is_near_to_nothing() -> None:
    rows = np.vstack([DATA.images, np.zeros((1, DIM), np.float32)])
    pair = PairScores.fit(rows, DATA.texts, preparation=Preparation(True, 1.0))
    scores = pair.prepared.queries(DATA.queries) @ pair.prepared.rows(rows).T
    assert np.all(scores.argmin(axis=1) == N)


def found_of_each(data: Planted, scores: ScoreModel) -> tuple[float, float]:
    """Share of the right images and texts among the first 4 of a mixed gallery."""
    rows, kinds, groups = gallery(data)
    found = np.zeros(2)
    for number, query in enumerate(data.queries):
        first = scores.judge(query, "text", rows, kinds).order[:4]
        right = groups[first] == number
        found += [np.sum(right & (first < N)), np.sum(right & (first >= N))]
    return float(found[0] / N), float(found[1] / N)


def test_in_a_mixed_gallery_no_modality_is_favoured() -> None:
    rows, _, _ = gallery(NEW)
    cosine = np.argsort(-(NEW.queries @ rows.T), axis=1)[:, :4]
    image_before = np.mean((cosine == np.arange(N)[:, None]).any(axis=1))
    image, text = found_of_each(NEW, MODEL)
    assert image > image_before + 0.1 and text > 0.9


def test_a_modality_that_few_items_have_is_not_favoured_for_it() -> None:
    """Of equal scores the row among ten is not more probable than the row among a hundred: both are one item's."""
    pair = MODEL.pairs["text", "image"]
    both = ScoreModel({("text", "image"): pair, ("text", "audio"): pair})
    rows = np.vstack([NEW.images, NEW.images])
    kinds: list[Modality] = ["image" if row < N else "audio" for row in range(2 * N)]
    sizes: dict[Modality, int] = {"image": N, "audio": N // 10}
    judged = both.judge(NEW.queries[0], "text", rows, kinds, sizes=sizes, items=N)
    np.testing.assert_allclose(judged.probability[:N], judged.probability[N:], rtol=1e-6)
    alone = both.judge(NEW.queries[0], "text", rows, kinds, sizes=sizes)
    assert (alone.probability[N:] > alone.probability[:N]).all()


def test_without_pairs_scores_compare_by_deviations_and_no_probability_is_made_up() -> None:
    bare = ScoreModel(
        {
            ("text", "image"): PairScores.fit(DATA.images, DATA.texts),
            ("text", "text"): PairScores.fit(DATA.texts, DATA.texts),
        }
    )
    rows, kinds, _ = gallery(NEW)
    judged = bare.judge(NEW.queries[0], "text", rows, kinds)
    assert np.isnan(judged.probability).all() and judged.found is None and judged.threshold is None
    np.testing.assert_array_equal(judged.order, np.argsort(-judged.standard, kind="stable"))
    np.testing.assert_array_equal(judged.shown, judged.order)


def test_nine_pairs_are_too_few_and_ten_are_enough() -> None:
    assert PairScores.fit(DATA.images, DATA.texts, pairs=DATA.pairs("image", 9)).relevance is None
    assert PairScores.fit(DATA.images, DATA.texts, pairs=DATA.pairs("image", 10)).relevance is not None


def test_an_unknown_pair_of_modalities_is_ordered_by_cosine() -> None:
    rows, kinds, _ = gallery(NEW)
    judged = MODEL.judge(NEW.images[0], "image", rows, kinds)
    np.testing.assert_array_equal(judged.order, np.argsort(-(rows @ NEW.images[0]), kind="stable"))
    assert judged.found is None and np.isnan(judged.standard).all()


def test_queries_for_nothing_that_is_there_find_nothing() -> None:
    rows, kinds, _ = gallery(DATA)
    strangers = unit_rows(np.random.default_rng(8).standard_normal((60, DIM)).astype(np.float32) / np.sqrt(DIM) + 0.3)
    told = [MODEL.judge(query, "text", rows, kinds, keep=0.9) for query in strangers]
    kept = [MODEL.judge(query, "text", rows, kinds, keep=0.9) for query in DATA.queries]
    assert np.mean([judged.found for judged in kept]) > 0.9 > 0.5 > np.mean([judged.found for judged in told])
    for judged in (*told, *kept):
        assert judged.threshold is not None
        assert bool(len(judged.shown)) == judged.found == (judged.probability.max() >= judged.threshold)
        assert np.all(judged.probability[judged.shown] >= judged.threshold)
        assert np.all(np.diff(judged.probability[judged.order]) <= 0)


def test_a_query_that_is_far_from_everything_is_improbable_in_its_number() -> None:
    """The plain cosine of its best hit is less than answerable queries have, and the probability says so."""
    rows, kinds, _ = gallery(DATA)
    query = unit_rows(DATA.queries[:1] + 3 * np.random.default_rng(3).standard_normal((1, DIM)).astype(np.float32))[0]
    strict, lax = (MODEL.judge(query, "text", rows, kinds, keep=keep) for keep in (0.5, 1.0))
    assert strict.found is False
    assert strict.threshold is not None
    assert strict.probability.max() < strict.threshold
    np.testing.assert_array_equal(strict.order, lax.order)
    same = MODEL.judge(query, "text", rows, kinds, keep=0.5, min_probability=0.0)
    np.testing.assert_array_equal(same.probability, strict.probability)


def test_stored_offsets_give_the_same_judgement() -> None:
    rows, kinds, _ = gallery(NEW)
    offsets = np.concatenate(
        [MODEL.pairs["text", "image"].offsets(NEW.images), MODEL.pairs["text", "text"].offsets(NEW.texts)]
    )
    plain, stored = (MODEL.judge(NEW.queries[0], "text", rows, kinds, offsets=o) for o in (None, offsets))
    np.testing.assert_allclose(plain.probability, stored.probability, rtol=1e-4)


def test_min_probability_takes_the_place_of_the_threshold() -> None:
    rows, kinds, _ = gallery(DATA)
    judged = MODEL.judge(DATA.queries[0], "text", rows, kinds, min_probability=1.0)
    assert judged.threshold == 1.0 and judged.found is False and not len(judged.shown)
    empty = MODEL.judge(DATA.queries[0], "text", rows[:0], [])
    assert not len(empty.order) and empty.found is None


def test_state_survives_json() -> None:
    fields, arrays = MODEL.state()
    again = ScoreModel.from_state(json.loads(json.dumps(fields)), arrays)
    rows, kinds, _ = gallery(NEW)
    for pair in (MODEL, ScoreModel({("text", "image"): PairScores.fit(DATA.images, DATA.texts)})):
        fields, arrays = pair.state()
        again = ScoreModel.from_state(json.loads(json.dumps(fields)), arrays)
        first, second = (m.judge(NEW.queries[3], "text", rows, kinds) for m in (pair, again))
        np.testing.assert_array_equal(first.scores, second.scores)
        np.testing.assert_array_equal(first.probability, second.probability)
        assert first.threshold == second.threshold


def test_a_bank_is_small() -> None:
    many = np.tile(DATA.texts, (20, 1))
    pair = PairScores.fit(DATA.images, many, preparation=Preparation(hub_strength=1.0))
    assert pair.prepared.bank.shape == (2000, DIM) and pair.prepared.bank.dtype == np.float16


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_explained() -> None:
    with pytest.raises(SpaceError, match="not empty; got"):
        PairScores.fit(DATA.images[:0], DATA.texts)
    with pytest.raises(SpaceError, match="the bank must have 32 columns"):
        PairScores.fit(DATA.images, DATA.texts[:, :5])
    with pytest.raises(SpaceError, match="1 of 150 rows of the bank hold NaN"):
        PairScores.fit(DATA.images, np.where(np.arange(N)[:, None] == 3, np.nan, DATA.texts))
    with pytest.raises(SpaceError, match="of neither"):
        PairScores.fit(DATA.images, DATA.texts, gallery_owners=DATA.groups)
    with pytest.raises(SpaceError, match="the bank has 150 vectors and 3 owners"):
        PairScores.fit(DATA.images, DATA.texts, gallery_owners=DATA.groups, bank_owners=DATA.groups[:3])
    with pytest.raises(SpaceError, match="all 4 rows of the gallery are zero"):
        PairScores.fit(np.zeros((4, DIM), np.float32), DATA.texts)
    with pytest.raises(SpaceError, match="need a group a vector"):
        HeldOut(DATA.queries, DATA.groups[:2], DATA.images, DATA.groups)
    with pytest.raises(SpaceError, match="the held-out queries must have 32 columns"):
        PairScores.fit(
            DATA.images, DATA.texts, pairs=HeldOut(DATA.queries[:, :3], DATA.groups, DATA.images, DATA.groups)
        )
    with pytest.raises(SpaceError, match="hub strength"):
        Preparation(hub_strength=-1.0)
    with pytest.raises(SpaceError, match="of neither"):
        Preparation(hub_strength=1.0).hub_offsets(DATA.images, DATA.texts, row_owners=DATA.groups)
    rows, kinds, _ = gallery(NEW)
    with pytest.raises(SpaceError, match="do not fit rows"):
        MODEL.judge(NEW.queries[0], "text", rows, kinds[:3])
    with pytest.raises(SpaceError, match="min_probability is a number from 0 to 1; got 2"):
        MODEL.judge(NEW.queries[0], "text", rows, kinds, min_probability=2.0)
    fields, arrays = MODEL.state()
    with pytest.raises(SpaceError, match=r"format version 99; this chiasm reads 3. Align again"):
        ScoreModel.from_state({**fields, "format_version": 99}, arrays)
    with pytest.raises(SpaceError, match="not saved scores"):
        ScoreModel.from_state(fields, {})
    with pytest.raises(SpaceError, match="not saved scores"):
        ScoreModel.from_state(fields, {**arrays, "text.image.mean": arrays["text.image.mean"][:3]})


# ---------------------------------------------------------------------------------------------------------------- hubs


def unit(rows: int, *, seed: int, dim: int = 8) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32))


ROWS, BANK = unit(11, seed=0), unit(23, seed=1)
ROW_OWNERS, BANK_OWNERS = np.arange(11), np.arange(23) % 13


@pytest.mark.parametrize("owners", [False, True])
@pytest.mark.parametrize("at_a_time", [1, 2**22])
@pytest.mark.parametrize(("strength", "temperature"), [(1.0, 5.0), (0.5, 40.0)])
def test_hub_offsets_restated_row_by_row(
    strength: float, temperature: float, at_a_time: int, owners: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chiasm.retrieval.scores._BLOCK", at_a_time)
    known = {"row_owners": ROW_OWNERS, "bank_owners": BANK_OWNERS} if owners else {}
    offsets = Preparation(hub_strength=strength, temperature=temperature).hub_offsets(ROWS, BANK, **known)
    for number, row in enumerate(ROWS):
        others = [query for query, owner in zip(BANK, BANK_OWNERS, strict=True) if not owners or owner != number]
        mean = sum(math.exp(temperature * float(row @ query)) for query in others) / len(others)
        assert offsets[number] == pytest.approx(strength * math.log(mean) / temperature, rel=1e-4, abs=1e-5)


def test_hub_offsets_rank_by_the_probability_of_the_query() -> None:
    query = unit(1, seed=5)
    scores = (ROWS @ query[0]) - Preparation(hub_strength=1.0).hub_offsets(ROWS, BANK)
    probability = np.exp(10 * ROWS @ query[0]) / np.exp(10 * ROWS @ BANK.T).sum(axis=1)
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(probability))


def test_a_hub_no_longer_ranks_before_the_right_rows() -> None:
    """Every query is near its own row, and nearer still to a hub in their middle."""
    middle = unit(1, seed=3, dim=64)
    bank = unit_rows(unit(40, seed=4, dim=64) + middle)
    rows = np.vstack([unit_rows(bank + unit(40, seed=6, dim=64)), unit_rows(bank.mean(axis=0, keepdims=True))])
    scores = bank @ rows.T
    corrected = scores - Preparation(hub_strength=1.0).hub_offsets(rows, bank)
    assert np.mean(scores.argmax(axis=1) == 40) > 0.4
    assert np.mean(corrected.argmax(axis=1) == 40) < 0.1


def test_without_a_strength_a_bank_or_other_owners_there_are_no_offsets() -> None:
    assert not Preparation().hub_offsets(ROWS, BANK).any()
    hubs = Preparation(hub_strength=1.0)
    assert not hubs.hub_offsets(ROWS, BANK[:0]).any()
    offsets = hubs.hub_offsets(ROWS, BANK, row_owners=ROW_OWNERS, bank_owners=np.zeros(len(BANK), dtype=int))
    assert offsets[0] == 0 and np.all(offsets[1:] != 0)
