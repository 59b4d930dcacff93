"""Random calls of everything, right ones and wrong ones, beside PyTorch in float64.

``make fuzz`` makes 20,000 calls. Each is drawn from the seed and its number alone, and is made in a
child process. A failure prints the call and how to make it again: ``make fuzz ARGS='--only 3:17'``.
What is true of each call:

- one with nothing wrong gives what PyTorch (or tests/python/reference.py) gives in float64, and
  changes nothing but what it is to change, gaps between the rows of a view included;
- one with something wrong raises, and every byte of every tensor, and every version, is as before;
- PyTorch refuses what is refused here, and accepts what is accepted, apart from the departures of
  docs/differences.md, which are counted by name;
- nothing crashes or hangs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # until a call says otherwise
sys.path.append(str(Path(__file__).resolve().parents[1] / "python"))

import bag_calls
import gradient_calls
import lookup_calls
import runner
import simulator
import step_calls
import table_calls

DRAWS: runner.Draws = {
    **lookup_calls.DRAWS,
    **bag_calls.DRAWS,
    **gradient_calls.DRAWS,
    **table_calls.DRAWS,
    **step_calls.DRAWS,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of all calls (0)")
    parser.add_argument("--calls", type=int, default=20_000, help="how many (20,000)")
    parser.add_argument("--only", metavar="SEED:N", help="make this call in this process")
    parser.add_argument("--simulator", action="store_true", help="make them on a simulated GPU")
    parser.add_argument("--family", choices=DRAWS, action="append", help="of calls; all of them")
    parser.add_argument("--most", type=int, default=10, help="failures, then it ends (10)")
    parser.add_argument(
        "--spoil", action="store_true", help="call 1 and let call 2 crash: is that noticed?"
    )
    return parser.parse_args()


def fuzzer(options: argparse.Namespace, seed: int) -> runner.Fuzzer:
    draws = {name: DRAWS[name] for name in options.family or DRAWS}
    made = runner.Fuzzer(draws, seed, options.spoil)
    if options.simulator:
        made.where = lambda number: simulator.simulation(simulator.ARCHITECTURES[0], number)
    return made


def main() -> int:
    options = arguments()
    if options.only:
        seed, number = map(int, options.only.split(":"))
        text = fuzzer(options, seed).replay(number)
        print(text or "nothing is wrong")
        return int(text is not None)
    seen: Counter[str] = Counter()
    failures, begin = 0, time.monotonic()
    for failure in fuzzer(options, options.seed).run(options.calls, seen):
        failures += 1
        print(f"\nFAILED {failure.seed}:{failure.number} {failure.text}", flush=True)
        again = "".join(f" --family {name}" for name in options.family or ())
        print(
            f"  again: make fuzz ARGS='--only {failure.seed}:{failure.number}{again}'", flush=True
        )
        if failures == options.most:
            break
    for name in sorted(seen):
        print(f"{seen[name]:7,} {name}")
    seconds = time.monotonic() - begin
    print(f"seed {options.seed}: {options.calls:,} calls, {failures} failures, {seconds:.0f} s")
    return int(failures > 0)


if __name__ == "__main__":
    raise SystemExit(main())
