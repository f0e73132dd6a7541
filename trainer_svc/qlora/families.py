"""What differs between families of video-text models: where their parts sit.

Module names are those of transformers 5.x; `find_family` refuses a model whose parts it cannot tell apart,
because a wrong guess would quantise the vision tower or leave adapters out, silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from trainer_svc.qlora.errors import ModelRefusedError
from trainer_svc.qlora.spec import TargetGroup, TemporalGroup

if TYPE_CHECKING:
    from torch import nn

FrameLayout = Literal["grid", "stacked"]
"""How a part holds a clip's frames. grid: one after another in one row of tokens, their numbers in `video_grid_thw`.
stacked: a batch of pictures, clip after clip, of a `(clips, frames, …)` input."""


@dataclass(frozen=True, slots=True)
class EncoderCall:
    """How the model's parts up to the language model are run apart from it, and their outputs handed to it."""

    method: str
    """Of the inner model: its arguments are `pixels` and `shapes`."""
    modality: Literal["image", "video"]
    """The key that the outputs go under; some families show clips as pictures."""
    pixels: tuple[str, ...]
    """Inputs that nothing else takes."""
    shapes: tuple[str, ...] = ()
    """Inputs that the rest of the model takes as well."""
    is_listed: bool = True
    """Whether the outputs are a list of tensors, one for each clip, or one tensor."""


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """Dotted module prefixes of the parts. A prefix of the projector wins over one of the vision tower it sits in."""

    name: str
    vision: tuple[str, ...]
    projector: tuple[str, ...]
    language: tuple[str, ...]
    head: str = "lm_head"
    probed: bool = False
    """Found by module names, not by the registry."""
    frame_layouts: Mapping[TemporalGroup, FrameLayout] = field(default_factory=dict)
    """The parts in which a token's frame is known."""
    encoder: EncoderCall | None = None
    """None: its vision encoder is run as part of the model only."""

    def group_of(self, module_name: str) -> TargetGroup | None:
        """The part that a module belongs to; None for the head and whatever stands outside."""
        groups: tuple[tuple[TargetGroup, tuple[str, ...]], ...] = (
            ("projector", self.projector),
            ("vision", self.vision),
            ("language", self.language),
        )
        for group, prefixes in groups:
            if any(module_name == prefix or module_name.startswith(prefix + ".") for prefix in prefixes):
                return group
        return None

    def skip_modules(self, quantize_vision: bool) -> list[str]:
        """For `BitsAndBytesConfig(llm_int8_skip_modules=…)`.

        Full dotted names: transformers matches them from the start of the module's name, so that a bare "visual"
        skips nothing; and giving any list drops its own exception for the head.
        """
        kept = (*self.projector, *(() if quantize_vision else self.vision), self.head)
        return list(dict.fromkeys(kept))


_GRID_CALL = EncoderCall("get_video_features", "video", ("pixel_values_videos",), ("video_grid_thw",))


def _qwen(name: str, *mergers: str) -> ModelFamily:
    layouts: dict[TemporalGroup, FrameLayout] = {"vision": "grid", "language": "grid"}
    return ModelFamily(
        name, ("model.visual",), mergers, ("model.language_model",), frame_layouts=layouts, encoder=_GRID_CALL
    )


def _llava_like(name: str, layouts: Mapping[TemporalGroup, FrameLayout], encoder: EncoderCall) -> ModelFamily:
    return ModelFamily(
        name,
        ("model.vision_tower",),
        ("model.multi_modal_projector",),
        ("model.language_model",),
        frame_layouts=layouts,
        encoder=encoder,
    )


FAMILIES: dict[str, ModelFamily] = {
    family.name: family
    for family in (
        _qwen("qwen3_vl", "model.visual.merger", "model.visual.deepstack_merger_list"),
        _qwen("qwen2_5_vl", "model.visual.merger"),
        _qwen("qwen2_vl", "model.visual.merger"),
        ModelFamily(
            "smolvlm",
            ("model.vision_model",),
            ("model.connector",),
            ("model.text_model",),
            frame_layouts={"vision": "stacked"},
            encoder=EncoderCall("get_image_features", "image", ("pixel_values", "pixel_attention_mask")),
        ),
        _llava_like(
            "llava_onevision",
            {"vision": "stacked"},
            EncoderCall("get_video_features", "video", ("pixel_values_videos",), is_listed=False),
        ),
        # Its processor hands over frames without saying which clip they are of.
        _llava_like("internvl", {}, EncoderCall("get_image_features", "image", ("pixel_values",), is_listed=False)),
        # Its compression drops tokens on the way to the language model.
        ModelFamily(
            "video_llama_3",
            ("model.vision_model",),
            ("model.projector",),
            ("model.language_model",),
            frame_layouts={"vision": "grid"},
            encoder=EncoderCall(
                "get_video_features",
                "video",
                ("pixel_values_videos",),
                ("video_grid_thw", "video_merge_sizes"),
            ),
        ),
    )
}

_VISION_NAMES = ("visual", "vision_tower", "vision_model", "vision_encoder")
_PROJECTOR_NAMES = ("multi_modal_projector", "projector", "connector", "merger", "aligner", "mm_projector")
_LANGUAGE_NAMES = ("language_model", "text_model")


def find_family(model_type: str, skeleton: nn.Module) -> ModelFamily:
    """The family of a model, given its type and the model itself (weights not needed: the meta device does).

    Raises `ModelRefusedError` when a part named by the registry is absent or an unknown model's parts cannot be found.
    """
    modules = {name for name, _ in skeleton.named_modules()}
    family = FAMILIES.get(model_type) or _probe(model_type, modules)
    absent = [prefix for prefix in (*family.vision, *family.projector, *family.language) if prefix not in modules]
    if absent:
        raise ModelRefusedError(
            f"a model of type {model_type} should have {', '.join(absent)}, and this one has not",
            "check that the folder's config.json belongs to its weights",
        )
    return family


def _probe(model_type: str, modules: Iterable[str]) -> ModelFamily:
    names = sorted(modules, key=lambda name: (name.count("."), name))

    def first(leaves: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name.rpartition(".")[2] in leaves and name.count(".") <= 2)[:1]

    vision, language, projector = first(_VISION_NAMES), first(_LANGUAGE_NAMES), first(_PROJECTOR_NAMES)
    if not vision or not language:
        missing = "vision tower" if not vision else "language model"
        raise ModelRefusedError(
            f"models of type {model_type!r} are not known, and no {missing} was found by its module names",
            f"use a model of one of these types: {', '.join(sorted(FAMILIES))}",
        )
    return ModelFamily(model_type, vision, projector, language, probed=True)
