"""Run the benchmarks one after the other, each in a process of its own, after a description of the machine.

Run: python -m benchmarks [NAME ...]    (as in `python -m benchmarks losses`; default all)
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def find_benchmarks(folder: Path = FOLDER) -> list[str]:
    """Names of the benchmarks in a folder: `bench_losses.py` is `losses`."""
    return sorted(path.stem.removeprefix("bench_") for path in folder.glob("bench_*.py"))


def describe_machine() -> str:
    """Processor, cores, memory and versions in one line each."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = models[0] if models else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "numpy", "scikit-learn"))
    return f"{cpu}, {cores} cores usable, {memory:.0f} GiB\nPython {platform.python_version()}, {packages}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks named, or all; the exit code says whether each of them ended well."""
    known = find_benchmarks()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run the benchmarks.")
    parser.add_argument("names", nargs="*", help=f"benchmarks to run (default: all): {', '.join(known)}")
    names = parser.parse_args(arguments).names or known
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; known: {', '.join(known)}")
    print(describe_machine(), flush=True)
    failed = []
    for name in names:
        print(f"\n== {name}", flush=True)
        started = time.perf_counter()
        code = subprocess.run([sys.executable, "-m", f"benchmarks.bench_{name}"], cwd=FOLDER.parent).returncode
        print(f"({time.perf_counter() - started:.0f} s)", flush=True)
        if code:
            failed.append(name)
    if failed:
        print(f"\nFailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
