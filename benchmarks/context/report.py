"""The report: what was measured as JSON, and the same as Markdown tables, for the terminal and for the README."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.context.machine import describe_machine, is_in_memory
from benchmarks.context.peers import OURS, Peer, list_names
from benchmarks.context.plan import MEASUREMENTS, Amounts, Results
from benchmarks.context.rows import NOT_MEASURED, judge_all
from benchmarks.context.stats import Figure, cut, pair
from benchmarks.context.writers import WORKS

FORMAT = 1
#: Others' use of the cores above which a run says of itself that only its ratios are worth reading.
QUIET_CORES = 0.2
#: The same for the disk: the bare flush of one process in the best round by that in the worst. Arbitrary.
QUIET_DISK = 1.5
_MET = {"aim": "aim", "yes": "yes", "no": "**no**", None: ""}


def build_report(
    results: Results,
    peers: Mapping[str, type[Peer]],
    left_out: Mapping[str, str],
    amounts: Amounts,
    only: Sequence[str],
    directory: Path,
) -> dict[str, Any]:
    """Return everything for JSON."""
    return {
        "format": FORMAT,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": describe_machine(directory),
        "in_memory": is_in_memory(directory),
        "amounts": asdict(amounts),
        "only": [name for name in MEASUREMENTS if name in only],
        "peers": {
            name: {"version": peer.version(), "configured": peer.configured, "notices": peer.notices, "lacks": peer.lacks}
            for name, peer in peers.items()
        },
        "left_out": dict(left_out),
        "noise": _sum_up_noise(results),
        "rows": judge_all(results, amounts, set(only), left_out),
        "commits": [_sum_up_runs(results, work.name, peer) for work in WORKS for peer in _present(results.runs, work.name)],
        "watchers": [_sum_up_watchers(results, peer) for peer in peers] if results.seen or results.idle else [],
        "reads": [
            {"peer": peer, "per_s": Figure.of(one.per_s for one in found).encode()}
            for peer in ["view", "dict", *list_names()]
            if (found := [one for one in [*results.views, *results.reads] if one.peer == peer])
        ],
        "crowd": [_sum_up_crowd(results)] if results.crowds else [],
        "roof": [
            {"processes": count, "per_s": Figure.of(one.per_s for one in results.flushes if one.count == count).encode()}
            for count in sorted({one.count for one in results.flushes})
        ],
        "measured": results.encode(),
    }


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write it as JSON with one line for each thing that was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_dump(report, 2) + "\n", encoding="utf-8")


def format_report(report: Mapping[str, Any]) -> str:
    """Return the tables as Markdown."""
    parts = [_format_facts(report), _format_rows(report)]
    if report["commits"]:
        parts += [_format_commits(report), _format_ratios(report)]
    if report["watchers"]:
        parts.append(_format_watchers(report))
    parts.append(_format_rest(report))
    return "\n\n".join(part for part in parts if part) + "\n"


def format_section(report: Mapping[str, Any]) -> str:
    """Return what of it belongs into the README."""
    parts = [
        _format_facts(report),
        "`make bench-context` measures it. Ratios are taken between neighbours of one round, then their median. What falls "
        "short is shown as it is:",
        _format_rows(report),
        _format_commits(report),
        _format_watchers(report),
        _format_rest(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# Summing up


def _sum_up_noise(results: Results) -> dict[str, Any]:
    others = [run.others_cores for run in results.runs]
    return {
        "rest_cores": round(results.rest_cores, 3),
        "others_cores": Figure.of(others).encode() if others else None,
    }


def _present(found: Iterable[Any], work: str) -> list[str]:
    there = {run.peer for run in found if run.work == work}
    return [name for name in list_names() if name in there]


def _sum_up_runs(results: Results, work: str, peer: str) -> dict[str, Any]:
    all_runs = [run for run in results.runs if run.work == work]
    runs = [run for run in all_runs if run.peer == peer]
    ratios = pair(all_runs, lambda run: run.per_s, OURS, [peer], max) if peer != OURS else []
    fair = sorted(runs, key=lambda run: run.fairness)[(len(runs) - 1) // 2]

    def figure(of: Callable[[Any], float]) -> dict[str, float]:
        return Figure.of(of(run) for run in runs).encode()

    return {
        "work": work,
        "peer": peer,
        "per_s": figure(lambda run: run.per_s),
        "ours_by_this": Figure.of(ratios).encode() if ratios else None,
        # Of the round that stands in the middle: commits of different rounds say nothing about fairness.
        "least": fair.least,
        "most": fair.most,
        "fairness": figure(lambda run: run.fairness),
        "p50_ms": figure(lambda run: run.p50_ms),
        "p99_ms": figure(lambda run: run.p99_ms),
        "max_ms": figure(lambda run: run.max_ms),
        "conflicts": figure(lambda run: run.conflicts),
        "others_cores": figure(lambda run: run.others_cores),
        "own_cores": figure(lambda run: run.own_cores),
    }


def _sum_up_watchers(results: Results, peer: str) -> dict[str, Any]:
    seen = [one for one in results.seen if one.peer == peer]
    idle = [one for one in results.idle if one.peer == peer]
    return {
        "peer": peer,
        "p50_ms": Figure.of(one.p50_ms for one in seen).encode() if seen else None,
        "p99_ms": Figure.of(one.p99_ms for one in seen).encode() if seen else None,
        "write_p50_ms": Figure.of(one.write_p50_ms for one in seen).encode() if seen else None,
        "unseen_share": sum(one.unseen for one in seen) / sum(one.count for one in seen) if seen else None,
        "idle_percent": Figure.of(one.percent for one in idle).encode() if idle else None,
        "server_idle_percent": Figure.of(one.server_percent for one in idle).encode() if idle else None,
    }


def _sum_up_crowd(results: Results) -> dict[str, Any]:
    crowd = results.crowds[-1]
    return {
        "wanted": crowd.wanted,
        "count": crowd.count,
        "each_mb": round(crowd.each_mb, 2),
        "idle_percent": round(crowd.idle_percent, 4),
        "seen_p50_ms": round(cut(crowd.seen_ms, 50), 4),
        "seen_max_ms": round(max(crowd.seen_ms), 4),
        "write_p50_ms": round(cut(crowd.write_ms, 50), 4),
        "alone_p50_ms": round(cut(crowd.alone_ms, 50), 4),
        "stirred_ms": round(crowd.stirred_ms, 4),
    }


# Tables


def _format_facts(report: Mapping[str, Any]) -> str:
    machine, amounts, noise = report["machine"], report["amounts"], report["noise"]
    lines = [
        f"Measured {report['at'][:10]}: {machine['cores']} cores ({machine['processor']}), {machine['memory_gb']} GB, "
        f"{machine['kernel']}, {machine['file_system']}, Python {machine['python']}; {amounts['rounds']} interleaved rounds "
        f"of {amounts['seconds']:g} s; values of 1 KB, every commit durable against power loss."
    ]
    others, is_noisy = noise["others_cores"], noise["rest_cores"] > QUIET_CORES
    if others:
        # A round trip to the disk is work of the kernel that no process is charged for; hence never quite zero.
        lines.append(
            f"Others used {noise['rest_cores']:.2f} cores before the run and {others['median']:.2f} "
            f"({others['low']:.2f} to {others['high']:.2f}) during it."
        )
        is_noisy |= others["median"] > QUIET_CORES
    if report["roof"]:
        bare = report["roof"][0]["per_s"]
        lines.append(f"The disk alone did {show_rate(bare['low'])} to {show_rate(bare['high'])} flushes/s for one process.")
        is_noisy |= bare["high"] > QUIET_DISK * bare["low"]
    if is_noisy:
        lines.append("**The machine was not quiet: read the ratios, and those with their spread.**")
    if report["in_memory"]:
        lines.append("**The files were in memory, where nothing is durable: these figures are worth nothing.**")
    lines += [f"Left out: {name} ({why})." for name, why in report["left_out"].items()]
    return " ".join(lines)


def _format_rows(report: Mapping[str, Any]) -> str:
    lines = ["| | at least | aim | measured | spread | met |", "|---|---:|---:|---:|---:|---|"]
    for row in report["rows"]:
        unit, asked = row["unit"], [show(row[name], row["unit"]) if row[name] is not None else "" for name in ("at_least", "aim")]
        if row["why"] == NOT_MEASURED:
            continue
        if row["median"] is None:
            lines.append(f"| {row['title']} | {asked[0]} | {asked[1]} | | | {row['why']} |")
            continue
        spread = f"{show(row['low'])} to {show(row['high'])}" if row["count"] > 1 else ""
        lines.append(
            f"| {row['title']} | {asked[0]} | {asked[1]} | {show(row['median'], unit)} | {spread} | {_MET[row['met']]} |"
        )
    return "\n".join(lines)


def _format_commits(report: Mapping[str, Any]) -> str:
    peers = [name for name in list_names() if name in report["peers"]]
    found = {(row["work"], row["peer"]): row for row in report["commits"]}
    lines = [
        "Durable commits/s (p99 of one operation; commits of the unluckiest / luckiest process of a round; conflicts a commit):",
        "",
        f"| | {' | '.join(peers)} |",
        "|---|" + "---:|" * len(peers),
    ]
    for work in WORKS:
        cells = [_format_commit(found.get((work.name, peer))) for peer in peers]
        if any(cells):
            lines.append(f"| {work.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format_commit(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    conflicts = row["conflicts"]["median"]
    more = f", {show(conflicts)}" if conflicts >= 0.01 else ""
    return f"{show_rate(row['per_s']['median'])} ({show(row['p99_ms']['median'], 'ms')}; {row['least']}/{row['most']}{more})"


def _format_ratios(report: Mapping[str, Any]) -> str:
    peers = [name for name in list_names() if name in report["peers"] and name != OURS]
    found = {(row["work"], row["peer"]): row["ours_by_this"] for row in report["commits"]}
    if not peers:
        return ""
    lines = [
        "crewkeep's commits/s divided by each peer's (median of the rounds' ratios, smallest to largest):",
        "",
        f"| | {' | '.join(peers)} |",
        "|---|" + "---:|" * len(peers),
    ]
    for work in WORKS:
        cells = [
            f"{show(ratio['median'], 'x')} ({show(ratio['low'])} to {show(ratio['high'])})" if ratio else ""
            for ratio in (found.get((work.name, peer)) for peer in peers)
        ]
        if any(cells):
            lines.append(f"| {work.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format_watchers(report: Mapping[str, Any]) -> str:
    reads = {row["peer"]: row["per_s"]["median"] for row in report["reads"]}
    lines = [
        "A change seen in another process (0: before its write was acknowledged, when a crash may still take it back), an idle "
        "watcher's share of a core, and point reads of 1,000 hot keys:",
        "",
        "| | version | how it notices | ack -> seen, p50 / p99 | never seen | idle watcher | reads/s | does not promise |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for row in report["watchers"]:
        peer = report["peers"][row["peer"]]
        seen = f"{show(row['p50_ms']['median'])} / {show(row['p99_ms']['median'], 'ms')}" if row["p50_ms"] else ""
        unseen = f"{row['unseen_share']:.0%}" if row["unseen_share"] is not None else ""
        idle = show(row["idle_percent"]["median"], "%") if row["idle_percent"] else ""
        if row["idle_percent"] and row["server_idle_percent"]["median"]:
            idle += f" + {show(row['server_idle_percent']['median'], '%')} server"
        lines.append(
            f"| {row['peer']} | {peer['version']} | {peer['notices']} | {seen} | {unseen} | {idle} "
            f"| {show_rate(reads[row['peer']]) if row['peer'] in reads else ''} | {peer['lacks']} |"
        )
    return "\n".join(lines)


def _format_rest(report: Mapping[str, Any]) -> str:
    lines = []
    if report["roof"]:
        rates = " and ".join(f"{show_rate(row['per_s']['median'])}/s with {row['processes']}" for row in report["roof"])
        lines.append(f"Bare `pwrite` + `fdatasync` of 1 KB on this disk: {rates} (processes).")
    for crowd in report["crowd"]:
        fewer = "" if crowd["count"] == crowd["wanted"] else f" (of {crowd['wanted']}; more did not fit into memory)"
        lines.append(
            f"{crowd['count']} watchers{fewer}, each a process with {crowd['each_mb']:g} MB of its own: one write takes "
            f"{show(crowd['write_p50_ms'], 'ms')}, with nobody watching {show(crowd['alone_p50_ms'], 'ms')}; the one that is "
            f"interested sees it {show(crowd['seen_max_ms'], 'ms')} after its acknowledgement at the latest, and it costs all "
            f"watchers together {show(crowd['stirred_ms'], 'ms')} of a core."
        )
    return " ".join(lines)


def show(value: float, unit: str = "") -> str:
    """Return a figure with three digits that count, and its unit."""
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if value else "0"
    if "e" in text:
        text = f"{value:.6f}".rstrip("0")
    return f"{text}{'' if unit in ('', 'x', '%') else ' '}{unit}"


def show_rate(value: float) -> str:
    """Return a number of things a second, short."""
    return f"{value / 1e6:.2f}M" if value >= 1e6 else f"{value / 1e3:.1f}k" if value >= 1e3 else f"{value:.0f}"


def _dump(value: Any, depth: int) -> str:
    """Return JSON that is indented down to ``depth`` and has the rest on one line."""
    if depth and isinstance(value, dict) and value:
        inner = ",\n".join(f"{json.dumps(name)}: {_dump(one, depth - 1)}" for name, one in value.items())
        return "{\n" + inner + "\n}"
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return "[\n" + ",\n".join(_dump(one, 0) for one in value) + "\n]"
    return json.dumps(value, separators=(",", ":"))
