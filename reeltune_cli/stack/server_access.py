"""Who may do what on the servers that services share: users of NATS and of the object store, each with the least."""

from __future__ import annotations

from meshkit.embedded import NatsUser, S3Identity
from reeltune_cli.stack.secrets_file import StackSecrets

BUCKETS = {"catalog": "reeltune-catalog", "scheduler": "reeltune-scheduler"}


def nats_users(secrets: StackSecrets) -> tuple[NatsUser, NatsUser]:
    """The scheduler publishes wake-ups and keeps the stream; a trainer takes and acknowledges them, and no more."""
    scheduler = NatsUser(
        "scheduler",
        secrets.scheduler_nats,
        publish=(
            "jobs.v1.*",
            "$JS.API.INFO",
            *(f"$JS.API.STREAM.{verb}.JOBS" for verb in ("CREATE", "UPDATE", "INFO")),
            *(f"$JS.API.CONSUMER.{verb}.JOBS.>" for verb in ("CREATE", "DURABLE.CREATE", "INFO")),
        ),
        subscribe=("_INBOX_scheduler.>",),
    )
    trainer = NatsUser(
        "trainer",
        secrets.trainer_nats,
        publish=("$JS.API.CONSUMER.MSG.NEXT.JOBS.*", "$JS.API.CONSUMER.INFO.JOBS.*", "$JS.ACK.JOBS.>"),
        subscribe=("_INBOX_trainer.>",),
    )
    return scheduler, trainer


def s3_identities(secrets: StackSecrets) -> tuple[S3Identity, S3Identity]:
    """One identity for each service that has a bucket, good for that bucket only."""
    catalog, scheduler = (
        S3Identity(name, getattr(secrets, f"{name}_s3"), (f"Admin:{bucket}",)) for name, bucket in BUCKETS.items()
    )
    return catalog, scheduler
