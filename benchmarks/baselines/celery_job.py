"""What the baseline accepts, keeps and answers: the fields, ranges and defaults of our contract, in pydantic."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, model_validator


class ModuleGroup(StrEnum):
    LANGUAGE = "LANGUAGE"
    PROJECTOR = "PROJECTOR"
    VISION = "VISION"


class QuantizationType(StrEnum):
    NF4 = "NF4"
    NONE = "NONE"


class ComputeType(StrEnum):
    AUTO = "AUTO"
    BF16 = "BF16"
    FP16 = "FP16"
    FP32 = "FP32"


class Optimizer(StrEnum):
    ADAMW = "ADAMW"
    ADAMW_8BIT = "ADAMW_8BIT"


class Schedule(StrEnum):
    COSINE = "COSINE"
    LINEAR = "LINEAR"
    CONSTANT = "CONSTANT"


class DeviceClass(StrEnum):
    ANY = "ANY"
    CPU = "CPU"
    CUDA = "CUDA"
    JETSON = "JETSON"


class LoraParameters(BaseModel):
    rank: int = Field(16, ge=1, le=1024)
    alpha: float = Field(32.0, gt=0, le=4096)
    dropout: float = Field(0.05, ge=0, le=0.95)
    target_groups: list[ModuleGroup] = [ModuleGroup.LANGUAGE]
    use_rslora: bool = False
    temporal_groups: list[ModuleGroup] = []
    temporal_kernel_size: Literal[3, 5, 7, 9] = 3


class QuantizationParameters(BaseModel):
    type: QuantizationType = QuantizationType.NF4
    double_quantization: bool = True
    quantize_vision: bool = False
    compute_type: ComputeType = ComputeType.AUTO


def _frame_size(pixels: int) -> int:
    if pixels and not 256 <= pixels <= 16_777_216:
        raise ValueError("must be 0 or between 256 and 16777216")
    return pixels


class SamplingParameters(BaseModel):
    max_frames: int = Field(8, ge=1, le=768)
    fps: float = Field(0.0, ge=0, le=240)
    max_pixels: Annotated[int, AfterValidator(_frame_size)] = 0


class OptimizationParameters(BaseModel):
    learning_rate: float = Field(2e-4, gt=0, le=1)
    batch_size: int = Field(4, ge=1, le=1024)
    gradient_accumulation_steps: int = Field(1, ge=1, le=1024)
    epochs: int | None = Field(None, ge=1, le=1000)
    max_steps: int = Field(0, ge=0, le=10_000_000)
    warmup_ratio: float = Field(0.03, ge=0, le=1)
    schedule: Schedule = Schedule.COSINE
    weight_decay: float = Field(0.0, ge=0, le=1)
    max_grad_norm: float = Field(1.0, gt=0, le=1000)
    optimizer: Optimizer = Optimizer.ADAMW
    seed: int = Field(0, ge=0, lt=2**32)
    gradient_checkpointing: bool = True

    @model_validator(mode="after")
    def _counted_one_way(self) -> Self:
        if self.max_steps and self.epochs:
            raise ValueError("max_steps cannot go together with epochs")
        if not self.max_steps and self.epochs is None:
            self.epochs = 3
        return self


class TrainingParameters(BaseModel):
    lora: LoraParameters = LoraParameters()
    quantization: QuantizationParameters = QuantizationParameters()
    sampling: SamplingParameters = SamplingParameters()
    optimization: OptimizationParameters = OptimizationParameters()
    checkpoint_every_steps: int = Field(50, ge=0, le=1_000_000)
    log_every_steps: int = Field(1, ge=1, le=10_000)
    evaluate_every_steps: int = Field(0, ge=0, le=1_000_000)


class JobRequest(BaseModel):
    model_id: str = Field(pattern="^mdl_[0-9A-Z]{26}$")
    dataset_id: str = Field(pattern="^ds_[0-9A-Z]{26}$")
    name: str = Field("", max_length=100)
    parameters: TrainingParameters = TrainingParameters()
    device_class: DeviceClass = DeviceClass.ANY
    request_id: UUID | None = None
    """Accepted and not used: the classic service does not make retries safe."""


class Job(BaseModel):
    id: str
    name: str
    owner_id: str
    model_id: str
    dataset_id: str
    parameters: TrainingParameters
    device_class: DeviceClass
    state: str = "QUEUED"
    reason: str = "UNSPECIFIED"
    message: str = ""
    attempt: int = 0
    create_time: datetime
    update_time: datetime


CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    id text PRIMARY KEY, owner_id text NOT NULL, name text NOT NULL, model_id text NOT NULL, dataset_id text NOT NULL,
    parameters jsonb NOT NULL, device_class text NOT NULL, state text NOT NULL, reason text NOT NULL,
    message text NOT NULL DEFAULT '', attempt integer NOT NULL DEFAULT 0, worker_id text,
    create_time timestamptz NOT NULL, update_time timestamptz NOT NULL, start_time timestamptz, end_time timestamptz
);
CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner_id, create_time DESC, id DESC);
"""
INSERT = """
INSERT INTO jobs (
    id, owner_id, name, model_id, dataset_id, parameters, device_class, state, reason, create_time, update_time
)
VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7, 'QUEUED', 'UNSPECIFIED', now(), now())
RETURNING create_time
"""
