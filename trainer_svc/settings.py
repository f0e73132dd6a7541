"""What an operator can set, by environment variables `TRAINER_…`."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from meshkit.settings import ServiceSettings
from trainer_svc.domain.attempt import AFTER_TRAINING, Recipe
from trainer_svc.domain.profile import ProfileName

_GIB = 1024**3


class TrainerSettings(ServiceSettings, env_prefix="TRAINER_"):
    """Settings of one trainer."""

    scheduler_target: str
    """`host:port` of the scheduler."""
    catalog_target: str
    auth_target: str
    nats_url: str = ""
    """Empty: no wake-ups; the scheduler is asked every `poll_seconds`."""
    nats_user: str = "trainer"
    nats_password: SecretStr = SecretStr("")
    join_secret: SecretStr
    data_dir: Path
    """Where it keeps its id, caches and working folders. One trainer at a time."""
    tls_ca: Path | None = None
    """PEM of the authority behind https URLs of the object store; unset, the system's."""
    name: str = Field(default_factory=platform.node, min_length=1, max_length=100)
    recipes: Annotated[frozenset[Recipe], NoDecode] = frozenset({Recipe.QLORA})
    """What it offers, with commas between: `qlora`, and `rehearsal` where tests want jobs that train nothing. Without
    `qlora` nothing of PyTorch is loaded, the device is not probed, and the trainer is ready in a second."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    profile: ProfileName = ProfileName.NONE
    """A machine that this one stands for, for tests: `jetson-nano-emulated` has 4 GiB for each training process, held
    to it by the system, and 4 threads, and takes jobs for Jetson boards."""
    meter_seconds: float = Field(default=5.0, ge=0, le=3600)
    """How often the device's utilisation, temperature, power and memory are reported while a job trains; 0: never."""
    devices: int = Field(default=0, ge=0, le=64)
    """How many devices one job can use together; 0: all GPUs, or one CPU. On a CPU more are processes that share its
    threads and memory: for tests."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Threads for training; 0 leaves it to the libraries."""
    poll_seconds: float = Field(default=2.0, gt=0, le=60)
    """How often an idle trainer asks for a job unasked."""
    cache_bytes: int = Field(default=50 * _GIB, ge=0)
    """Room for models, adapters and clips that may be needed again."""
    encoder_cache_bytes: int = Field(default=20 * _GIB, ge=0)
    """Room beside it for outputs of vision encoders; 0 keeps none."""
    heartbeat_seconds: float = Field(default=5.0, gt=0, le=60)
    loading_stall_seconds: float = Field(default=1800.0, gt=0)
    """Longest time without progress before the first step."""
    stall_seconds: float = Field(default=600.0, gt=0)
    """Longest time without progress afterwards."""
    stop_grace_seconds: float = Field(default=20.0, gt=0)
    """How long the training process may take to stop when a user stops the job."""
    drain_grace_seconds: float = Field(default=14.0, gt=0)
    """How long the training process may take to checkpoint when the trainer is told to go away."""
    warm_idle_seconds: float = Field(default=300.0, ge=0)
    """How long the training process of a completed job, with its base model, is kept for its owner's next; 0: not."""
    inference_idle_seconds: float = Field(default=300.0, gt=0)
    """How long a model stays loaded for questions unused."""
    inference_waiting: int = Field(default=16, ge=1, le=1000)
    """Questions that may wait."""
    inference_adapters: int = Field(default=8, ge=1, le=256)
    """Adapters kept in memory beside a loaded base model."""
    inference_adapter_bytes: int = Field(default=_GIB, gt=0)
    """Most memory of all their weights."""
    inference_during_training: Literal["auto", "always", "never"] = "auto"
    """Whether a model may be loaded for questions beside a training job; `auto`: where memory is plentiful."""
    shutdown_grace_seconds: float = Field(default=15.0, ge=0, le=300)

    services_tls_ca: str = ""
    """The former name of `peer_tls_ca`: refused, since a trainer that passed it by would speak without TLS."""

    @property
    def offered_recipes(self) -> frozenset[Recipe]:
        """All that it does: who trains can evaluate and merge what was trained."""
        return self.recipes | AFTER_TRAINING if Recipe.QLORA in self.recipes else self.recipes

    @field_validator("services_tls_ca")
    @classmethod
    def _has_another_name(cls, value: str) -> str:
        if value:
            raise ValueError("its name is TRAINER_PEER_TLS_CA now")
        return value

    @field_validator("recipes", mode="before")
    @classmethod
    def _split_recipes(cls, value: object) -> object:
        return [name.strip().upper() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("recipes")
    @classmethod
    def _offers_something(cls, value: frozenset[Recipe]) -> frozenset[Recipe]:
        if not value:
            raise ValueError("a trainer must offer a recipe: name qlora")
        return value
