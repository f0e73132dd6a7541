"""The verdict on a model folder: what is wrong with it, or what its files say of the model. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from catalog_svc.domain.chat_template import OLD_TEMPLATE_FILE, TOKENIZER_CONFIG, chat_template_facts
from catalog_svc.domain.frame_rule import frame_rule
from catalog_svc.domain.issue import shown
from catalog_svc.domain.model import ModelFacts, ModelIssue
from catalog_svc.domain.model_parts import ModelPart, model_memory, model_parts, vocabulary_size
from catalog_svc.domain.safetensors_header import SafetensorsHeader
from catalog_svc.domain.upload import StoredFile

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
VIDEO_PREPROCESSOR = "video_preprocessor_config.json"
PARSED_FILES = (
    CONFIG, INDEX, PREPROCESSOR, PROCESSOR, VIDEO_PREPROCESSOR, TOKENIZER_CONFIG, OLD_TEMPLATE_FILE
)  # fmt: skip
"""The JSON files whose content is needed here; all others are only searched for remote code."""

_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
_SAVE_WHOLE = "save model and processor with save_pretrained into one folder, and upload all of it"
_MAX_NAMED = 5
_MAX_MODULES = 64
MAX_ISSUES = 100


@dataclass(frozen=True, slots=True)
class ModelContent:
    """What was read from a model's files."""

    files: Sequence[StoredFile]
    parsed: Mapping[str, Any]
    """By path: the JSON values of those PARSED_FILES that are there."""
    headers: Mapping[str, SafetensorsHeader]
    """By path: the headers of the sound safetensors files."""
    issues: tuple[ModelIssue, ...] = ()
    """What reading found wrong already."""
    chat_template: str | None = None
    """The text of the chat template's own file, if there is one."""


def check_model(content: ModelContent) -> ModelFacts | tuple[ModelIssue, ...]:
    """Returns the model's facts if the folder is complete and safe, else all that is wrong."""
    issues = [*content.issues, *_config_issues(content), *_weight_issues(content), *_processor_issues(content)]
    if len(issues) > MAX_ISSUES:
        what = f"{len(issues) - MAX_ISSUES} more issues are not listed"
        issues[MAX_ISSUES:] = [ModelIssue("MORE_ISSUES", what, "mend these and validate again")]
    return tuple(issues) if issues else _facts(content)


def fingerprint(files: Iterable[StoredFile]) -> str:
    """Returns SHA-256 over the sorted paths and digests of all files."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        digest.update(f"{file.sha256} {file.path}\n".encode())
    return digest.hexdigest()


def _config_issues(content: ModelContent) -> Iterable[ModelIssue]:
    config = _object(content, CONFIG)
    if not _has(content, CONFIG):
        yield ModelIssue("FILE_MISSING", "there is no config.json in the root of the folder", _SAVE_WHOLE, CONFIG)
    elif config is None:
        return  # reading it has said so
    elif not isinstance(config.get("model_type"), str) or not _architecture(config):
        what = "config.json names no model_type or no architectures"
        yield ModelIssue("CONFIG_INVALID", what, "use a model saved by transformers' save_pretrained", CONFIG)
    elif config.get("quantization_config"):
        what = "config.json says that the weights are already quantised"
        remedy = "upload the unquantised weights of the same model: they are quantised to 4 bits when a job loads them"
        yield ModelIssue("WEIGHTS_QUANTIZED", what, remedy, CONFIG)


def _weight_issues(content: ModelContent) -> Iterable[ModelIssue]:
    shards = sorted(file.path for file in content.files if file.path.endswith(".safetensors") and "/" not in file.path)
    if not shards:
        what = "there is no .safetensors file in the root of the folder"
        yield ModelIssue("FILE_MISSING", what, "save the model with safe_serialization=True and upload the weights")
    elif _has(content, INDEX):
        yield from _index_issues(content, set(shards))
    elif len(shards) > 1:
        what = f"there are {len(shards)} .safetensors files and no {INDEX} that says what is in which"
        yield ModelIssue("FILE_MISSING", what, f"upload {INDEX}", INDEX)


def _index_issues(content: ModelContent, shards: set[str]) -> Iterable[ModelIssue]:
    index = _object(content, INDEX)
    if index is None:
        return
    weight_map = index.get("weight_map")
    is_map = (
        isinstance(weight_map, dict) and weight_map and all(isinstance(shard, str) for shard in weight_map.values())
    )
    if not is_map:
        yield ModelIssue("INDEX_INVALID", f"{INDEX} has no weight_map of tensor names to files", _SAVE_WHOLE, INDEX)
        return
    assert isinstance(weight_map, dict)
    for shard in sorted(set(weight_map.values()) - shards)[:_MAX_NAMED]:
        what = f"{INDEX} names {shown(shard)}, which is not there"
        yield ModelIssue("FILE_MISSING", what, "upload it", shown(shard, 512))
    absent = [name for name, shard in weight_map.items() if _lacks(content.headers.get(shard), name)]
    for name in absent[:_MAX_NAMED]:
        what = f"{INDEX} says that {shown(weight_map[name])} holds {shown(name)}, and it does not"
        yield ModelIssue("INDEX_INVALID", what, "upload index and weights of the same model", INDEX)


def _lacks(header: SafetensorsHeader | None, tensor: str) -> bool:
    return header is not None and tensor not in header.shapes


def _processor_issues(content: ModelContent) -> Iterable[ModelIssue]:
    if not any(all(_has(content, name) for name in names) for names in _TOKENIZERS):
        what = "there is no tokenizer: neither tokenizer.json, nor tokenizer.model, nor vocab.json with merges.txt"
        yield ModelIssue("FILE_MISSING", what, _SAVE_WHOLE, "tokenizer.json")
    if not any(_has(content, name) for name in (PREPROCESSOR, PROCESSOR, VIDEO_PREPROCESSOR)):
        what = f"there is no processor: neither {PROCESSOR}, nor {PREPROCESSOR}, nor {VIDEO_PREPROCESSOR}"
        yield ModelIssue("FILE_MISSING", what, _SAVE_WHOLE, PROCESSOR)


def _facts(content: ModelContent) -> ModelFacts:
    config = _object(content, CONFIG) or {}
    video = _video_processor(content)
    tensors = [tensor for header in content.headers.values() for tensor in header.shapes.items()]
    parts = model_parts(tensors)
    return ModelFacts(
        model_type=shown(config["model_type"], 100),
        architecture=shown(_architecture(config), 200),
        parameter_count=sum(header.parameter_count for header in content.headers.values()),
        weight_bytes=sum(header.weight_bytes for header in content.headers.values()),
        size_bytes=sum(file.size_bytes for file in content.files),
        context_length=_context_length(config),
        max_frames=_size(video, "max_frames") or _size(video, "num_frames"),
        has_video_processor=video is not None,
        fingerprint=fingerprint(content.files),
        parts=tuple(_shown_part(part) for part in parts),
        memory=model_memory(parts),
        chat_template=chat_template_facts(content.chat_template, content.parsed),
        frame_rule=frame_rule(config, _object(content, PROCESSOR) or {}, video),
        vocabulary_size=vocabulary_size(tensors),
    )


def _shown_part(part: ModelPart) -> ModelPart:
    """Names come from a stranger's file: at most so many, and fit to be shown."""
    return replace(part, lora_modules=tuple(shown(name, 64) for name in part.lora_modules[:_MAX_MODULES]))


def _video_processor(content: ModelContent) -> Mapping[str, Any] | None:
    """Finds the video processor's settings: in its own file, or nested in processor_config.json (transformers 5)."""
    own = _object(content, VIDEO_PREPROCESSOR)
    if own is not None:
        return own
    nested = (_object(content, PROCESSOR) or {}).get("video_processor")
    if isinstance(nested, dict):
        return nested
    # Older checkpoints name one class for pictures and clips, and say so only by the name of the class.
    old = _object(content, PREPROCESSOR) or {}
    return old if "Video" in str(old.get("image_processor_type", "")) + str(old.get("processor_class", "")) else None


def _context_length(config: Mapping[str, Any]) -> int:
    for part in (config.get("text_config"), config.get("llm_config"), config):
        length = _size(part, "max_position_embeddings")
        if length:
            return length
    return 0


def _size(value: Any, name: str) -> int:
    size = value.get(name) if isinstance(value, dict) else None
    return size if type(size) is int and 0 < size < 1 << 31 else 0


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def _object(content: ModelContent, path: str) -> Mapping[str, Any] | None:
    value = content.parsed.get(path)
    return value if isinstance(value, dict) else None


def _has(content: ModelContent, path: str) -> bool:
    return any(file.path == path for file in content.files)
