"""RESULTS.md and its plot, from what was measured. Imports matplotlib where the plot is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness import Bar, Measured, Outcome

INTRODUCTION = """\
# Benchmarks

This project beside its peers: in one run, on the same seeded data, each in a process of its own, in turns. Figures are
medians of the repetitions; ratios are medians of the ratios within a round. Absolute times say little on a shared
machine; ratios say what they say.

To repeat: `make bench` (`python -m benchmarks --help`: `--only CASE`, `--repeats N`, `--quick`, `--peers DIR`). It makes an
environment for the peers in `.peers/` from `benchmarks/peers.txt`.
"""

GPU = "## On a GPU"
NO_GPU = f"""{GPU}

Not measured: no GPU was at hand. `python benchmarks/gpu.py --output benchmarks/RESULTS.md` measures, and keeps its table here.
"""


def results(
    outcomes: list[Outcome], machine: Mapping[str, str], versions: Mapping[str, Mapping[str, str]],
    failed: Mapping[str, str], how: str, before: str = "",
) -> str:  # fmt: skip
    """RESULTS.md; what a GPU came to in the one from before is kept."""
    lines = [INTRODUCTION, "## Machine and versions", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines += [f"- {name}: {', '.join(f'{n} {v}' for n, v in found.items())}" for name, found in versions.items()]
    lines += [f"- could not be installed: {name}: {why}" for name, why in failed.items()]
    lines += [f"- {how}", "", "## Bars", "", *bars(outcomes), "", "![ratios](results.svg)", ""]
    for outcome in outcomes:
        lines += section(outcome)
    _, heading, on_gpu = before.partition(GPU)
    return "\n".join(lines) + "\n" + (heading + on_gpu or NO_GPU)


def bars(outcomes: list[Outcome]) -> list[str]:
    """Each promise, and whether it is kept."""
    rows = ["| case | bar | wanted | measured | met |", "|---|---|---|---|---|"]
    for outcome in outcomes:
        for bar in outcome.case.bars:
            value, peer = judged(outcome, bar)
            against = f" ({peer})" if peer and len(bar.against) > 1 else ""
            met = "not measured" if math.isnan(value) else "yes" if bar.met(value) else "**no**"
            rows.append(f"| {outcome.case.name} | {bar.text} | {bar.wanted} | {figure(value)}{against} | {met} |")
    return rows


def judged(outcome: Outcome, bar: Bar) -> tuple[float, str]:
    """As `Outcome.judge`; against a quoted figure the ratio of the rates."""
    quoted = {q.name: q for q in outcome.case.quoted}
    if bar.against and bar.against[0] in quoted:
        return outcome.measured[bar.of].median("rate") / quoted[bar.against[0]].rate, bar.against[0]
    return outcome.judge(bar)


def section(outcome: Outcome) -> list[str]:
    """A case: who, how fast, with how much, and what came out."""
    case = outcome.case
    cores = "one processor" if case.threads == 1 else f"{case.threads} processors"
    lines = [f"## {case.name}", "", f"{case.title}. {case.note}".strip(), "", f"Each has {cores}.", ""]
    if outcome.error:
        return [*lines, f"Not measured: {outcome.error}", ""]
    lines += [
        f"| | {case.unit}/s | s each (range) | CPU s each | peak GiB | of that, for the work | result |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [row(name, measured) for name, measured in outcome.measured.items()]
    lines += [f"| {q.name} (quoted) | {figure(q.rate)} | {q.text} | | | | |" for q in case.quoted]
    notes = [f"- {i.name}: {i.note}" for i in case.implementations if i.note]
    return [*lines, "", *notes, *([""] if notes else [])]


def row(name: str, measured: Measured) -> str:
    if measured.error or not measured.runs:
        return f"| {name} | not measured: {measured.error or 'no repetition'} | | | | | |"
    wall = measured.per_unit("wall")
    held = figure(measured.median("peak"))
    if (child := measured.median("child_peak")) > 0:
        held += f" (largest child {figure(child)})"
    said = [f"{key} {figure(measured.median(key))}" for key in measured.runs[-1]["values"]]
    said += [f"{key.removeprefix('error:')} error {value:.2g}" for key, value in measured.compared.items()]
    return (
        f"| {name} | {figure(measured.median('rate'))} | {figure(measured.median('wall'))} "
        f"({figure(min(wall))}-{figure(max(wall))}) | {figure(measured.median('cpu'))} | {held} "
        f"| {figure(measured.median('extra'))} | {', '.join(said)} |"
    )


def figure(value: float) -> str:
    """Three digits."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plot(outcomes: list[Outcome], path: Path) -> None:
    """A bar for every ratio that is promised, on a logarithmic scale, with a mark where it was promised to be."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "dacapo", "svg.fonttype": "none"})
    from matplotlib import pyplot

    rows = []
    for outcome in outcomes:
        for bar in outcome.case.bars:
            value, peer = judged(outcome, bar)
            if bar.least is not None and bar.against and math.isfinite(value) and value > 0:
                rows.append((f"{outcome.case.name}: {peer}", value, bar.least))
    if not rows:
        return
    rows.reverse()
    figure_, axes = pyplot.subplots(figsize=(8, 0.28 * len(rows) + 1.2))
    colours = ["#2a7f62" if value >= least else "#c1543a" for _, value, least in rows]
    axes.barh(range(len(rows)), [value for _, value, _ in rows], color=colours)
    axes.scatter(
        [least for _, _, least in rows], range(len(rows)), marker="|", s=120, color="black", label="bar", zorder=3
    )
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=7)
    axes.set_xscale("log")
    axes.axvline(1, color="grey", linewidth=0.7)
    axes.set_xlabel("times as fast as (more is better)")
    axes.legend(loc="lower right")
    figure_.tight_layout()
    figure_.savefig(path, metadata={"Date": None})
    pyplot.close(figure_)
