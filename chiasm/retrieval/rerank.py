"""Reranking by a cross-encoder: a network that reads the query and one candidate together.

Models are sentence-transformers cross-encoders, by hub id or as a folder: of texts, or of texts and images where the
model takes both. Nothing but this module knows how they are called; the library is imported when a model is loaded.
Which candidates there are, and opening their files, is left to the caller. Code that comes with a model is never run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int

from chiasm._optional import require
from chiasm.errors import EncoderError, SpaceError
from chiasm.hub import model_folder
from chiasm.types import Audio, Image, Media, Modality, Text, Video

CANDIDATES = 100  # read at the most: each costs a run of the network
CHARACTERS = 20_000  # of a text that are read; the network itself cuts it much shorter
BATCH = 32

_EXAMPLES = (
    "a sentence-transformers CrossEncoder: a local folder, or an id such as 'cross-encoder/ms-marco-MiniLM-L6-v2'"
)
_PAIRS = ("SequenceClassification", "CausalLM", "ConditionalGeneration", "ImageTextToText")  # read pairs as they are


@dataclass(frozen=True, eq=False)
class Reranked:
    """The candidates in their new order."""

    order: Int[np.ndarray, " candidates"]  # places before reranking, by the new place
    scores: Float64[
        np.ndarray, " candidates"
    ]  # of the model, by the new place; NaN where it did not read the candidate


class Reranker:
    """A cross-encoder.

    Args:
        name_or_folder: hub id, e.g. `"cross-encoder/ms-marco-MiniLM-L6-v2"`, or a local folder.
        device: `"auto"` takes a GPU where there is one.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        EncoderError: there is no such model, the hub cannot be reached, it is damaged, needs code of its own, or does not score pairs.
    """

    def __init__(self, name_or_folder: str, *, device: Literal["auto", "cpu", "cuda"] = "auto") -> None:
        self.name = name_or_folder
        if importlib.util.find_spec("sentence_transformers") is None:  # importing it takes seconds
            require("sentence_transformers", "huggingface", "rerank hits")
        folder = model_folder(name_or_folder, examples=_EXAMPLES)
        import sentence_transformers

        try:
            self._model: Any = sentence_transformers.CrossEncoder(
                str(folder),
                device=None if device == "auto" else device,
                trust_remote_code=False,
                local_files_only=True,
            )
        except Exception as error:  # files and settings fail in the words of several libraries
            reason = str(error).strip().splitlines()
            raise EncoderError(
                f"{self.name!r} cannot be loaded as a reranker ({type(error).__name__}: {reason[0] if reason else ''}). "
                f"Give {_EXAMPLES}"
            ) from error
        config = getattr(getattr(self._model[0], "model", None), "config", None)
        classes = getattr(config, "architectures", None) or ()
        if classes and not any(name.endswith(_PAIRS) for name in classes):
            raise EncoderError(
                f"{self.name!r} is a {classes[0]}, which was not trained to score pairs: its scores would be random. "
                "Give a cross-encoder such as 'cross-encoder/ms-marco-MiniLM-L6-v2'"
            )
        if self._model.num_labels != 1:
            raise EncoderError(
                f"{self.name!r} gives {self._model.num_labels} scores a pair; a reranker gives one. Give a cross-encoder "
                "trained for relevance"
            )

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Return the modalities that it reads, of queries and of candidates."""
        kinds: tuple[Modality, ...] = ("image", "text", "audio", "video")
        return tuple(kind for kind in kinds if self._model.supports(kind))

    def lengths(self, text: Text) -> tuple[int, int | None]:
        """Return the tokens of a text, and how many the model takes of a pair; 0 and None where it does not say."""
        tokenizer, limit = getattr(self._model, "tokenizer", None), getattr(self._model, "max_seq_length", None)
        if tokenizer is None or limit is None:
            return 0, None
        return len(tokenizer(text.text, truncation=False, verbose=False)["input_ids"]), int(limit)

    def rerank(
        self,
        query: Media,
        candidates: Sequence[Media | None],
        *,
        limit: int = CANDIDATES,
        batch_size: int = BATCH,
    ) -> Reranked:
        """Order candidates by the model's scores. Of equal scores the earlier candidate stays earlier.

        A candidate that the model cannot read, since it is None or of another modality, keeps its place: the others
        are ordered among the places that they hold. So do those beyond the limit, all behind the others.

        Args:
            query: what is looked for.
            candidates: best first, each as something that the model reads, e.g. its text or transcript.
            limit: how many of the first candidates are read.
            batch_size: pairs a run.

        Raises:
            SpaceError: the model does not read the query's modality.
            EncoderError: the model fails, or gives scores that are not finite.
            ValueError: a limit or batch size below 1.
        """
        if limit < 1 or batch_size < 1:
            raise ValueError(f"limit and batch_size must be at least 1; got {limit} and {batch_size}")
        reads = self.modalities
        if query.modality not in reads:
            raise SpaceError(
                f"the reranker {self.name!r} reads {', '.join(reads)} and the query is {query.modality}. Search without "
                "it, or with one that reads both"
            )
        read = np.array(
            [place for place, one in enumerate(candidates[:limit]) if one is not None and one.modality in reads],
            dtype=np.int64,
        )
        asked = _as_input(query)
        of_read = self._scores([(asked, _as_input(candidates[place])) for place in read.tolist()], batch_size)
        order = np.arange(len(candidates))
        order[read] = read[np.argsort(-of_read, kind="stable")]
        scores = np.full(len(candidates), np.nan)
        scores[read] = of_read
        return Reranked(order, scores[order])

    def _scores(self, pairs: list[tuple[Any, Any]], batch_size: int) -> Float64[np.ndarray, " pairs"]:
        if not pairs:
            return np.zeros(0)
        try:
            scores = self._model.predict(pairs, batch_size=batch_size, show_progress_bar=False)
        except Exception as error:  # a network may raise anything
            raise EncoderError(f"the reranker {self.name!r} failed: {type(error).__name__}: {error}") from error
        checked: Float64[np.ndarray, " pairs"] = np.asarray(scores, dtype=np.float64)
        if checked.shape != (len(pairs),) or not np.isfinite(checked).all():
            raise EncoderError(f"the reranker {self.name!r} gave scores that are not finite numbers, one a pair")
        return checked


def _as_input(medium: Media | None) -> Any:
    """Convert a medium to what sentence-transformers takes."""
    match medium:
        case Text():
            return medium.text[:CHARACTERS]
        case Image():
            from PIL import Image as Pillow

            return Pillow.fromarray(medium.pixels)
        case Audio():
            return {"array": medium.waveform, "sampling_rate": medium.rate}
        case Video():
            rate = len(medium.frames) / medium.duration if medium.duration else None
            return {"array": medium.frames, "video_metadata": {"fps": rate, "total_num_frames": len(medium.frames)}}
    raise AssertionError("only what can be read comes here")
