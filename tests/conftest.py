"""What all tests share: a cache of their own, so that exports are made once a session and nothing of the user's is used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torchvision_on_cpu
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

torchvision_on_cpu.allow()

# Shapes and dtypes in signatures are checked in tests, and only there. What takes anything from users (estimators, the
# recogniser) checks its input itself and says what is wrong, which these checks would forestall.
install_import_hook(
    ["chiasm.alignment", "chiasm.retrieval", "chiasm.space"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

# The same examples at every run, and no clock: what a property test says is to depend on neither luck nor load.
settings.register_profile("chiasm", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("chiasm")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`CHIASM_CACHE` of this session, also for processes that tests start."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHIASM_CACHE", str(folder))
        patch.delenv("CHIASM_WHISPER", raising=False)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


@pytest.fixture
def anyio_backend() -> str:
    """What asynchronous tests run on."""
    return "asyncio"


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bad shapes reach our own checks, also where the test run checks shapes at every call."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
