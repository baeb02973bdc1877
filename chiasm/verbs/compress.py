"""The verb `compress`: a smaller and faster network in the place of an encoder's, that embeds the user's items nearly alike.

What can be taken out of a network is left to `chiasm.finetuning.pruning`, how the rest learns from the whole network to
`chiasm.finetuning.distillation`.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from chiasm import encoders
from chiasm._optional import require
from chiasm.cores import limit_threads
from chiasm.encoders.base import Encoder, first_of
from chiasm.encoders.runtime import Device
from chiasm.encoders.tuned import Part, open_part, write_tuned
from chiasm.errors import EncoderError, LabelError
from chiasm.evaluation.intervals import bootstrap_error
from chiasm.evaluation.metrics import classification_metrics
from chiasm.evaluation.record import Record
from chiasm.files import one_form, whole_folder
from chiasm.finetuning.recipe import Recipe
from chiasm.recognition.linear_probe import LinearProbe
from chiasm.splits import Split, class_name, holdout_split, near_duplicate_groups
from chiasm.store.collection import Collection
from chiasm.store.reembed import items_of
from chiasm.types import Media, Modality
from chiasm.vectors import unit_rows
from chiasm.verbs.climb import base_of, begin_work, open_medium
from chiasm.verbs.dataset import MOST_FOR_DUPLICATES, cell_value

if TYPE_CHECKING:
    from chiasm.finetuning.pruning import Cuts

FEWEST = 40  # items
MOST = 20.0  # times as fast that can be asked for
_HELD = 0.2  # share of the items that the result is judged by
_TOGETHER = 64  # media that are open at a time
_TIMED, _TURNS = 32, 5  # media, and how often the clock runs over them
_SEEN: tuple[Modality, ...] = (
    "image",
    "text",
    "audio",
)  # networks of these can be made smaller; the first is the default
_ALIKE = 0.97  # cosine from which items count as near-duplicates
_RATE = 1e-4  # higher ones undo the refit of channels, and an epoch does not make up for it


@dataclass(frozen=True)
class CompressedForm(Record):
    """One form of a network, measured on items that were held out of the distillation."""

    name: str
    megabytes: float | None  # of its graph; None where it has none that could leave
    speed: float  # times as many items as the whole network, by the processor's time
    cosine: float  # mean over the items, to the whole network's vectors
    lowest: float  # of these cosines
    f1_macro: float | None = None  # of a linear probe; None without a label


@dataclass(frozen=True)
class CompressReport(Record):
    """The encoder that was written, and how it compares."""

    encoder: str  # the folder
    base: str
    modality: Modality
    parameters: tuple[int | None, int | None]  # of the network before and after
    items: int  # that were learned from
    held_out: int  # that all forms are judged by
    left_out: int  # whose file could not be opened
    forms: tuple[CompressedForm, ...]  # the whole network, it in int8, the smaller one, that in int8
    standard_error: float | None  # of the whole network's macro-F1
    seconds: float
    history: tuple[Mapping[str, float], ...]  # the losses, by epoch

    @property
    def small(self) -> CompressedForm:
        """The form that was written."""
        return next(form for form in self.forms if form.name == "compressed")


@limit_threads()
def compress(
    encoder: str,
    *,
    to: str | Path,
    on: str | Path,
    speedup: float = 2.0,
    modality: Modality | None = None,
    label: str | None = None,
    where: str | None = None,
    cosine: float = 0.9,
    keep: bool = False,
    epochs: int = 5,
    views: int = 2,
    seed: int = 0,
    device: Device = "auto",
    on_message: Callable[[str], None] = lambda _: None,
) -> CompressReport:
    """Write an encoder with a smaller network in the place of one of its networks, so many times as fast.

    Channels are taken out of the offline encoder's network of pictures, layers out of transformers: those that the items miss least,
    as few as the speed allows. The speed is measured, in turns with the whole network, before anything is trained. The small
    network then learns to give the whole one's embeddings of the items, without labels. A fifth of the items, whole groups of
    near-duplicates, is held out of all that; by them both are judged, and both in int8 beside them.

    Args:
        encoder: its name, as for `add`.
        to: folder to write, which does not exist yet; it is an encoder that every verb takes.
        on: the collection whose items it learns from, embedded by any encoder.
        speedup: how many times as fast it must be, on one core of a CPU.
        modality: whose network is made smaller. Default: pictures, else texts, else sounds, by what the items have.
        label: column of classes; a linear probe on the embeddings is then judged as well.
        where: only items that meet this condition.
        cosine: the least mean cosine between the embeddings of held-out items by both networks.
        keep: write the encoder even if its embeddings are further away or worse than was asked.
        epochs: passes over the items.
        views: changed copies of every item that it learns from as well.
        seed: of everything that is drawn.
        device: where it is trained: `"auto"`, `"cpu"` or `"cuda"`.
        on_message: called with each line for people.

    Raises:
        EncoderError: nothing can be taken out of the network, it runs in int8, the folder exists, there are too few such items; or
            the result is too slow, its embeddings are too far from those of the whole network, or the probe on them loses a
            standard error of macro-F1 or more. Then nothing is written, and asked again with `keep` it is without training again.
        LabelError: no such column, or it has no two classes.
        ChiasmError: an option is out of its range, the loss is no longer finite, or memory is too small.
        MissingExtraError: PyTorch and its libraries are not installed.
    """
    recipe = Recipe(
        method="full", epochs=epochs, views=views, seed=seed, batch_size=16, rate=_RATE, weight_decay=0.0, patience=0
    )
    folder = Path(to).expanduser()
    _check_request(encoder, folder, speedup, cosine)
    for library in ("torch", "transformers", "accelerate", "sentence_transformers"):
        require(library, "train", "train a smaller network")
    opened = Collection.open(on)
    networks = encoders.resolve(encoder, device=device)
    chosen = _modality(opened, encoder, networks, modality, where)
    request = _Request(opened, encoder, networks, chosen, recipe, folder, speedup, where, device, on_message)
    begin = time.monotonic()
    report = replace(request.run(label), seconds=time.monotonic() - begin)
    refusal = _refusal(report, speedup, cosine)
    if refusal and not keep:
        raise EncoderError(
            f"nothing was written, since {refusal}. {_in_words(report)}. Ask for less, or write it anyway (--keep)"
        )
    request.write(report)
    return report


def _check_request(encoder: str, folder: Path, speedup: float, cosine: float) -> None:
    """Refuse what needs no look at networks or items."""
    if not 1 < speedup <= MOST:
        raise EncoderError(f"the speed-up must be above 1 and at most {MOST:g} times; got {speedup:g}")
    if not 0 <= cosine < 1:
        raise EncoderError(f"the least mean cosine lies from 0 to below 1; got {cosine:g}")
    if folder.exists():
        raise EncoderError(
            f"{folder} exists. An encoder is not replaced, since collections are embedded by it: name a new folder"
        )
    if encoders.uses_int8(encoder):
        raise EncoderError(
            f"{encoder!r} runs in 8-bit integers, which cannot be trained. Name it without int8; what is written runs in int8 as "
            f"{folder},int8"
        )


def _modality(
    collection: Collection, name: str, networks: Sequence[Encoder], asked: Modality | None, where: str | None
) -> Modality:
    """Return the modality whose network is made smaller."""
    owner = first_of(networks)
    present = [one for one in _SEEN if any(row[one] for row in collection.items(where=where))]
    if asked is not None and asked not in owner:
        raise EncoderError(f"the encoder {name!r} has {', '.join(owner)}, not {asked}")
    usable = [one for one in ([asked] if asked else _SEEN) if one in present and one in owner]
    if not usable:
        wanted = asked or ", ".join(one for one in _SEEN if one in owner) or "nothing that can be made smaller"
        raise EncoderError(
            f"{collection.path} has no items for it to learn from: they have {', '.join(present) or 'no files'}, and the network "
            f"takes {wanted}. Name another collection (on) or modality"
        )
    return usable[0]


@dataclass(frozen=True, eq=False)
class _Request:
    """A network to be made smaller; see `compress`."""

    collection: Collection
    name: str
    networks: Sequence[Encoder]
    modality: Modality
    recipe: Recipe
    folder: Path
    speedup: float
    where: str | None
    device: Device
    say: Callable[[str], None]

    @property
    def work(self) -> Path:
        """The folder for what a run that is stopped goes on with."""
        return self.folder.with_name(f"{self.folder.name}.compressing")

    @property
    def whole(self) -> Encoder:
        """The encoder as it is."""
        return first_of(self.networks)[self.modality]

    @cached_property
    def rows(self) -> list[Mapping[str, Any]]:
        """The items with the modality."""
        return [row for row in self.collection.items(where=self.where) if row[self.modality]]

    def open(self, some: Sequence[int] | Int[np.ndarray, " some"]) -> Iterator[list[Media]]:
        """Yield the media of items, by their number, some at a time."""
        for at in range(0, len(some), _TOGETHER):
            yield [self.openers[item]() for item in some[at : at + _TOGETHER]]

    @cached_property
    def openers(self) -> list[Callable[[], Media]]:
        """Functions that open the media of the items."""
        items = items_of(self.collection)
        return [partial(open_medium, items[str(row["id"])], self.modality, self.whole) for row in self.rows]

    def vectors(self, encoder: Encoder, some: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some dim"]:
        """Return the unit vectors of items that can be opened."""
        return unit_rows(np.concatenate([encoder.encode(media).vectors for media in self.open(some)]))

    def run(self, label: str | None) -> CompressReport:
        """Take out, train and measure."""
        from chiasm.finetuning.distillation import distil
        from chiasm.finetuning.towers import EVERY, tower_of

        if len(self.rows) < FEWEST:
            raise EncoderError(
                f"{self.collection.path} has {len(self.rows)} items with {self.modality}, and {FEWEST} are the least that a smaller network "
                "learns from. Name a collection of more (on)"
            )
        labels = None if label is None else self._labels(label)
        contents = [str(self.rows), self.whole.fingerprint, self.modality, self.speedup, asdict(self.recipe)]
        begin_work(self.work, contents, self.say)
        usable, vectors = self._embedded()
        split = self._split(vectors)
        learned, held = usable[split.train], usable[split.test]
        cut = self.work / "cut"
        if not cut.exists():
            self._cut(learned, held, cut)
        tower = tower_of(self._open(cut), self.modality, EVERY)
        self.say(f"{len(learned)} items to learn from, {self.recipe.epochs} epochs")
        openers = [self.openers[item] for item in learned]
        history = distil(tower, self.whole, openers, self.recipe, self.work, device=self.device, say=self.say)
        shutil.rmtree(self.work / "small", ignore_errors=True)
        with whole_folder(self.work / "small") as draft:
            tower.save(draft)
        forms, error = self._judge(vectors, usable, split, None if labels is None else labels[usable])
        whole, small = self.whole.models()[0], self._open(self.work / "small").models()[0]
        return CompressReport(
            encoder=str(self.folder),
            base=self.name,
            modality=self.modality,
            parameters=(whole.parameters, small.parameters),
            items=len(learned),
            held_out=len(held),
            left_out=len(self.rows) - len(usable),
            forms=forms,
            standard_error=error,
            seconds=0.0,
            history=tuple(history),
        )

    def _labels(self, label: str) -> np.ndarray:
        column, columns = one_form(label), self.collection.columns()
        if column not in columns:
            raise LabelError(
                f"{self.collection.path} has no column {column!r}. Its columns: {', '.join(columns) or 'none'}"
            )
        cells = [cell_value(row[column]) for row in self.rows]
        labels = np.array(["" if one is None else class_name(one) for one in cells], dtype=object)
        if len({*labels} - {""}) < 2:
            raise LabelError(
                f"{column!r} has no two classes among the items with {self.modality}: name another column, or none"
            )
        return labels

    def _embedded(self) -> tuple[Int[np.ndarray, " usable"], Float[np.ndarray, "usable dim"]]:
        """Return the items that can be opened, and their unit vectors by the whole network."""
        from chiasm.finetuning.views import opened

        usable, vectors = list[int](), []
        for numbers, media in opened(self.openers):
            vectors.append(self.whole.encode(media).vectors)
            usable += numbers
        if len(usable) < FEWEST:
            raise EncoderError(
                f"only {len(usable)} of {len(self.rows)} files can be opened, and {FEWEST} are the least that a smaller network learns "
                "from. Bring them back to where they were added from"
            )
        return np.array(usable), unit_rows(np.concatenate(vectors))

    def _split(self, vectors: Float[np.ndarray, "usable dim"]) -> Split:
        groups = np.arange(len(vectors))
        if len(vectors) <= MOST_FOR_DUPLICATES:
            groups = near_duplicate_groups(vectors, threshold=_ALIKE)
        try:
            return holdout_split(_HELD, groups=groups, seed=self.recipe.seed)
        except LabelError as error:
            raise EncoderError(
                f"the {len(vectors)} items are near-duplicates of one another, as the network sees them, so that none can be held out "
                "to judge by. Name a collection of more kinds of things (on)"
            ) from error

    # ------------------------------------------------------------------------------------------------------ the cutting

    def _cut(self, learned: Int[np.ndarray, " learned"], held: Int[np.ndarray, " held"], folder: Path) -> None:
        """Write the largest network that is fast enough."""
        from chiasm.finetuning.pruning import SAMPLE, cuts_of

        drawn = np.random.default_rng(self.recipe.seed).permutation(learned)[:SAMPLE]
        cuts = cuts_of(self.whole, self.modality, [medium for media in self.open(drawn) for medium in media])
        timed = [medium for media in self.open(held[:_TIMED]) for medium in media]
        low, high, speed = 0, cuts.levels + 1, 1.0  # too slow; fast enough
        level = round((1 - 1 / self.speedup) * high)  # the time is about proportional to what is left
        while high - low > 1:
            level = min(max(level, low + 1), high - 1)
            speed = self._speed_of(cuts, level, timed)
            self.say(f"{level} of {cuts.levels + 1} parts taken out: {speed:.2f} times as fast")
            low, high = (level, high) if speed < self.speedup else (low, level)
            level = (low + high) // 2
        if high > cuts.levels:
            raise EncoderError(
                f"{self.whole.name} does not become {self.speedup:g} times as fast: with the least that can be left of it, it is "
                f"{speed:.2f} times as fast. Ask for less (--speedup), or run it in int8"
            )
        with whole_folder(folder) as draft:
            cuts.write(high, draft)

    def _speed_of(self, cuts: Cuts, level: int, timed: Sequence[Media]) -> float:
        with tempfile.TemporaryDirectory() as name:
            cuts.write(level, Path(name))
            small = open_part(Path(name), cuts.kind, cuts.options, "cpu")
            return speeds({"whole": self._on_cpu, "small": small}, self.modality, timed)["small"]

    @cached_property
    def _on_cpu(self) -> Encoder:
        return self._named(self.name)

    def _named(self, name: str) -> Encoder:
        return first_of(encoders.resolve(name, device="cpu"))[self.modality]

    def _open(self, folder: Path, *, int8: bool = False) -> Encoder:
        kind, options = self._kind
        return open_part(folder, kind, options, "cpu", int8=int8)

    @cached_property
    def _kind(self) -> Any:
        from chiasm.finetuning.towers import tower_of

        tower = tower_of(self.whole, self.modality, None)
        return tower.kind, tower.options

    # ---------------------------------------------------------------------------------------------------- the judgement

    def _judge(
        self,
        vectors: Float[np.ndarray, "usable dim"],
        usable: Int[np.ndarray, " usable"],
        split: Split,
        labels: np.ndarray | None,
    ) -> tuple[tuple[CompressedForm, ...], float | None]:
        """Return all forms as held-out items see them, and the standard error of the whole network's macro-F1."""
        timed = [medium for media in self.open(usable[split.test][:_TIMED]) for medium in media]
        draft = self.work / "small"
        networks: dict[str, Encoder | None] = {
            "whole": self._on_cpu,
            "whole, int8": self._in_int8(lambda: self._named(f"{self.name},int8"), timed),
            "compressed": self._open(draft),
            "compressed, int8": self._in_int8(lambda: self._open(draft, int8=True), timed),
        }
        present = {name: one for name, one in networks.items() if one is not None}
        ratios = speeds(present, self.modality, timed)
        forms, error = [], None
        for name, network in present.items():
            own = self.vectors(network, usable if labels is not None else usable[split.test])
            there = own[split.test] if labels is not None else own
            cosines = (there * vectors[split.test]).sum(axis=1)
            score = None
            if labels is not None:
                true, said = _probed(own, labels, split)
                score = _f1_macro(true, said, np.arange(len(true)))
                if error is None:
                    error = bootstrap_error(partial(_f1_macro, true, said), len(true), seed=self.recipe.seed)
            forms.append(
                CompressedForm(
                    name, _megabytes(network), ratios[name], float(cosines.mean()), float(cosines.min()), score
                )
            )
        return tuple(forms), error

    def _in_int8(self, make: Callable[[], Encoder], media: Sequence[Media]) -> Encoder | None:
        """Return an encoder in int8; None where its network cannot be, or another one of the name is."""
        try:
            network = make()
            network.encode(media[:1])
        except EncoderError as error:
            self.say(str(error))
            return None
        return None if network.fingerprint == self.whole.fingerprint else network

    def write(self, report: CompressReport) -> None:
        """Write the encoder, and remove what the run has left."""
        base, parts = base_of(self.name)
        owner = first_of(self.networks)
        before = parts.get(self.modality)
        kind, options = self._kind
        about = {
            "base": base,
            "fingerprint_of_base": self.whole.fingerprint,
            "licence": self.whole.models()[0].licence,
            "learned_from": list(before.about.get("learned_from", ())) if before is not None else [],
            "recipe": asdict(self.recipe),
            "result": replace(report, history=()).as_dict(),
        }
        small = Part(kind, partial(shutil.copytree, self.work / "small", dirs_exist_ok=True), options, about)
        # A model that is written as a whole holds what was trained of it before.
        others = {one: part for one, part in parts.items() if owner[one].fingerprint != self.whole.fingerprint}
        write_tuned(self.folder, base, {**others, self.modality: small})
        shutil.rmtree(self.work)


def speeds(networks: Mapping[str, Encoder], modality: Modality, media: Sequence[Media]) -> dict[str, float]:
    """Return how many times as fast as the first each encoder is, by the processor's time, in turns, the median of all turns."""
    prepared = {name: [network.prepare(one) for one in media] for name, network in networks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for name, network in networks.items():
        network.encode_prepared(modality, prepared[name])  # networks are loaded
    for turn in range(_TURNS):
        for name in sorted(networks, reverse=bool(turn % 2)):
            begin = time.process_time()
            networks[name].encode_prepared(modality, prepared[name])
            seconds[name].append(time.process_time() - begin)
    first = np.array(next(iter(seconds.values())))
    return {name: float(np.median(first / np.array(own))) for name, own in seconds.items()}


def _megabytes(encoder: Encoder) -> float | None:
    try:
        return len(encoder.portable().graph) / 1e6
    except EncoderError:
        return None


def _probed(
    vectors: Float[np.ndarray, "usable dim"], labels: np.ndarray, split: Split
) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes of held-out items, and what a probe says that learned from the other items."""
    known = labels != ""
    train, test = split.train[known[split.train]], split.test[known[split.test]]
    if len({*labels[train]}) < 2 or not len(test):
        raise LabelError(
            "too few items have a class for a probe to learn from some and be judged by others: leave the label out"
        )
    probe = LinearProbe().fit(vectors[train], labels[train].astype(str))
    return labels[test].astype(str), probe.predict(vectors[test])


def _f1_macro(true: np.ndarray, said: np.ndarray, rows: Int[np.ndarray, " rows"]) -> float:
    return classification_metrics(true[rows], said[rows]).f1_macro


def _refusal(report: CompressReport, speedup: float, cosine: float) -> str:
    """Return why an encoder should not be used; empty if it may."""
    small, whole = report.small, report.forms[0]
    # The speed was reached when the network was cut; now it is measured again, beside the others.
    if small.speed < 0.95 * speedup:
        return f"it is {small.speed:.2f} times as fast, not {speedup:g}"
    if not small.cosine >= cosine:
        return f"the mean cosine to the whole network's embeddings is {small.cosine:.3f}, below {cosine:g}"
    if small.f1_macro is not None and whole.f1_macro is not None and report.standard_error is not None:
        loss = whole.f1_macro - small.f1_macro
        if loss > 0 and loss >= report.standard_error:
            return f"macro-F1 is lower by {loss:.3f}, a standard error ({report.standard_error:.3f}) or more"
    return ""


def _in_words(report: CompressReport) -> str:
    """Return what was measured in a sentence."""
    told = []
    for form in report.forms:
        score = "" if form.f1_macro is None else f", macro-F1 {form.f1_macro:.3f}"
        told.append(f"{form.name}: {form.speed:.2f} times as fast, cosine {form.cosine:.3f}{score}")
    return f"On {report.held_out} held-out items, {'; '.join(told)}"
