"""Runs seeds until told to stop, or one seed: ``python -m simulation.soak [--seed N] [--seconds S]`` in tests/."""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback

from simulation.world import run_seed


def main() -> int:
    """Returns 1 at the first seed that fails, after its replay command was printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    options = parser.parse_args()
    if options.seed is not None:
        return 0 if _passes(options.seed) else 1
    seed = random.SystemRandom().randrange(1 << 32)
    started = said = time.monotonic()
    count = events = 0
    try:
        while (now := time.monotonic()) - started < options.seconds:
            passed = _passes(seed)
            if not passed:
                return 1
            seed, count, events = seed + 1, count + 1, events + passed
            if now - said > 10:
                said = now
                print(f"{count} seeds, {events} events, {count / (now - started):.1f} seeds/s", flush=True)
    except KeyboardInterrupt:
        pass
    print(f"{count} seeds passed")
    return 0


def _passes(seed: int) -> int:
    """The number of events of a seed's run; 0 if it failed, which is told."""
    try:
        return run_seed(seed).clock.events
    except Exception:
        traceback.print_exc()
        print(f"seed {seed} failed; replay it with: python -m simulation.soak --seed {seed}", file=sys.stderr)
        return 0


if __name__ == "__main__":
    sys.exit(main())
