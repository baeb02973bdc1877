"""The verbs `align` and `statistics`: learn a space from items that have several modalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from chiasm import encoders
from chiasm.alignment.pairs import Pairs
from chiasm.cores import limit_threads
from chiasm.encoders.runtime import Device
from chiasm.errors import SpaceError
from chiasm.space import Space
from chiasm.splits import holdout_split
from chiasm.store.collection import Collection
from chiasm.types import Modality
from chiasm.verbs.dataset import pairs_of
from chiasm.verbs.spaces import START, drop_replaced, placed_vectors, save_scores, start_of

if TYPE_CHECKING:
    from chiasm.alignment.alignment import LearnedMap
    from chiasm.alignment.pairs import Source
    from chiasm.evaluation.pairs import PairMetrics
    from chiasm.retrieval.scores import ScoreModel

HELD_OUT = 0.2  # share of the pairs, whole groups, that `align` measures itself on


@dataclass(frozen=True)
class Aligned:
    """How one modality was brought to the anchor."""

    method: str
    pairs: int  # learned from in the end
    held_out: int  # pairs of the measurement; whole groups (e.g. the same caption) are held out
    alpha: float  # weight of the source in the end
    blend: float  # share of the learned map; 0: the start was better, and stays
    source_pairs: int


@dataclass(frozen=True)
class AlignReport:
    """The effect of an alignment on held-out pairs."""

    space: str
    aligned: dict[str, Aligned]  # by the modality that was moved
    before: dict[str, dict[str, Any]]  # {"text_to_image": {"hit@1": .., "intervals": {..}}, ..}
    after: dict[str, dict[str, Any]]
    gain: dict[str, dict[str, Any]]  # by direction and metric, the paired difference with its interval
    geometry: dict[str, dict[str, Any]]  # by modality that was moved: {"before": {..}, "after": {..}}
    scores: dict[str, dict[str, Any]]
    """By "text_to_image": the preparation of vectors that was chosen, and calibration error and rates of the probability
    of relevance where there is one."""

    @property
    def pairs(self) -> int:
        """Pairs that were learned from, of all modalities."""
        return sum(part.pairs for part in self.aligned.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return {**asdict(self), "pairs": self.pairs}


@limit_threads()
def align(
    collection: str | Path,
    *,
    pairs: Sequence[Modality] = ("image", "text"),
    method: str | None = None,
    source: str | Path | None = None,
    alpha: float | Literal["auto"] = "auto",
    name: str = "aligned",
    where: str | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> AlignReport:
    """Learn from items that have several modalities, and make the result the newest space of the collection.

    A fifth of the groups is held out to measure before and after. The settings chosen without them then learn a map from
    all pairs. The probability that a score means is learned from the same pairs, each placed by a map that did not learn
    from it.

    Args:
        collection: the target.
        pairs: two modalities or more. Text is the anchor where it is among them; the others are moved to it.
        method: `"kernel"`, `"ridge"`, `"procrustes"`, `"cca"`, `"infonce"`, or `"none"` (the start stays, and only
            the meaning of scores is learned). Default: kernel, or ridge where the source is a file of statistics.
        source: a collection with such pairs, or a file written by `statistics`.
        alpha: weight of the source from 0 to 1, or `"auto"`.
        name: of the new space; one of that name is replaced.
        where: learn only from items that meet this condition.
        seed: of the held-out groups, and of methods that draw.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        SpaceError: fewer than 10 pairs, a source of other encoders, or there is no such method.
    """
    from chiasm.verbs.scoring import CrossFitted, fit_scores

    if name == START:
        raise SpaceError(f"{START!r} is the name of the space that nothing was learned in; choose another")
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    start = start_of(opened, networks)
    sets = [pairs_of(opened, start, one, where=where) for one in _pairs_with_anchor(pairs)]
    if source is not None and len(sets) > 1:
        raise SpaceError("a source goes with two modalities. Align one after the other, or leave it out")
    results = [_align_one(data, start, method, source, alpha, seed, device) for data in sets]
    before: dict[str, dict[str, Any]] = {}
    after: dict[str, dict[str, Any]] = {}
    gain: dict[str, dict[str, Any]] = {}
    geometry: dict[str, dict[str, Any]] = {}
    for one in results:
        before |= one.before.retrieval.as_dict()
        after |= one.after.retrieval.as_dict()
        geometry[one.data.moved] = {"before": one.before.geometry.as_dict(), "after": one.after.geometry.as_dict()}
        gain |= one.after.gain(one.before)
    space = start.with_maps(
        name,
        {one.data.moved: one.map for one in results if one.map is not None},
        learned_from=sorted({item for one in results for item in one.data.items}),
        about={},
    )
    gallery = placed_vectors(opened, space)
    scores = fit_scores(
        opened, space, gallery, networks, learned=[CrossFitted(one.data, one.crossed) for one in results], seed=seed
    )
    report = AlignReport(
        space=name,
        aligned={one.data.moved: one.report for one in results},
        before=before,
        after=after,
        gain=gain,
        geometry=geometry,
        scores=_summarise(scores),
    )
    space = replace(space, about=report.as_dict())
    opened.require_current()
    space.save(opened.path / "spaces" / name)
    save_scores(opened.path / "spaces" / name, scores)
    drop_replaced(opened)
    return report


def statistics(
    collection: str | Path,
    *,
    out: str | Path,
    pairs: tuple[Modality, Modality] = ("image", "text"),
    where: str | None = None,
    device: Device = "auto",
) -> int:
    """Write what `align` needs of this collection as a source: sums and matrices, not the pairs. Return their number.

    Args:
        collection: the source.
        out: the file to write, by convention ending in `.safetensors`.
        pairs: the two modalities.
        where: only items that meet this condition.
        device: `"auto"`, `"cpu"` or `"cuda"`.
    """
    from chiasm.alignment.pairs import PairStatistics

    opened = Collection.open(collection)
    start = start_of(opened, encoders.resolve(opened.encoder, device=device))
    data = pairs_of(opened, start, pairs, where=where)
    sums = PairStatistics.from_pairs(data.features, data.anchors)
    sums.save(out, _provenance(start, data.moved, data.anchor))
    return sums.count


@dataclass(frozen=True, eq=False)
class _Learned:
    """One modality brought to the anchor."""

    data: Pairs
    map: LearnedMap | None  # None: the start stays
    before: PairMetrics
    after: PairMetrics
    crossed: Float[np.ndarray, "pairs dim"]  # every pair by a map that did not learn from its group
    report: Aligned


def _align_one(
    data: Pairs,
    start: Space,
    method: str | None,
    source: str | Path | None,
    alpha: float | Literal["auto"],
    seed: int,
    device: Device,
) -> _Learned:
    from chiasm.alignment.alignment import MIN_PAIRS
    from chiasm.alignment.closed_form import make_alignment
    from chiasm.alignment.pairs import PairStatistics
    from chiasm.verbs.evaluate import measure_pairs

    if len(data.items) < MIN_PAIRS:
        raise SpaceError(
            f"alignment needs at least {MIN_PAIRS} pairs; got {len(data.items)} of {data.moved} and {data.anchor}. Add "
            "pairs or use the space as it is"
        )
    split = holdout_split(HELD_OUT, groups=data.groups, seed=seed)
    before = measure_pairs(data, data.start[split.test], split.test, seed=seed)
    if method == "none":
        if source is not None:
            raise SpaceError(
                "the method 'none' learns no map, so there is nothing to learn from a source. Leave it out"
            )
        report = Aligned("none", len(data.items), len(split.test), 0.0, 0.0, 0)
        return _Learned(data, None, before, before, data.start, report)
    other = None if source is None else _load_source(source, start, data.moved, data.anchor, device)
    if method is None:
        method = "ridge" if isinstance(other, PairStatistics) else "kernel"
    alignment = make_alignment(method, alpha=alpha, seed=seed)
    trial = alignment.fit(data.arrays.take(split.train), other)
    placed = trial.transform(data.features[split.test], data.start[split.test])
    after = measure_pairs(data, placed, split.test, seed=seed)
    # The settings that were measured are those that stay: choosing them anew on all pairs would cost as much again.
    final = alignment.fit(data.arrays, other, choice=trial.choice)
    count = 0 if other is None else other.count
    report = Aligned(method, len(data.items), len(split.test), final.choice.alpha, final.choice.blend, count)
    return _Learned(data, final.map, before, after, final.cross_fitted, report)


def _pairs_with_anchor(pairs: Sequence[Modality]) -> list[tuple[Modality, Modality]]:
    """Return the pairs to learn from: two modalities, or each of several with text."""
    if len(pairs) == 2:
        return [(pairs[0], pairs[1])]
    if len(pairs) < 2 or len(set(pairs)) < len(pairs) or "text" not in pairs:
        raise SpaceError(
            f"pairs are two different modalities, or several with text, which the others are brought to; got {', '.join(pairs)}"
        )
    return [(modality, "text") for modality in pairs if modality != "text"]


def _summarise(model: ScoreModel) -> dict[str, dict[str, Any]]:
    """Return what was learned about scores, for reports."""
    summary = {}
    for (asked, searched), pair in model.pairs.items():
        one: dict[str, Any] = {"preparation": asdict(pair.choice.preparation)}
        if pair.relevance is not None:
            one |= {"calibration_error": pair.relevance.calibration_error, "queries": pair.relevance.queries}
            one |= {"answered": pair.relevance.rates(pair.relevance.threshold())}
        summary[f"{asked}_to_{searched}"] = one
    return summary


def _provenance(space: Space, moved: Modality, anchor: Modality) -> dict[str, str]:
    """Return what statistics of pairs must agree on to be added up: encoders and start of both modalities."""
    return {
        "moved": moved,
        "anchor": anchor,
        "moved_encoder": space.fingerprints[moved],
        "anchor_encoder": space.fingerprints[anchor],
        "start": space.start_key(moved, anchor),
    }


def _load_source(source: str | Path, space: Space, moved: Modality, anchor: Modality, device: Device) -> Source:
    """Return the pairs of a collection, or the statistics in a file.

    Raises:
        SpaceError: they were embedded otherwise than the target.
    """
    from chiasm.alignment.pairs import PairStatistics

    pairs: Source
    if Path(source).is_dir():
        opened = Collection.open(source)
        start = start_of(opened, encoders.resolve(opened.encoder, device=device))
        pairs, theirs = pairs_of(opened, start, (moved, anchor)).arrays, _provenance(start, moved, anchor)
    else:
        pairs, theirs = PairStatistics.load(source)
    ours = _provenance(space, moved, anchor)
    if theirs != ours:
        differing = ", ".join(
            f"{key}: {theirs.get(key)} there, {ours[key]} here" for key in ours if theirs.get(key) != ours[key]
        )
        raise SpaceError(f"the source {source} was embedded otherwise than the target ({differing})")
    return pairs
