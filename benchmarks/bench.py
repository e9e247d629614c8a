"""Run the cases and write what came of them: `python -m benchmarks`, `make bench`.

Imports nothing but the standard library and its neighbours: what is measured lives in processes of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import environments, report
from benchmarks.cases import ALL
from benchmarks.harness import ROOT, Bench, Case, Outcome

HERE = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    if options.list:
        print("\n".join(f"{case.name:<20} {case.title}" for case in ALL))
        return
    cases = chosen(options.only)
    python, failed = None, {}
    if not options.no_peers:
        python, failed = environments.peers_python(options.peers, print)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dacapo-bench-", dir=options.data) as folder:
        bench = Bench(python, Path(folder), options.quick, options.repeats, options.seconds)
        outcomes = [measured(bench, case) for case in cases]
    print("\n".join(["", *report.bars(outcomes)]))
    print(f"\n{time.monotonic() - began:.0f} s" + (", tiny sizes: the figures mean nothing" if options.quick else ""))
    # Parts and tiny sizes are to look at, not to be kept as the results.
    output = options.output or (None if options.quick or options.only else HERE)
    if output is not None:
        write(outcomes, output, python, failed, options)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="This project beside its peers.")
    parser.add_argument("--only", action="append", default=[], metavar="CASE", help="only these; a prefix is enough")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see whether everything works")
    parser.add_argument("--repeats", type=int, metavar="N", help="of each implementation; 5, with --quick 1")
    parser.add_argument("--seconds", type=float, default=240, help="after which a case has only three repeats")
    parser.add_argument("--peers", type=Path, default=ROOT / ".peers", metavar="DIR", help="environment of the peers")
    parser.add_argument("--no-peers", action="store_true", help="only ours")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where volumes are made (and removed), 10 GB")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="for RESULTS.md; with --only or --quick, none by default"
    )
    options = parser.parse_args(arguments)
    options.repeats = options.repeats or (1 if options.quick else 5)
    return options


def chosen(names: list[str]) -> list[Case]:
    """The cases that are asked for, by name or prefix."""
    found = [case for case in ALL if not names or any(case.name.startswith(name) for name in names)]
    unknown = [name for name in names if not any(case.name.startswith(name) for case in ALL)]
    if unknown:
        sys.exit(f"no case is called {', '.join(unknown)}; there are {', '.join(case.name for case in ALL)}")
    return found


def measured(bench: Bench, case: Case) -> Outcome:
    print(f"{case.name}: {case.title}", flush=True)
    outcome = bench.run(case)
    if outcome.error:
        print(f"  {outcome.error}")
    return outcome


def write(
    outcomes: list[Outcome], folder: Path, python: Path | None, failed: dict[str, str], options: argparse.Namespace
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    versions = {"dacapo": environments.versions(Path(sys.executable), environments.OURS)}
    if python is not None:
        versions["peers"] = environments.versions(python, environments.names())
    how = f"up to {options.repeats} repetitions" + (", tiny sizes: the figures mean nothing" if options.quick else "")
    file = folder / "RESULTS.md"
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    file.write_text(report.results(outcomes, environments.machine(), versions, failed, how, before), encoding="utf-8")
    report.plot(outcomes, folder / "results.svg")
    print(file)


if __name__ == "__main__":
    main()
