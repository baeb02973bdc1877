"""The verbs `align` and `statistics`: learn a space from items that have several modalities."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from chiasm import encoders
from chiasm.alignment.pairs import Pairs
from chiasm.cores import limit_threads
from chiasm.encoders.base import Encoder
from chiasm.encoders.runtime import Device
from chiasm.errors import LabelError, SpaceError
from chiasm.files import one_form
from chiasm.saved import DAMAGE
from chiasm.space import Space
from chiasm.splits import holdout_split
from chiasm.store.collection import Collection
from chiasm.types import Modality
from chiasm.verbs.dataset import NoPairsError, Sources, each_source, pairs_of, sides_of, taught_by
from chiasm.verbs.fair import fair_pairs, measure_pairs
from chiasm.verbs.ranking import owner_number
from chiasm.verbs.spaces import (
    START,
    LeftOut,
    SavedSpace,
    drop_replaced,
    folder_of,
    load_space,
    placed_vectors,
    save_space,
    start_of,
)

if TYPE_CHECKING:
    from chiasm.alignment.alignment import AlignmentChoice, LearnedMap
    from chiasm.alignment.pairs import PairStatistics, Source
    from chiasm.evaluation.pairs import PairMetrics
    from chiasm.retrieval.scores import ScoreModel

HELD_OUT = 0.2  # share of the pairs, whole groups, that `align` measures itself on


@dataclass(frozen=True)
class Aligned:
    """How one modality was brought to the anchor."""

    method: str
    pairs: int  # learned from in the end
    held_out: int  # pairs of the measurement; whole groups (e.g. the same caption) are held out
    alpha: float  # weight of the source in the end; 1: nothing but the source was learned from
    blend: float  # share of the learned map; 0: the start was better, and stays
    source_pairs: int
    measured: str  # on what, in words


@dataclass(frozen=True)
class AlignReport:
    """The effect of an alignment on held-out pairs; `Aligned.measured` says on which."""

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
    source: Sources = None,
    alpha: float | Literal["auto"] = "auto",
    name: str = "aligned",
    where: str | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> AlignReport:
    """Learn from items that have several modalities, and make the result the newest space of the collection.

    A fifth of the groups is held out to measure before and after. The settings chosen without them then learn a map from
    all pairs. The probability that a score means is learned from the same pairs, each placed by a map that did not learn
    from it; `evaluate` measures by these, too.

    A collection with fewer than 10 pairs learns from the source alone, and is measured on pairs of the source, since it
    has none.

    Args:
        collection: the target.
        pairs: two modalities or more. Text is the anchor where it is among them; the others are moved to it.
        method: `"kernel"`, `"ridge"`, `"procrustes"`, `"cca"`, `"infonce"`, or `"none"` (the start stays, and only
            the meaning of scores is learned). Default: kernel, or ridge where the source is a file of statistics.
        source: a collection with such pairs, or a file written by `statistics`, to learn from as well, or several of one of
            these, each of which counts by its size; or the folder of a
            space that another collection learned (`COLLECTION/spaces/NAME`), whose maps are taken as they are.
        alpha: weight of the source from 0 to 1, or `"auto"`.
        name: of the new space; one of that name is replaced, and kept (`revert`).
        where: learn only from items that meet this condition.
        seed: of the held-out groups, and of methods that draw.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        SpaceError: fewer than 10 pairs and no source, a source of other encoders, or there is no such method.
    """
    from chiasm.verbs.scoring import CrossFitted, fit_scores

    name = one_form(name)
    if name == START:
        raise SpaceError(f"{START!r} is the name of the space that nothing was learned in; choose another")
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    start = start_of(opened, networks)
    wanted = _pairs_with_anchor(pairs)
    sources = each_source(source)
    if sources and len(wanted) > 1:
        raise SpaceError("a source goes with two modalities. Align one after the other, or leave it out")
    plan = _Plan(opened, start, method, sources, alpha, where, seed, device)
    results = [_with_taught(plan.learn(one), opened, networks) for one in wanted]
    space = start.with_maps(name, {one.moved: one.map for one in results if one.map is not None}, about={})
    gallery = placed_vectors(opened, space)
    crossed = [CrossFitted(one.taught, one.crossed, one.elsewhere) for one in results if one.taught is not None]
    scores = fit_scores(opened, space, gallery, networks, learned=crossed, seed=seed)
    report = AlignReport(
        space=name,
        aligned={one.moved: one.report for one in results},
        before=_joined(one.numbers["before"] for one in results),
        after=_joined(one.numbers["after"] for one in results),
        gain=_joined(one.numbers["gain"] for one in results),
        geometry={one.moved: one.numbers["geometry"] for one in results},
        scores=_summarise(scores),
    )
    space = replace(space, about=report.as_dict())
    opened.require_current()
    left_out = {one.moved: one.left_out for one in results}
    collected = np.array([owner_number(item) for item in opened.ids()], dtype=np.int64)
    save_space(folder_of(opened, name), SavedSpace(space, scores, left_out, collected=collected))
    drop_replaced(opened)
    return report


def _with_taught(one: _Learned, collection: Collection, networks: Sequence[Encoder]) -> _Learned:
    """Return a result that says how many of its pairs the encoder itself has learned from."""
    if one.taught is None or one.elsewhere:
        return one
    taught = taught_by(collection, networks, list(dict.fromkeys(one.taught.items)))
    return replace(one, report=replace(one.report, measured=one.report.measured + taught))


def statistics(
    collection: str | Path,
    *,
    out: str | Path,
    pairs: tuple[Modality, Modality] = ("image", "text"),
    label: str | None = None,
    modalities: Sequence[Modality] | None = None,
    where: str | None = None,
    device: Device = "auto",
) -> int:
    """Write what `align` or, with a label, `fit` need of this collection as a source: sums and matrices, not the items.

    Of 13 pairs and more, also the settings of the map that they teach by themselves, and how that did on held-out pairs:
    a collection without pairs learns from the file alone. Sums of few items tell much of each (docs/privacy.md).

    Args:
        collection: the source.
        out: the file to write, by convention ending in `.safetensors`.
        pairs: the two modalities.
        label: a column of classes, whose items are summed up instead of pairs.
        modalities: of the label, what its items are embedded by; those that lack one are left out. Default: all.
        where: only items that meet this condition.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Returns:
        The number of pairs, or of items.

    Raises:
        SpaceError: no item has both modalities, or the file cannot be written.
        LabelError: there is no such column of classes, or there are modalities without a label.
    """
    if label is not None:
        from chiasm.verbs.pooled import label_statistics

        party = label_statistics(collection, label, modalities=modalities, where=where, device=device)
        party.save(out)
        return party.sums.sums.count
    if modalities is not None:
        raise LabelError("modalities go with a label: pairs name theirs themselves. Leave them out, or name the label")
    from chiasm.alignment.alignment import MIN_PAIRS
    from chiasm.alignment.pairs import PairStatistics

    opened = Collection.open(collection)
    start = start_of(opened, encoders.resolve(opened.encoder, device=device))
    data = pairs_of(opened, start, pairs, where=where)
    sums = PairStatistics.from_pairs(data.features, data.anchors)
    about = _provenance(start, data.moved, data.anchor)
    if len(data.items) * (1 - HELD_OUT) >= MIN_PAIRS and len(set(data.groups.tolist())) > 1:
        learned = _learn_pairs(data, None, "ridge", "auto", 0)
        assert learned.choice is not None
        about["learned"] = json.dumps(
            {"choice": asdict(learned.choice), "numbers": learned.numbers, "held_out": learned.report.held_out},
            allow_nan=False,
        )
    sums.save(out, about)
    return sums.count


@dataclass(frozen=True, eq=False)
class _Learned:
    """One modality brought to the anchor."""

    moved: Modality
    map: LearnedMap | None  # None: the start stays
    report: Aligned
    numbers: dict[str, Any]  # "before", "after", "gain" and "geometry" for the report
    left_out: LeftOut
    taught: Pairs | None = None  # that it was learned from, or that it was measured on as if it had not been
    crossed: Float[np.ndarray, "pairs dim"] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """Of its pairs, each by a map that did not learn from its group."""
    choice: AlignmentChoice | None = None
    elsewhere: bool = False  # whether the pairs are of the source


@dataclass(frozen=True, eq=False)
class _Source:
    """Pairs of another domain, sums of them, or a space that was learned from such: one of the three."""

    name: str
    pairs: Pairs | None = None
    sums: PairStatistics | None = None
    learned: Mapping[str, Any] | None = None  # of sums: the settings and numbers that `statistics` found
    saved: SavedSpace | None = None

    @property
    def what(self) -> Source | None:
        return self.sums if self.pairs is None else self.pairs.arrays


@dataclass(frozen=True, eq=False)
class _Plan:
    """The request to `align`, the same for each modality that is moved."""

    collection: Collection
    start: Space
    method: str | None
    sources: tuple[str | Path, ...]
    alpha: float | Literal["auto"]
    where: str | None
    seed: int
    device: Device

    def learn(self, pair: tuple[Modality, Modality]) -> _Learned:
        """Learn from the collection, with the source where there is one, or from the source alone."""
        from chiasm.alignment.alignment import MIN_PAIRS

        moved, anchor = sides_of(self.start, pair)
        try:
            data = pairs_of(self.collection, self.start, pair, where=self.where)
        except NoPairsError:
            if not self.sources:
                raise
            data = None
        count = 0 if data is None else len(data.items)
        if not self.sources:
            assert data is not None  # or there would have been an error
            return _learn_pairs(data, None, self.method, self.alpha, self.seed)
        if self.method == "none":
            raise SpaceError(
                "the method 'none' learns no map, so there is nothing to learn from a source. Leave it out"
            )
        source = _load_sources(self.sources, self.start, moved, anchor, self.device)
        if source.saved is not None:
            return self._taken(source.name, source.saved, moved, data)
        if data is None or count < MIN_PAIRS:
            return self._from_source_alone(source, moved, f"{count or 'no'} pairs of {moved} and {anchor}")
        return _learn_pairs(data, source, self.method, self.alpha, self.seed)

    def _from_source_alone(self, source: _Source, moved: Modality, here: str) -> _Learned:
        if self.alpha not in ("auto", 1):
            raise SpaceError(
                f"alpha={self.alpha} weighs the source against pairs of {self.collection.path}, which has {here}. Leave it out"
            )
        nothing = f"nothing could be measured in {self.collection.path.name}, which has {here}"
        if source.pairs is not None:
            learned = _learn_pairs(source.pairs, None, self.method, "auto", self.seed)
            words = f"{learned.report.held_out} held-out pairs of the source {source.name}; {nothing}"
            report = replace(learned.report, pairs=0, source_pairs=len(source.pairs.items), alpha=1.0, measured=words)
            others = frozenset(source.pairs.moved_hashes)
            return replace(learned, elsewhere=True, report=report, left_out=replace(learned.left_out, others=others))
        assert source.sums is not None
        if self.method not in (None, "ridge"):
            raise SpaceError(
                f"of statistics alone only ridge can be learned, not {self.method}. Give the source as a collection"
            )
        if source.learned is None:
            raise SpaceError(
                f"{source.name} holds statistics of {source.sums.count} pairs, too few to learn from alone or of several files, and "
                f"{self.collection.path} has {here}. Name one source with more, or collections"
            )
        return _of_sums(source, source.sums, source.learned, moved, nothing)

    def _taken(self, name: str, saved: SavedSpace, moved: Modality, data: Pairs | None) -> _Learned:
        """Take the map that another space has learned as it is."""
        if moved not in saved.space.maps:
            raise SpaceError(
                f"the space {name} has learned no map of {moved}. It has: {', '.join(saved.space.maps) or 'none'}"
            )
        about = dict(saved.space.about["aligned"][moved])
        numbers = {
            "before": saved.space.about["before"], "after": saved.space.about["after"], "gain": saved.space.about["gain"],
            "geometry": saved.space.about["geometry"][moved],
        }  # fmt: skip
        learned_map = saved.space.maps[moved]
        measured = f"{about['measured']}, where the space was learned"
        left_out = saved.left_out.get(moved, LeftOut((), np.zeros((0, saved.space.dim), np.float32)))
        held_out = int(about["held_out"])
        own, crossed = None, np.zeros((0, saved.space.dim), np.float32)
        if data is not None:
            from chiasm.alignment.alignment import MIN_PAIRS

            fair = fair_pairs(data, replace(saved, left_out={moved: left_out}))
            if len(fair.rows) >= MIN_PAIRS:
                numbers = _numbers(*fair.measure(data, seed=self.seed))
                held_out, measured = len(fair.rows), f"{fair.words} of {self.collection.path.name}"
                own, crossed = (data, fair.placed) if len(fair.rows) == len(data.items) else (None, crossed)
        report = Aligned(
            str(about["method"]),
            0,
            held_out,
            1.0,
            learned_map.blend,
            int(about["pairs"]) + int(about["source_pairs"]),
            measured,
        )
        return _Learned(moved, learned_map, report, numbers, left_out, own, crossed)


def _learn_pairs(
    data: Pairs, source: _Source | None, method: str | None, alpha: float | Literal["auto"], seed: int
) -> _Learned:
    """Choose the settings without the held-out pairs, measure on these, and learn from all."""
    from chiasm.alignment.alignment import MIN_PAIRS
    from chiasm.alignment.closed_form import make_alignment

    if len(data.items) < MIN_PAIRS:
        raise SpaceError(
            f"alignment needs at least {MIN_PAIRS} pairs; got {len(data.items)} of {data.moved} and {data.anchor}. Add pairs, "
            "name a source that has them, or use the space as it is"
        )
    split = holdout_split(HELD_OUT, groups=data.groups, seed=seed)
    before = measure_pairs(data, data.start[split.test], split.test, seed=seed)
    words = f"{len(split.test)} held-out pairs"
    if method == "none":
        report = Aligned("none", len(data.items), len(split.test), 0.0, 0.0, 0, words)
        left_out = _left_out(
            data, data.start
        )  # the map has not learned from these pairs, but what scores are worth has
        return _Learned(data.moved, None, report, _numbers(before, before), left_out, data, data.start)
    other = None if source is None else source.what
    if method is None:
        method = "ridge" if source is not None and source.sums is not None else "kernel"
    alignment = make_alignment(method, alpha=alpha, seed=seed)
    trial = alignment.fit(data.arrays.take(split.train), other)
    placed = trial.transform(data.features[split.test], data.start[split.test])
    after = measure_pairs(data, placed, split.test, seed=seed)
    # The settings that were measured are those that stay: choosing them anew on all pairs would cost as much again.
    final = alignment.fit(data.arrays, other, choice=trial.choice)
    count = 0 if other is None else other.count
    report = Aligned(method, len(data.items), len(split.test), final.choice.alpha, final.choice.blend, count, words)
    crossed = final.cross_fitted
    others = frozenset() if source is None or source.pairs is None else frozenset(source.pairs.moved_hashes)
    left_out = replace(_left_out(data, crossed), others=others)
    return _Learned(data.moved, final.map, report, _numbers(before, after), left_out, data, crossed, final.choice)


def _left_out(data: Pairs, placed: Float[np.ndarray, "pairs dim"]) -> LeftOut:
    """Return where each content was placed without its group; all pairs of one are of one group."""
    first = {content: row for row, content in reversed(list(enumerate(data.moved_hashes)))}
    return LeftOut(tuple(first), placed[[*first.values()]].astype(np.float32))


def _of_sums(
    source: _Source, sums: PairStatistics, learned: Mapping[str, Any], moved: Modality, nothing: str
) -> _Learned:
    """Learn a map from sums alone, with the settings that they were found to be best with."""
    from chiasm.alignment.alignment import LearnedMap
    from chiasm.alignment.closed_form import ridge_of

    try:
        strength, blend = float(learned["choice"]["strength"]), float(learned["choice"]["blend"])
        numbers = {name: dict(learned["numbers"][name]) for name in ("before", "after", "gain", "geometry")}
        held_out = int(learned["held_out"])
        weight, bias = ridge_of(sums.moments, strength)
    except DAMAGE as error:
        raise SpaceError(
            f"{source.name} is damaged ({type(error).__name__}: {error}). Write it again: chiasm statistics"
        ) from error
    one = LearnedMap(weight.astype(np.float32), bias.astype(np.float32), blend)
    words = f"{held_out} pairs that the source {source.name} held out; {nothing}"
    report = Aligned("ridge", 0, held_out, 1.0, blend, sums.count, words)
    return _Learned(moved, one, report, numbers, LeftOut((), np.zeros((0, len(bias)), np.float32)))


def _numbers(before: PairMetrics, after: PairMetrics) -> dict[str, Any]:
    return {
        "before": before.retrieval.as_dict(),
        "after": after.retrieval.as_dict(),
        "gain": after.gain(before),
        "geometry": {"before": before.geometry.as_dict(), "after": after.geometry.as_dict()},
    }


def _joined(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}


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


def _load_sources(
    sources: Sequence[str | Path], space: Space, moved: Modality, anchor: Modality, device: Device
) -> _Source:
    """Return one source, or several as one.

    Raises:
        SpaceError: see `_load_source`; or several are not all collections or all statistics.
    """
    loaded = [_load_source(one, space, moved, anchor, device) for one in sources]
    if len(loaded) == 1:
        return loaded[0]
    name = " and ".join(one.name for one in loaded)
    pairs, sums = ([getattr(one, kind) for one in loaded] for kind in ("pairs", "sums"))
    if None not in pairs:
        return _Source(name, pairs=Pairs.joined(pairs))
    if None not in sums:
        return _Source(name, sums=reduce(operator.add, sums))
    raise SpaceError(f"several sources are all collections, or all files of statistics; got {name}")


def _load_source(source: str | Path, space: Space, moved: Modality, anchor: Modality, device: Device) -> _Source:
    """Return the pairs of a collection, the statistics in a file, or a space.

    Raises:
        SpaceError: it is none of these, or was embedded otherwise than the target.
    """
    from chiasm.alignment.pairs import PairStatistics

    path = Path(source).expanduser()
    if (path / "space.json").is_file():
        saved = load_space(path)
        for modality in (moved, anchor):
            if modality not in saved.space.modalities:
                raise SpaceError(f"the space {path} has {', '.join(saved.space.modalities)}, not {modality}")
        result, theirs = _Source(str(source), saved=saved), _provenance(saved.space, moved, anchor)
    elif path.is_dir():
        opened = Collection.open(path)
        start = start_of(opened, encoders.resolve(opened.encoder, device=device))
        theirs = _provenance(start, moved, anchor)
        result = _Source(str(source), pairs=pairs_of(opened, start, (moved, anchor)))
    else:
        sums, theirs = PairStatistics.load(path)
        if "label" in theirs:
            raise SpaceError(
                f"{source} has statistics of labels ({theirs['label']}), for fit. Write those of pairs: no --label"
            )
        learned = theirs.pop("learned", None)
        result = _Source(str(source), sums=sums, learned=None if learned is None else _parsed(learned, path))
    ours = _provenance(space, moved, anchor)
    if theirs != ours:
        differing = ", ".join(
            f"{key}: {theirs.get(key)} there, {ours[key]} here" for key in ours if theirs.get(key) != ours[key]
        )
        raise SpaceError(f"the source {source} was embedded otherwise than the target ({differing})")
    return result


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except DAMAGE as error:
        raise SpaceError(f"{path} is damaged ({error}). Write it again: chiasm statistics") from error
