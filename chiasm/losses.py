"""Losses of the learned networks, row by row, and how several of them become one number.

This module knows the formulas and what a missing label means: its row's loss is 0 and it has no part in the mean. When
they are computed, and for which network, is left to `chiasm.recognition.adapters` and `chiasm.recognition.fusion`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


def class_losses(
    logits: Float[Tensor, "rows classes"], codes: Int[Tensor, " rows"], *, smoothing: float = 0.0
) -> Float[Tensor, " rows"]:
    """Cross-entropy of each row; 0 where the code is -1 (missing).

    Args:
        logits: one a class.
        codes: the true class of each row, by number.
        smoothing: share of the label that is divided among all classes (Szegedy et al. 2016).
    """
    return functional.cross_entropy(logits, codes, ignore_index=-1, label_smoothing=smoothing, reduction="none")


def label_losses(
    logits: Float[Tensor, "rows labels"], values: Float[Tensor, "rows labels"], known: Bool[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """Binary cross-entropy of each row, the mean over its labels; 0 where the row is not known."""
    losses = functional.binary_cross_entropy_with_logits(logits, values, reduction="none").mean(dim=1)
    return torch.where(known, losses, torch.zeros_like(losses))


def number_losses(
    predicted: Float[Tensor, "rows 1"], values: Float[Tensor, " rows"], known: Bool[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """Half the squared error of each row; 0 where the value is not known."""
    losses = 0.5 * (predicted[:, 0] - values) ** 2
    return torch.where(known, losses, torch.zeros_like(losses))


def weighted_mean(losses: Float[Tensor, " rows"], weights: Float[Tensor, " rows"]) -> Float[Tensor, ""]:
    """Mean over rows by weight; 0 where all weights are."""
    total = weights.sum()
    return (losses * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))


def uncertainty_weighted(
    losses: Float[Tensor, " tasks"], log_variances: Float[Tensor, " tasks"], labelled: Bool[Tensor, " tasks"]
) -> Float[Tensor, ""]:
    """Sum of the tasks' losses, each divided by a learned variance (Kendall, Gal & Cipolla 2018, CVPR, section 3).

    `sum_t exp(-s_t) * loss_t + s_t / 2` with `s_t` the logarithm of the variance of task t. The half of the squared
    error is in `number_losses`, so that a task of numbers gets its exact Gaussian likelihood. Tasks without a labelled
    row are left out, so that nothing is learned of their variance from nothing.
    """
    terms = torch.exp(-log_variances) * losses + 0.5 * log_variances
    return torch.where(labelled, terms, torch.zeros_like(terms)).sum()
