"""`reeltune up`, `reeltune doctor` and `reeltune trainer`: the mesh on this machine."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from reeltune_cli.invocation import OutputFormat, OutputOption

_NEEDS_LOCAL = "this command needs the servers too: pip install 'reeltune[local]'"


class DeviceChoice(StrEnum):
    """Where the trainer trains."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class TrainerProfile(StrEnum):
    """A machine that a trainer can stand for."""

    NONE = ""
    JETSON_NANO_EMULATED = "jetson-nano-emulated"


class LogLevel(StrEnum):
    """How much the services log."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command("up")(up)
    app.command("doctor")(doctor)
    app.command("trainer")(trainer)


def up(
    data: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps everything; by default $REELTUNE_HOME/data.", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the edge; by default the last one, first 8443. 0: any free one."),
    ] = None,
    with_trainer: Annotated[bool, typer.Option("--trainer/--no-trainer", help="Start a trainer too.")] = True,
    device: Annotated[DeviceChoice, typer.Option(help="Where the trainer trains.")] = DeviceChoice.AUTO,
    threads: Annotated[int, typer.Option(min=0, help="Threads of the trainer; 0 leaves it to PyTorch.")] = 0,
    trainer_profile: Annotated[
        TrainerProfile, typer.Option(help="A machine that the trainer stands for.", show_default=False)
    ] = TrainerProfile.NONE,
    postgres_dsn: Annotated[
        str | None, typer.Option(envvar="REELTUNE_POSTGRES_DSN", help="External database, instead of the embedded one.")
    ] = None,
    nats_url: Annotated[
        str | None, typer.Option(envvar="REELTUNE_NATS_URL", help="External NATS: nats://user:password@host:port.")
    ] = None,
    s3_endpoint: Annotated[
        str | None, typer.Option(envvar="REELTUNE_S3_ENDPOINT", help="External object store: http://host:port.")
    ] = None,
    s3_access_key: Annotated[str, typer.Option(envvar="REELTUNE_S3_ACCESS_KEY")] = "",
    s3_secret_key: Annotated[
        str, typer.Option(envvar="REELTUNE_S3_SECRET_KEY", help="Better given in the environment.")
    ] = "",
    s3_bucket: Annotated[str, typer.Option(envvar="REELTUNE_S3_BUCKET")] = "reeltune",
    log_level: Annotated[LogLevel, typer.Option(help="How much the services log.")] = LogLevel.INFO,
) -> None:
    """Run the whole mesh on this machine until Ctrl-C: servers, services, the edge and a trainer.

    A service's other settings are taken from the environment: SCHEDULER_LEASE_SECONDS=60, TRAINER_POLL_SECONDS=1 and
    so on. Ports, addresses and secrets are always chosen here.
    """
    console = Console()
    try:
        from reeltune_cli.stack.folder import FolderBusy
        from reeltune_cli.stack.options import UpOptions, external_nats, external_s3, reeltune_home
        from reeltune_cli.stack.ports import PortInUse
        from reeltune_cli.stack.secrets_file import SecretsDamaged
        from reeltune_cli.stack.up import run_up
    except ModuleNotFoundError as error:
        _refuse(f"{error.name} is missing; {_NEEDS_LOCAL}")
    try:
        options = UpOptions(
            data=data or reeltune_home() / "data",
            port=port,
            has_trainer=with_trainer,
            device=device.value,
            threads=threads,
            trainer_profile=trainer_profile.value,
            postgres_dsn=postgres_dsn,
            nats=external_nats(nats_url) if nats_url else None,
            s3=external_s3(s3_endpoint, s3_access_key, s3_secret_key, s3_bucket) if s3_endpoint else None,
            log_level=log_level.value,
        )
        code = run_up(options, console)
    except (FolderBusy, PortInUse, SecretsDamaged, ValueError, OSError) as error:
        _refuse(str(error))
    raise typer.Exit(code)


def doctor(
    data: Annotated[
        Path | None,
        typer.Option(help="The data folder to look at; by default $REELTUNE_HOME/data.", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The edge's port to look at.")] = 8443,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Check whether this machine can run Reeltune, and say what to do where it cannot."""
    from reeltune_cli.stack.doctor import examine, show, to_document
    from reeltune_cli.stack.options import reeltune_home

    with Console(stderr=True).status("looking …"):
        findings = examine(data or reeltune_home() / "data", port)
    document = to_document(findings)
    if output is OutputFormat.JSON:
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    else:
        show(findings, Console())
    raise typer.Exit(0 if document["fit"] else 1)


def trainer(
    scheduler: Annotated[str, typer.Option(help="host:port of the scheduler.")],
    join_secret: Annotated[
        str,
        typer.Option(envvar="REELTUNE_JOIN_SECRET", help="The mesh's join secret; better given in the environment."),
    ],
    catalog: Annotated[str, typer.Option(help="host:port of the catalog.")],
    auth: Annotated[str, typer.Option(help="host:port of the auth service.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder for caches; by default $REELTUNE_HOME/trainer.", show_default=False)
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Authority (PEM) of the object store's https URLs.")
    ] = None,
    services_ca: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Authority (PEM) of the services, if they use TLS.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="How the trainer is listed; by default the host's name.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 0,
    device: Annotated[DeviceChoice, typer.Option(help="Where to train.")] = DeviceChoice.AUTO,
    threads: Annotated[int, typer.Option(min=0, help="Threads for training; 0 leaves it to PyTorch.")] = 0,
    profile: Annotated[
        TrainerProfile, typer.Option(help="A machine that this one stands for.", show_default=False)
    ] = TrainerProfile.NONE,
) -> None:
    """Run a trainer for a mesh on another machine, until Ctrl-C."""
    from reeltune_cli.stack.options import reeltune_home
    from reeltune_cli.stack.remote_trainer import RemoteTrainer, TrainerNotInstalled, run_trainer

    try:
        run_trainer(
            RemoteTrainer(
                scheduler=scheduler,
                catalog=catalog,
                auth=auth,
                join_secret=join_secret,
                data=data or reeltune_home() / "trainer",
                ca=ca,
                services_ca=services_ca,
                name=name,
                host=host,
                port=port,
                device=device.value,
                threads=threads,
                profile=profile.value,
            )
        )
    except TrainerNotInstalled as error:
        _refuse(str(error))


def _refuse(text: str) -> None:
    Console(stderr=True).print(Text.assemble(("reeltune: ", "bold red"), text), soft_wrap=True)
    raise typer.Exit(1)
