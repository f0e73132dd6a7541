"""Trainers that only rehearse, and the jobs for them: what the scheduler does is real, and nothing is trained."""

from __future__ import annotations

import uuid
from pathlib import Path

from reeltune.scheduler.v1 import rehearsal_pb2, training_parameters_pb2, training_service_pb2

from benchmarks.mesh_material import BenchMesh
from meshkit.embedded import free_ports
from reeltune_cli.stack.environment import StackPlan
from reeltune_cli.stack.folder import StackFolder
from reeltune_cli.stack.options import UpOptions
from reeltune_cli.stack.secrets_file import load_or_make_secrets
from reeltune_cli.stack.service_process import ServiceProcess


def rehearsal_trainer(mesh: BenchMesh, folder: Path, name: str) -> ServiceProcess:
    """A trainer for the mesh, with the settings of production but for what it offers; not started."""
    stack = StackFolder(mesh.home / "data")
    port, metrics_port = free_ports(2)
    plan = StackPlan(
        options=UpOptions(stack.root),
        folder=stack,
        secrets=load_or_make_secrets(stack.secrets),
        ports=mesh.ports | {"trainer": port, "trainer-metrics": metrics_port},
        ca_file=stack.certificates / "ca.pem",
    )
    environment = plan.environment("trainer") | {
        "TRAINER_DATA_DIR": str(folder / "data"),
        "TRAINER_NAME": name,
        "TRAINER_RECIPES": "rehearsal",
    }
    return ServiceProcess("trainer", folder, plan.target("trainer"), environment, stop_timeout_seconds=20)


async def submit_rehearsal(mesh: BenchMesh, *, steps: int, step_milliseconds: int) -> str:
    """Submits a job of so many steps that trains nothing; returns its id."""
    request = training_service_pb2.CreateTrainingJobRequest(
        model_id=mesh.model_id,
        dataset_id=mesh.dataset_id,
        name="rehearsal",
        parameters=training_parameters_pb2.TrainingParameters(
            optimization=training_parameters_pb2.OptimizationParameters(max_steps=steps),
            checkpoint_every_steps=0,
            rehearsal=rehearsal_pb2.RehearsalParameters(step_milliseconds=step_milliseconds),
        ),
        request_id=str(uuid.uuid4()),
    )
    return (await mesh.client.training.CreateTrainingJob(request)).job.id
