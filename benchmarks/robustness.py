"""What mutated files, kills, attackers and a busy machine do to chiasm. Each step counts what it tried and what went wrong, which has to be 0.

`python -m benchmarks.robustness [STEP...]`; without steps all of them. The seeds are fixed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from benchmarks import robustness_kills, robustness_media, robustness_races, robustness_requests

STEPS: dict[str, Callable[[], None]] = {
    "media": robustness_media.main,
    "kills": robustness_kills.main,
    "requests": robustness_requests.main,
    "races": robustness_races.main,
}


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("steps", nargs="*", choices=[*STEPS, []])
    asked, rest = parser.parse_known_args()
    sys.argv[1:] = rest  # the others are the record's
    for step in asked.steps or STEPS:
        STEPS[step]()


if __name__ == "__main__":
    main()
