"""The extra experiments of the verb `fit`: learning curve, held-out classes, classes added later, leaks, balances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from chiasm.errors import LabelError
from chiasm.recognition import Recognizer, RungOptions
from chiasm.recognition.protocols import Items
from chiasm.verbs.measure import FOLDS

ProtocolName: TypeAlias = Literal["learning-curve", "held-out-classes", "incremental", "random-split", "balance"]
Make: TypeAlias = Callable[[], Recognizer]


def run_protocols(names: Sequence[ProtocolName], make: Make, items: Items, seed: int) -> dict[str, Any]:
    """Return results of `chiasm.recognition.protocols` by name.

    Raises:
        LabelError: the items do not allow one of them.
    """
    from chiasm.recognition import protocols

    def run(name: ProtocolName) -> Any:
        if name == "learning-curve":
            return protocols.learning_curve(make, items, seeds=range(seed, seed + 5))
        if name == "held-out-classes":
            if set(items.labels.tolist()) - set(items.given.get("names", ())):
                raise LabelError("held-out-classes needs a space with text, and labels that are words")
            return protocols.held_out_classes(make, items)
        if name == "incremental":
            order = np.random.default_rng(seed).permutation(np.unique(items.labels)).tolist()
            if len(order) < 3:
                raise LabelError(f"incremental needs at least 3 classes, to add one to two; got {len(order)}")
            first = max(2, len(order) // 2)
            steps = [order[:first], *([one] for one in order[first:])]
            linear = {"adapter": "linear", "fusion": "concat"}
            return protocols.incremental(lambda: make().set_params(**linear), items, steps=steps, seed=seed)
        if name == "balance":
            return protocols.compare(balances(make, len(items.arrays.modalities)), items, folds=3, seed=seed)
        return protocols.random_split_leak(make, items, folds=FOLDS, seed=seed)

    return {name: run(name) for name in names}


def balances(make: Make, modalities: int) -> dict[str, Make]:
    """Return ways to balance classes, and modalities where there are several, beside doing nothing."""
    from chiasm.recognition.networks import NetworkOptions
    from chiasm.training import Training

    def trained(**options: Any) -> RungOptions:
        return RungOptions(network=NetworkOptions(training=Training(**options)))

    changes: dict[str, dict[str, Any]] = {
        "as it is": {},
        "class weights": {"class_weight": "balanced"},
        "network": {"adapter": "network"},
        "network, small classes oversampled": {
            "adapter": "network",
            "options": trained(class_balance="oversample"),
        },
        "network, large classes undersampled": {
            "adapter": "network",
            "options": trained(class_balance="undersample"),
        },
        "network, mixup": {"adapter": "network", "options": trained(mixup=0.2)},
    }
    if modalities > 1:
        changes["gated"] = {"adapter": "linear", "fusion": "gated"}

    def changed(change: Mapping[str, Any]) -> Make:
        return lambda: make().set_params(**change, unknown=None)

    return {name: changed(change) for name, change in changes.items()}
