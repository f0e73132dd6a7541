"""The settings of the catalog service, from environment variables that begin with `CATALOG_`."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.fernet import Fernet
from pydantic import Field, SecretStr, field_validator

from meshkit.settings import ServiceSettings


class CatalogSettings(ServiceSettings, env_prefix="CATALOG_"):
    """Where the service keeps its data, and how much it takes."""

    postgres_dsn: SecretStr
    postgres_pool_size: int = Field(default=10, ge=2, le=100)
    page_token_secret: SecretStr = Field(min_length=16)

    s3_endpoint: str
    """Where this service reaches the object store, e.g. `http://127.0.0.1:8333`."""
    s3_public_url: str = ""
    """Where clients reach it, e.g. `https://127.0.0.1:8443/s3`; empty: at the endpoint."""
    s3_access_key: str
    s3_secret_key: SecretStr
    s3_bucket: str = "reeltune"
    s3_ca_file: Path | None = None
    """PEM of the authority of the store's certificate."""
    s3_threads: int = Field(default=16, ge=1, le=256)

    auth_target: str
    """`host:port` of the auth service, which signs user tokens."""
    scheduler_target: str = ""
    """`host:port` of the scheduler, which signs grants, knows live jobs and keeps quotas; empty: there is none."""

    unary_deadline_seconds: float = Field(default=120, gt=0)
    """Longer than elsewhere: CompleteUpload reads the whole file once."""

    upload_streams: int = Field(default=32, ge=1, le=1024)
    """Files streamed through the gRPC port at once; each takes up to 16 MiB of memory."""
    upload_stall_seconds: float = Field(default=60, gt=0)
    """Longest silence of a client that streams a file."""
    settlements: int = Field(default=8, ge=1, le=256)
    """Uploaded files verified at once; each takes up to 16 MiB of memory."""
    max_file_bytes: int = Field(default=50 * 1024**3, ge=1)
    max_files: int = Field(default=200_000, ge=1)
    """Of one dataset or model."""
    abandoned_upload_hours: float = Field(default=24, gt=0)
    undelete_days: float = Field(default=7, ge=0)
    """How long a deleted dataset or model can be brought back."""
    garbage_seconds: float = Field(default=5, gt=0)
    """Pause between two rounds of the collector."""
    sweep_seconds: float = Field(default=60, gt=0)
    """Pause between two steps of the search for objects that nothing refers to; a step looks at 1000."""
    sweep_after_hours: float = Field(default=3, ge=0)
    """How old an object is before that search takes note of it."""
    sweep_due_days: float = Field(default=7, ge=0)
    """What it has noted goes if it is still there, and still nobody's, after so long."""
    sweep_many: bool = False
    """Whether it goes on where most of a thousand objects are unknown; for once, when somebody has looked at them."""

    decode_processes: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=256)
    """Clips decoded at once."""
    decode_seconds: float = Field(default=30, gt=0)
    """Longest time for one clip."""
    decode_child_bytes: int = Field(default=3 * 1024**3, ge=512 * 1024**2)
    """Most address space of a decode process, libraries included (about 0.5 GiB)."""
    decode_memory_bytes: int = Field(default=0, ge=0)
    """Most address space of all decode processes together: as many run as fit, at least one; 0: no such limit."""
    max_clip_bytes: int = Field(default=4 * 1024**3, ge=1)
    max_clip_pixels: int = Field(default=40_000_000, ge=1)
    """Width times height of a frame."""
    validations: int = Field(default=2, ge=1, le=32)
    """Datasets and models validated at once; they share the decode processes."""
    validation_lease_seconds: float = Field(default=30, gt=0)
    validation_pause_seconds: float = Field(default=5, gt=0)
    """Pause before a validation goes on that an unforeseen error has cut; it doubles, and the sixth error in a row ends
    it."""
    model_tool_command: str = ""
    """Starts the program that makes previews and tries models, such as `python -m trainer_svc.qlora.model_tool`; empty:
    there are no previews, and models are not tried."""
    model_tool_processes: int = Field(default=1, ge=1, le=64)
    """Previews made at once; each process holds about a GiB of memory while it is kept."""
    model_tool_memory_bytes: int = Field(default=8 * 1024**3, ge=4 * 1024**3)
    """Address space of one process; the training libraries alone take four GiB of it."""
    model_tool_idle_seconds: float = Field(default=300, gt=0)
    """How long a process is kept that has nothing to do."""
    preview_seconds: float = Field(default=30, gt=0)
    """Longest time for one preview."""
    forward_seconds: float = Field(default=120, gt=0)
    """Longest time for the one forward step that a model is tried with."""
    forward_max_weight_bytes: int = Field(default=1024**3, ge=0)
    """Models with larger weights are not tried, only read."""
    preview_cache_bytes: int = Field(default=2 * 1024**3, ge=0)
    """Disk space for clips and models that were previewed last."""
    spool_dir: Path | None = None
    """Where each process makes a folder for clips that are decoded; None: the system's folder for temporary files."""

    imports: int = Field(default=2, ge=1, le=32)
    """Imports that run at once."""
    import_fetches: int = Field(default=4, ge=1, le=32)
    """Files that one import fetches at once; each takes up to 10 MiB of memory, and its length in `spool_dir`."""
    import_lease_seconds: float = Field(default=30, gt=0)
    import_tries: int = Field(default=5, ge=1, le=20)
    """How often a file is asked for before it is given up."""
    import_pause_seconds: float = Field(default=5, gt=0)
    """Pause before an import goes on that an unforeseen error has cut; it doubles, and the sixth error ends it."""
    import_file_seconds: float = Field(default=3600, gt=0)
    """Longest time for one file."""
    max_imports: int = Field(default=20, ge=1)
    """Running ones of one user."""
    import_ca_file: Path | None = None
    """PEM of authorities that sources are trusted by besides the public ones."""
    import_s3_endpoint: str = "https://s3.amazonaws.com"
    """Where the buckets are that are imported without a storage location."""
    import_hub_url: str = ""
    """A model hub to import from, such as `https://huggingface.co`; empty: none."""
    import_folders: str = ""
    """Absolute folders of this machine, with `:` between them, that every user may import from; empty: none."""
    import_test_hosts: str = ""
    """For tests only: `host:port`, with commas between them, that sources may be at although the address is not public,
    and over plain http. Whoever may import can then read what these servers give."""
    storage_key: SecretStr = SecretStr("")
    """Fernet keys, with commas between them, that users' storage secrets are encrypted with: the first one encrypts,
    all decrypt. Empty: no secrets are kept. To make one:
    `python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'`"""

    @field_validator("storage_key")
    @classmethod
    def _check_storage_key(cls, value: SecretStr) -> SecretStr:
        for key in filter(None, value.get_secret_value().split(",")):
            try:
                Fernet(key.strip())
            except ValueError:
                raise ValueError("must be Fernet keys: 32 bytes each, in URL-safe base64") from None
        return value

    @field_validator("import_folders")
    @classmethod
    def _check_import_folders(cls, value: str) -> str:
        for folder in filter(None, value.split(":")):
            if not folder.startswith("/") or ".." in folder.split("/") or not folder.strip("/"):
                raise ValueError("must be absolute folders other than /, without `..`")
        return value

    def decoders(self) -> int:
        """Returns how many clips are decoded at once, within both budgets."""
        if not self.decode_memory_bytes:
            return self.decode_processes
        return max(1, min(self.decode_processes, self.decode_memory_bytes // self.decode_child_bytes))
