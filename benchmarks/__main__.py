"""Run the benchmarks, write `var/bench/report.md`, print the table of targets."""

from __future__ import annotations

import argparse
import asyncio
import platform
import subprocess
from pathlib import Path

from benchmarks import micro
from benchmarks.subjects import everyone, versions

TARGET_ROWS = "| measure | target | measured: median (quartiles) | |\n|---|---|---|---|\n"


def row(measure: str, sign: str, target: float, value: float, shown: str) -> str:
    """One line of the table of targets; met or not is decided by the median."""
    is_met = value < target if sign == "<" else value <= target
    return f"| {measure} | {sign} {target:g} | {shown} | {'met' if is_met else '**not met**'} |\n"


async def measured(rounds: int) -> str:
    """The whole report but for its head."""
    subjects, missing = await everyone(10)
    alone = await micro.leases(subjects, rounds)
    crowd = await micro.handovers(
        [one for one in subjects if one.name not in alone.failed], max(5, rounds // 3)
    )
    grown = await micro.growth(max(5, rounds // 3))
    waiter = await micro.waiter_bytes()
    imported = micro.import_ms(11)
    missing |= alone.failed | crowd.failed
    alive = [one for one in subjects if one.name not in missing]
    turns = {overload: await micro.fairness(alive, overload) for overload in (1.5, 3.0, 10.0)}
    for one in alive:
        await asyncio.wait_for(one.close(), 10)

    ours = {"millpond", "asyncio.Semaphore"}
    peers = [one for one in alive if one.name not in ours]
    fastest = min((one.name for one in peers), key=alone.cost_us)
    pure = min((one.name for one in peers if not one.is_compiled), key=crowd.cost_us)
    table = TARGET_ROWS
    for measure, sign, target, ratio in [
        ("uncontended lease ÷ `async with` over nothing", "≤", 3.0, alone.ratio("millpond", "nothing")),
        ("explicit ÷ `async with`", "≤", 1.4, alone.ratio("explicit", "millpond")),
        (f"uncontended ÷ the fastest peer ({fastest})", "<", 1.0, alone.ratio("millpond", fastest)),
        *(
            (f"uncontended ÷ {name}", "≤", target, alone.ratio("millpond", name))
            for name, target in (("psycopg_pool", 0.2), ("asyncpg.Pool without reset", 0.1))
            if name in alone.costs
        ),
        ("hand-over, 1,000 tasks ÷ Semaphore", "≤", 1.5, crowd.ratio("millpond", "asyncio.Semaphore")),
        (f"hand-over ÷ the fastest pure peer ({pure})", "≤", 0.8, crowd.ratio("millpond", pure)),
        *((f"growth, {name}", "≤", 1.2, ratio) for name, ratio in grown.items()),
        ("lease with one listener ÷ without", "≤", 2.0, alone.ratio("with a listener", "millpond")),
        ("`import millpond` beyond asyncio, ms", "≤", 30.0, imported),
    ]:
        table += row(measure, sign, target, ratio.median, str(ratio))
    for overload, result in turns.items():
        least, most = result["millpond"]
        table += row(
            f"loopers at {overload:g}x: max/min turns", "≤", 1.2, most / max(1, least), f"{most}/{least}"
        )
    table += row("a waiter beyond its task, bytes", "<", 1024, waiter, f"{waiter:.0f}")

    text = f"## Targets\n\n{table}\n"
    text += f"A shared lease costs {alone.ratio('shared', 'millpond')} of an exclusive one.\n"
    text += "\n## Every pool\n\nRatios are the pool ÷ millpond; turns are least/most of the loopers.\n\n"
    text += "| pool | uncontended µs | ratio | contended µs a turn | ratio | 1.5x | 3x | 10x |\n"
    text += "|---|---|---|---|---|---|---|---|\n"
    for one in alive:
        least_most = " | ".join("{}/{}".format(*result[one.name]) for result in turns.values())
        text += (
            f"| {one.name} | {alone.cost_us(one.name):.2f} | {alone.ratio(one.name, 'millpond')} "
            f"| {crowd.cost_us(one.name):.2f} | {crowd.ratio(one.name, 'millpond')} | {least_most} |\n"
        )
    for name, why in missing.items():
        text += f"\nNot measured: {name} ({why}).\n"
    return text


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="rounds of each comparison (21)")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    chosen = parser.parse_args()
    if chosen.loop == "uvloop":
        import uvloop

        body = uvloop.run(measured(chosen.rounds))
    else:
        body = asyncio.run(measured(chosen.rounds))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    peers = ", ".join(f"{name} {version}" for name, version in versions().items())
    head = (
        f"{platform.python_implementation()} {platform.python_version()}, {chosen.loop}, {platform.system()} "
        f"{platform.machine()}, commit {commit.stdout.strip()}, "
        f"`python -m benchmarks --rounds {chosen.rounds} --loop {chosen.loop}`.\nPeers: {peers}.\n\n"
    )
    report = Path("var/bench/report.md")
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(head + body, encoding="utf-8")
    print(head + body)


if __name__ == "__main__":
    main()
