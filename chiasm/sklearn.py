"""Everything that follows scikit-learn's conventions, for pipelines, grid searches and cross-validation of one's own.

`Embedder` turns files and texts into rows; `Aligner` brings rows of one space into another; `LinearProbe`, `Prototypes` and
`ZeroShot` classify rows; `Recognizer` classifies items of several modalities, with `ModalityArrays` in the place of a matrix.
What they compute is in the modules that they come from; here is only what scikit-learn asks for beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from chiasm import encoders, media
from chiasm.alignment.alignment import LearnedMap
from chiasm.alignment.closed_form import make_alignment
from chiasm.alignment.pairs import PairArrays
from chiasm.encoders.base import first_of
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError, EncoderError, MediaError
from chiasm.recognition import ModalityArrays, Recognizer
from chiasm.recognition.few_shot import Prototypes, ZeroShot
from chiasm.recognition.linear_probe import LinearProbe
from chiasm.store.ingest import embed_media
from chiasm.types import Media, Modality, Text
from chiasm.vectors import Unchecked, unit_rows

__all__ = ["Aligner", "Embedder", "LinearProbe", "ModalityArrays", "Prototypes", "Recognizer", "ZeroShot"]


class Embedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # untyped
    """Turns texts, or files of one modality, into embeddings; nothing is learned by `fit`.

    Args:
        modality: of what comes: `"text"` takes strings, `"image"`, `"audio"` and `"video"` paths of files.
        encoder: `"offline"`, a hub id or a model folder, as for `chiasm.add`.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Attributes:
        fingerprint_: of the encoder, which tells whether two embeddings can be compared.

    Example:
        >>> from sklearn.pipeline import make_pipeline
        >>> kind = make_pipeline(Embedder("text"), LinearProbe(strengths=[0.1]))
        >>> _ = kind.fit(["a cat", "a dog", "a car", "a train"], ["pet", "pet", "ride", "ride"])
        >>> kind.predict(["a bus"]).tolist()
        ['ride']
    """

    fingerprint_: str

    def __init__(self, modality: Modality = "text", *, encoder: str = "offline", device: Device = "auto") -> None:
        self.modality = modality
        self.encoder = encoder
        self.device = device

    def fit(self, X: Sequence[Any] | Unchecked, y: Any = None) -> Embedder:  # noqa: ARG002  scikit-learn's signature
        """Open the encoder.

        Raises:
            EncoderError: there is none, or it does not take the modality.
        """
        by_modality = first_of(encoders.resolve(self.encoder, device=self.device))
        if self.modality not in by_modality:
            raise EncoderError(f"the encoder {self.encoder!r} takes {', '.join(by_modality)}, not {self.modality!r}")
        self._network = by_modality[self.modality]
        self.fingerprint_ = self._network.fingerprint
        self._n_features_out = self._network.dim
        return self

    def transform(self, X: Sequence[Any] | Unchecked) -> Float[np.ndarray, "items dim"]:
        """Return an embedding a row.

        Raises:
            MediaError: a file or text cannot be used; says which.
        """
        check_is_fitted(self)
        if isinstance(X, str) or np.ndim(X) != 1:
            raise ChiasmError(
                f"expected a list of {'texts' if self.modality == 'text' else 'paths'}; got {type(X).__name__}"
            )
        things = [self._opened(row, thing) for row, thing in enumerate(X)]
        vectors, outcomes = embed_media([[thing] for thing in things], {self.modality: self._network})
        if outcomes:
            raise MediaError(outcomes[0].outcome, f"row {outcomes[0].path}: {outcomes[0].reason}")
        rows = np.empty((len(things), self._n_features_out), np.float32)
        if things:
            own = vectors[self.modality]
            rows[[int(name) for name in own.items]] = own.vectors
        return rows

    def _opened(self, row: int, thing: Any) -> Media:
        if self.modality == "text":
            if not isinstance(thing, str):
                raise ChiasmError(f"row {row}: expected a text; got {type(thing).__name__}")
            return Text(thing)
        view = self._network.view
        try:
            medium = media.load(
                Path(thing), image_size=view.image_size, rate=view.rate, frames=view.frames, fps=view.fps
            )
        except MediaError as error:
            raise MediaError(error.outcome, f"row {row}, {thing}: {error.reason}") from error
        if medium.modality != self.modality:
            raise ChiasmError(f"row {row}: {thing} holds {medium.modality}, and {self.modality} was expected")
        return medium

    def __getstate__(self) -> dict[str, Any]:
        """Leave the network out: a copy in another process opens its own."""
        return {name: value for name, value in super().__getstate__().items() if name != "_network"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "fingerprint_" in state:
            self.fit(None)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = False, True, True
        tags.requires_fit = False
        return tags


class Aligner(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # untyped
    """Learns from pairs to bring rows of one embedding space into another.

    Args:
        method: `"kernel"`, `"ridge"`, `"procrustes"`, `"cca"` or `"infonce"`, see `chiasm.alignment`.
        seed: of whatever the method draws.

    Attributes:
        map_: what was learned.
        n_features_in_: columns of X.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X, turn = rng.normal(size=(40, 6)), np.linalg.qr(rng.normal(size=(6, 6)))[0]
        >>> Y = unit_rows(X @ turn)
        >>> Z = Aligner("procrustes").fit(X, Y).transform(X)
        >>> bool((Z @ Y.T).argmax(axis=1).tolist() == list(range(40)))
        True
    """

    map_: LearnedMap
    n_features_in_: int

    def __init__(
        self,
        method: Literal["kernel", "ridge", "procrustes", "cca", "infonce"] | Unchecked = "kernel",
        *,
        seed: int = 0,
    ) -> None:
        self.method = method
        self.seed = seed

    def fit(
        self,
        X: Float[np.ndarray, "pairs x"] | Unchecked,
        y: Float[np.ndarray, "pairs y"] | Unchecked,
        groups: Any = None,
    ) -> Aligner:
        """Choose the settings on pairs that are left out, then learn from all.

        Args:
            X: rows to bring over.
            y: the row that each belongs to, in the other space.
            groups: pairs of one group are left out together, such as those with the same caption.

        Raises:
            SpaceError: fewer than 10 pairs, or nothing to validate on.
            ValueError: X or y is no matrix of finite numbers.
        """
        X, y = validate_data(self, X, y, dtype=np.float32, multi_output=True, y_numeric=True)
        anchors = unit_rows(np.asarray(y, np.float32).reshape(len(X), -1))
        groups = None if groups is None else np.asarray(groups)
        pairs = PairArrays(unit_rows(X), anchors, np.zeros_like(anchors), groups)
        learned = make_alignment(self.method, alpha=0, seed=self.seed).fit(pairs).map
        self.map_ = LearnedMap(learned.weight, learned.bias, 1.0, learned.kernel)  # there is no start to blend with
        self._n_features_out = anchors.shape[1]
        return self

    def transform(self, X: Float[np.ndarray, "rows x"] | Unchecked) -> Float[np.ndarray, "rows y"]:
        """Return unit vectors in the other space.

        Raises:
            ValueError: X is not as wide as in `fit`, or holds NaN or infinite values.
        """
        check_is_fitted(self)
        X = unit_rows(validate_data(self, X, reset=False, dtype=np.float32))
        return self.map_.place(X, np.zeros((len(X), self._n_features_out), np.float32))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = tags.target_tags.multi_output = tags.target_tags.two_d_labels = True
        tags.target_tags.single_output = False
        tags.transformer_tags.preserves_dtype = []  # embeddings are float32
        return tags
