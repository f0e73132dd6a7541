"""What a model will see of a sample."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_SHOWN_FRAMES = 16


@dataclass(frozen=True, slots=True)
class PreviewSettings:
    """What is asked for; None: as a job has it by default."""

    max_frames: int | None = None
    fps: float | None = None
    max_pixels: int | None = None
    shown_frames: int = DEFAULT_SHOWN_FRAMES
    """Most pictures, of all clips together."""

    def sampling(self) -> dict[str, float]:
        """Returns what is not left to the defaults."""
        values = {"max_frames": self.max_frames, "fps": self.fps, "max_pixels": self.max_pixels}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class PreviewFrame:
    """A frame that is fed to the model."""

    position: int
    """Among the frames that are fed."""
    index: int
    """Among the clip's frames."""
    seconds: float
    width: int
    height: int
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class PreviewClip:
    """A clip as the model sees it."""

    path: str
    frame_count: int
    """Frames that are fed."""
    clip_frame_count: int
    decoder: str
    width: int
    height: int
    model_width: int
    """After the model's processor; 0 where it does not say."""
    model_height: int
    as_seen: bool
    """The pictures are what the model sees, not what its processor is given."""
    frames: tuple[PreviewFrame, ...]


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Tokens in a row that are alike."""

    is_label: bool
    is_video: bool
    count: int
    ids: tuple[int, ...]
    """Of a video span the one id that is repeated."""
    text: str


@dataclass(frozen=True, slots=True)
class PreviewWarning:
    """Something that the owner should know."""

    reason: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class SamplePreview:
    """What training would feed a model for one sample."""

    max_frames: int
    fps: float
    max_pixels: int
    clips: tuple[PreviewClip, ...]
    text: str
    tokens: int
    video_tokens: int
    label_tokens: int
    token_limit: int
    """0: the model does not say."""
    spans: tuple[TokenSpan, ...]
    warnings: tuple[PreviewWarning, ...]
