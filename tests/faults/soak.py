"""`python -m tests.faults.soak --minutes 10 [--seed 1234]`: random traffic under random faults, and a reckoning."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.training_material import make_material
from tests.faults.fault_mesh import FaultMesh, Shape, running_fault_mesh
from tests.faults.mesh_user import MeshUser, signed_up
from tests.faults.soak_faults import NOT_DONE, Faults
from tests.faults.soak_ledger import Ledger, Verdict
from tests.faults.soak_traffic import Traffic

_USERS = 4
_SHAPE = {"schedulers": 2, "trainers": 3}
_MOST_WAITING = 6
"""Queued jobs of one user beyond which no more are submitted: what is queued at the end has to be run."""
_WATCH_SECONDS = 60.0
"""So long after the last job's end every watch must have told it."""
_SETTLE_SECONDS = 420.0
"""A job that lost its trainer ten times has waited for minutes before its last attempt."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    say(f"soak of {options.minutes:g} min with seed {seed}; again: {replay(options.minutes, seed)}")
    home = Path(tempfile.mkdtemp(prefix="reeltune-soak-"))
    try:
        return asyncio.run(soak(home, options.minutes, seed))
    finally:
        shutil.rmtree(home)


async def soak(home: Path, minutes: float, seed: int) -> int:
    """Runs it under `home`; returns the exit code."""
    dice = random.Random(seed)
    ledger = Ledger()
    material = make_material(home / "material", clips=2)
    async with contextlib.AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(running_fault_mesh(home / "mesh", Shape(seed=seed, **_SHAPE)))
        first = await stack.enter_async_context(signed_up(mesh, material))
        others = [await stack.enter_async_context(signed_up(mesh, like=first)) for _ in range(_USERS - 1)]
        faults = Faults(mesh, random.Random(dice.getrandbits(64)))
        for user in (first, *others):
            user.repeats_crashes = True  # see `deaths_from_within`
        traffic = [
            Traffic(user, ledger, random.Random(dice.getrandbits(64)), _MOST_WAITING) for user in (first, *others)
        ]
        try:
            await _storm(minutes, faults, traffic)
            await _calm(mesh, faults, traffic)
            await ledger.settle(_SETTLE_SECONDS)
            await asyncio.gather(*(each.until_watches_end(_WATCH_SECONDS) for each in traffic))
            ledger.check_watches()
            verdict = ledger.verdict
            verdict.unforeseen += [*faults.troubles, *deaths_from_within(mesh)]
            await _find_strangers(ledger, [first, *others], verdict)
        finally:
            await asyncio.gather(*(each.close() for each in traffic))
        if not verdict.is_good:
            keep_logs(mesh, seed, verdict)
    counts = sum((each.done for each in traffic), Counter[str]())
    report(minutes, seed, ledger, faults, counts, verdict)
    return 0 if verdict.is_good else 1


async def _storm(minutes: float, faults: Faults, traffic: list[Traffic]) -> None:
    """Traffic and faults together, for so long; whatever breaks in the harness itself ends it at once."""
    doing = [asyncio.create_task(each.run(), name="traffic") for each in traffic]
    harming = asyncio.create_task(faults.run(), name="faults")
    try:
        done, _ = await asyncio.wait([*doing, harming], timeout=60 * minutes, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        harming.cancel()
        for each in traffic:
            each.stop()
        await asyncio.gather(*doing)
    finally:
        for task in (*doing, harming):
            task.cancel()
        await asyncio.gather(*doing, harming, return_exceptions=True)


async def _calm(mesh: FaultMesh, faults: Faults, traffic: list[Traffic]) -> None:
    say("the storm is over; healing, and waiting for every job's end")
    await faults.settle()
    await mesh.heal()
    for each in traffic:
        await each.finish()


async def _find_strangers(ledger: Ledger, users: list[MeshUser], verdict: Verdict) -> None:
    """Every Create was repeated until it was answered: a job that nobody was told of is one too many."""
    known = set(ledger.records)
    unknown = [job_id for user in users for job_id in await user.list_ids() if job_id not in known]
    if unknown:
        verdict.double.append(f"{len(unknown)} jobs are there that nobody was told of: {unknown}")


def deaths_from_within(mesh: FaultMesh) -> list[str]:
    """What no fault explains: a background task that ended its service, a call that ended in an unforeseen error."""
    found = []
    for process in mesh.processes:
        for event in (*process.events("background.died"), *process.events("rpc.crashed")):
            last_line = str(event.get("exception", "")).strip().rpartition("\n")[2]
            if "FailpointError" not in last_line:
                found.append(f"{process.name}: {event.get('task') or event.get('rpc')}: {last_line}")
    return found


def report(
    minutes: float, seed: int, ledger: Ledger, faults: Faults, counts: Mapping[str, int], verdict: Verdict
) -> None:
    """Prints the table, and the one line that says how it ended."""
    for title, rows in (("fault", faults.done), ("traffic", counts), ("jobs by their end", verdict.states)):
        say(f"\n{title:<44}{'times':>6}")
        for what, times in sorted(rows.items(), key=lambda row: (-row[1], row[0])):
            say(f"  {what:<42}{times:>6}")
    watches = sum(len(record.watches) for record in ledger.records.values())
    say(f"\n{verdict.attempts} attempts, {watches} watches")
    kinds = ("lost", "double", "illegal", "gaps", "wrong_ends")
    found = ", ".join(f"{len(getattr(verdict, kind))} {kind.replace('_', ' ')}" for kind in kinds)
    harm = sum(faults.done.values()) - faults.done[NOT_DONE]
    figures = f"{minutes:g} min, {len(ledger.records)} jobs, {harm} faults, {found}"
    if verdict.is_good:
        say(f"soak ok: {figures}, seed {seed}")
        return
    for problem in verdict.problems:
        say(f"  {problem}")
    unforeseen = f", {len(verdict.unforeseen)} unforeseen" if verdict.unforeseen else ""
    say(f"soak failed: {figures}{unforeseen}, seed {seed}; again: {replay(minutes, seed)}")


def keep_logs(mesh: FaultMesh, seed: int, verdict: Verdict) -> None:
    """Copies the logs to where they can be looked at: the mesh and its folder go."""
    kept = Path(f"soak-failed-{seed}")
    shutil.copytree(mesh.home / "logs", kept, dirs_exist_ok=True)
    (kept / "problems.txt").write_text("\n".join(verdict.problems) + "\n")
    say(f"the logs are in {kept}/")


def replay(minutes: float, seed: int) -> str:
    """The command that does the same again."""
    return f"make soak MINUTES={minutes:g} SEED={seed}"


def say(line: str) -> None:
    """Prints at once: whoever runs a soak watches it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
