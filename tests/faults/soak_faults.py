"""What is done to a mesh during a soak: each fault picks its victim, does its harm, and takes it back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from meshkit.embedded import ServerNotReady
from meshkit.embedded.process import StartableServer
from tests.faults.clock_skew import clock_skew_works
from tests.faults.fault_mesh import LEASE_SECONDS, FaultMesh
from tests.faults.mesh_process import MeshProcess
from tests.faults.store_proxy import StoreFaults
from tests.faults.tcp_proxy import FaultProxy

T = TypeVar("T")
SCHEDULER_PLACES = (
    "job.create.before_insert", "job.create.before_commit", "job.create.after_commit", "job.stop.before_commit",
    "job.stop.after_commit", "claim.before_commit", "claim.after_commit", "reports.after_commit",
    "checkpoint.files_verified", "checkpoint.after_commit", "complete.files_verified", "complete.before_commit",
    "complete.after_commit", "fail.after_commit", "relay.after_publish", "sweep.before_commit", "sweep.after_commit",
)  # fmt: skip
TRAINER_PLACES = ("trainer.claimed", "trainer.checkpoint.uploaded", "trainer.artifact.uploaded")
NOT_DONE = "(not done: the victim had another fault)"
_LONGEST_SECONDS = 2 * LEASE_SECONDS
_SKEW_SECONDS = 600


class Faults:
    """Does random harm to a mesh, one fault after the other and some at once."""

    def __init__(self, mesh: FaultMesh, dice: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self.troubles: list[str] = []
        """What went wrong with the harness itself: a soak whose faults do not happen proves nothing."""
        self._mesh = mesh
        self._dice = dice
        self._busy: set[object] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Does harm until it is cancelled."""
        menu = self._menu()
        names = list(menu)
        while True:
            await asyncio.sleep(self._dice.uniform(0.5, 4.0))
            name = self._dice.choice(names)
            task = asyncio.create_task(self._do(name, menu[name]), name=f"fault {name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Waits until all that was begun is taken back."""
        await asyncio.gather(*self._tasks)

    async def _do(self, name: str, fault: Callable[[], Awaitable[None]]) -> None:
        try:
            await fault()
            self.done[name] += 1
        except (ServerNotReady, _NobodyFree):
            # What is killed while another fault starts it is started once more at the end.
            self.done[NOT_DONE] += 1
        except Exception as error:  # the storm goes on, and is no good
            self.troubles.append(f"fault {name}: {error!r}")

    def _menu(self) -> dict[str, Callable[[], Awaitable[None]]]:
        menu = {
            "kill a scheduler": lambda: self._kill(self._mesh.schedulers),
            "kill a scheduler at a failpoint": lambda: self._arm(self._mesh.schedulers, SCHEDULER_PLACES),
            "freeze a scheduler": lambda: self._freeze(self._mesh.schedulers),
            "stop a scheduler": lambda: self._terminate(self._mesh.schedulers),
            "kill a trainer": lambda: self._kill(self._mesh.trainers),
            "kill a trainer at a failpoint": lambda: self._arm(self._mesh.trainers, TRAINER_PLACES),
            "freeze a trainer": lambda: self._freeze(self._mesh.trainers),
            "stop a trainer": lambda: self._terminate(self._mesh.trainers),
            "cut a trainer off": self._cut_off_trainer,
            "reset a connection": self._reset,
            "slow a connection": self._slow,
            "cut a scheduler off from the database": self._cut_off_database,
            "kill the database": lambda: self._kill_server(self._mesh.postgres),
            "take the database away": lambda: self._take_away(self._mesh.postgres, LEASE_SECONDS / 2),
            "kill the broker": lambda: self._kill_server(self._mesh.nats),
            "wipe the broker": self._wipe,
            "take the broker away": lambda: self._take_away(self._mesh.nats, _LONGEST_SECONDS),
            "kill the object store": lambda: self._kill_server(self._mesh.s3),
            "make the object store fail": self._spoil_store,
            "kill the edge": lambda: self._kill_server(self._mesh.edge),
            "kill auth or catalog": lambda: self._kill(self._mesh.others),
        }
        if clock_skew_works():
            menu["give a trainer another clock"] = self._skew_trainer
        return menu

    @contextlib.asynccontextmanager
    async def _one_of(self, victims: Sequence[T]) -> AsyncIterator[T]:
        """Takes a victim that nothing else is being done to."""
        free = [victim for victim in victims if victim not in self._busy]
        if not free:
            raise _NobodyFree
        victim = self._dice.choice(free)
        self._busy.add(victim)
        try:
            yield victim
        finally:
            self._busy.discard(victim)

    async def _kill(self, victims: Sequence[MeshProcess]) -> None:
        async with self._one_of(victims) as victim:
            victim.signal(signal.SIGKILL)

    async def _arm(self, victims: Sequence[MeshProcess], places: Sequence[str]) -> None:
        async with self._one_of(victims) as victim:
            action = self._dice.choice(("kill", "kill", "kill", "disconnect", "error"))
            await victim.restart(failpoints=f"{self._dice.choice(places)}={action}:{self._dice.randint(1, 6)}")

    async def _freeze(self, victims: Sequence[MeshProcess]) -> None:
        async with self._one_of(victims) as victim:
            victim.freeze()
            await asyncio.sleep(self._seconds())
            victim.thaw()

    async def _terminate(self, victims: Sequence[MeshProcess]) -> None:
        async with self._one_of(victims) as victim:
            if victim.pid is not None:
                await victim.terminate()
            await victim.start()

    async def _cut_off_trainer(self) -> None:
        async with self._one_of([trainer.link for trainer in self._mesh.trainers]) as link:
            await self._partition(link, self._seconds())

    async def _cut_off_database(self) -> None:
        async with self._one_of([scheduler.postgres_link for scheduler in self._mesh.schedulers]) as link:
            await self._partition(link, self._seconds() / 2)

    async def _partition(self, link: FaultProxy, seconds: float) -> None:
        up, down = self._dice.choice(((True, True), (True, False), (False, True)))
        link.partition(up=up, down=down)
        await asyncio.sleep(seconds)
        link.heal()

    async def _reset(self) -> None:
        async with self._one_of(list(self._mesh.links)) as link:
            link.half_close() if self._dice.random() < 0.3 else link.reset()

    async def _slow(self) -> None:
        async with self._one_of(list(self._mesh.links)) as link:
            link.delay_seconds = self._dice.uniform(0.02, 0.3)
            await asyncio.sleep(self._seconds())
            link.heal()

    async def _kill_server(self, server: StartableServer) -> None:
        async with self._one_of([server]):
            await server.kill()
            await server.start()

    async def _take_away(self, server: StartableServer, seconds: float) -> None:
        async with self._one_of([server]):
            await server.stop()
            await asyncio.sleep(self._dice.uniform(0, seconds))
            await server.start()

    async def _wipe(self) -> None:
        async with self._one_of([self._mesh.nats]):
            await self._mesh.wipe_nats()

    async def _spoil_store(self) -> None:
        async with self._one_of([self._mesh.store]) as store:
            kind = self._dice.choice(("refused", "refused_after", "uploads_cut", "downloads_cut", "downloads_damaged"))
            store.faults = StoreFaults(
                **{kind: self._dice.uniform(0.2, 0.6)}, latency_seconds=self._dice.choice((0.0, 0.0, 0.5))
            )
            await asyncio.sleep(self._seconds())
            store.heal()

    async def _skew_trainer(self) -> None:
        async with self._one_of(self._mesh.trainers) as trainer:
            await trainer.restart(skew_seconds=self._dice.choice((_SKEW_SECONDS, -_SKEW_SECONDS)))
            await asyncio.sleep(self._seconds())
            await trainer.restart()

    def _seconds(self) -> float:
        """From a moment to twice a lease."""
        return self._dice.uniform(0.2, _LONGEST_SECONDS)


class _NobodyFree(Exception):
    """Everybody whom the fault could meet has one already."""
