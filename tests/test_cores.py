"""Threads of linear algebra: no more than there are free cores, and as before afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg  # noqa: F401  its BLAS is loaded before the threads are counted
from threadpoolctl import threadpool_info, threadpool_limits

from chiasm import cores
from chiasm.cores import free_cores, limit_threads, usable_cores

TWO = pytest.mark.skipif(usable_cores() < 2, reason="one core has nothing to limit")


def threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize(
    ("load", "running", "expected"), [(0.2, 1, 8), (2.6, 1, 5), (0.2, 5, 4), (7.4, 1, 1), (40.0, 90, 1)]
)
def test_free_cores_are_those_without_load(
    monkeypatch: pytest.MonkeyPatch, load: float, running: int, expected: int
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"{load} 0.00 0.00 {running}/900 12345")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    assert usable_cores() == 8
    assert free_cores() == expected


def test_systems_that_do_not_count_have_all_cores_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "getloadavg", raising=False)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "something else")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert free_cores() == 4
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert free_cores() == 1


@TWO
def test_threads_are_limited_inside_and_never_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with threadpool_limits(2):
        monkeypatch.setattr(os, "getloadavg", lambda: (100.0, 0.0, 0.0), raising=False)

        @limit_threads()
        def inside() -> set[int]:
            np.linalg.inv(np.eye(50))
            return threads()

        assert inside() == {1}
        assert threads() == {2}
    with threadpool_limits(1):
        monkeypatch.setattr(cores, "free_cores", usable_cores)
        assert inside() == {1}
