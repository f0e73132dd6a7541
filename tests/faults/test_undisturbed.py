"""The mesh of the faults without a fault: otherwise nothing below would mean anything."""

from __future__ import annotations

from tests.faults.fault_mesh import FaultMesh
from tests.faults.mesh_user import MeshUser, rehearsal


async def test_jobs_run_on_several_trainers_through_several_schedulers(mesh: FaultMesh, user: MeshUser) -> None:
    deaths = len(mesh.deaths)
    created = [await user.create(rehearsal(steps=4, step_milliseconds=100)) for _ in range(6)]

    ended = await user.all_ended([job.id for job in created])

    assert {each.state for each in ended} == {"COMPLETED"}
    assert {each.life.states for each in ended} == {("QUEUED", "STARTING", "RUNNING", "COMPLETED")}
    assert len({each.job.worker_id for each in ended}) > 1
    assert len(mesh.deaths) == deaths
