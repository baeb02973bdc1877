"""Several processes that train one network together, as `torchrun` starts them: the first does what is to be done once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import PartialState

from chiasm.encoders.runtime import Device, has_gpu


def on_cpu(device: Device) -> bool:
    """Return whether networks are trained on the CPU."""
    return device == "cpu" or not has_gpu()


def join(device: Device) -> None:
    """Let this process find the others; alone it is the first."""
    PartialState(cpu=on_cpu(device))


def is_first() -> bool:
    """Return whether this process is the one that writes and speaks."""
    return bool(PartialState().is_main_process)


def count() -> int:
    """Return how many processes there are."""
    return int(PartialState().num_processes)


@contextmanager
def first_alone() -> Iterator[None]:
    """Do the block in the first process, then in the others, who find what it wrote."""
    with PartialState().main_process_first():
        yield


def wait() -> None:
    """Wait until all processes are here."""
    PartialState().wait_for_everyone()
