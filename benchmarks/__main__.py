"""Run every benchmark, one after another: ``make bench``."""

from __future__ import annotations

from benchmarks import context, sessions

if __name__ == "__main__":
    for benchmark in (context, sessions):
        print(f"\n{(benchmark.__doc__ or '').splitlines()[0]}\n")
        benchmark.main()
