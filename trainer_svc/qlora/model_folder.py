"""What a model folder may hold, and what identifies it. Reads bytes and JSON only; imports no model library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer_svc.qlora.errors import ModelRefusedError

_LOADABLE = {".safetensors", ".json", ".txt", ".model", ".tiktoken", ".jinja"}
_HARMLESS = {".md", ".png", ".jpg", ".jpeg", ".webp", ".svg", ".gif", ".pdf", ""}
_EXECUTED = ("auto_map", "custom_pipelines")


def check_model_folder(folder: Path, *, needs_weights: bool = True) -> dict[str, Any]:
    """The folder's `config.json`, after every file in it was found to be data and not code.

    Raises `ModelRefusedError` naming the file: anything pickled or executable, `auto_map` or a set
    `trust_remote_code` anywhere in its JSON, no safetensors (unless not needed), no config, weights already quantised.
    """
    if not folder.is_dir():
        raise ModelRefusedError(f"{folder} is no folder", "give the folder that holds the model's config.json")
    for file in _files(folder):
        _check_file(folder, file)
    config = _read_json(folder, folder / "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelRefusedError("config.json names no model_type", "use a model saved by transformers' save_pretrained")
    if needs_weights and not any(folder.glob("*.safetensors")):
        raise ModelRefusedError("the folder holds no .safetensors file", "save the model with safe_serialization=True")
    if config.get("quantization_config"):
        raise ModelRefusedError(
            "config.json says the weights are already quantised",
            "use the unquantised weights of the same model: quantisation to 4 bits happens on loading",
        )
    return config


def max_positions(config: dict[str, Any]) -> int:
    """Longest sequence in tokens that a model was built for; 0 when its configuration does not say."""
    text = config.get("text_config", config)
    return int(text.get("max_position_embeddings") or 0)


def fingerprint(folder: Path) -> str:
    """sha256 over name and content of the weights and of config.json: the identity of a base model."""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
        digest.update(f"{file.name} {file_sha256(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def processor_sha256(folder: Path) -> str:
    """sha256 over path and content of all that is loaded but the weights: templates, tokenizer, sizes of frames."""
    digest = hashlib.sha256()
    for file in _files(folder):
        if file.suffix.lower() in _LOADABLE - {".safetensors"}:
            digest.update(f"{file.relative_to(folder).as_posix()} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


def file_sha256(file: Path) -> str:
    """Hexadecimal sha256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if not path.is_dir())


def _check_file(folder: Path, file: Path) -> None:
    name = file.relative_to(folder).as_posix()
    suffix = file.suffix.lower()
    if suffix not in _LOADABLE | _HARMLESS and not file.name.startswith("."):
        raise ModelRefusedError(
            f"the file {name} is neither weights nor configuration that is safe to load",
            "remove it; weights must be .safetensors, and code in a model folder is never run",
        )
    if suffix == ".json":
        for key in _keys(_read_json(folder, file)):
            if key in _EXECUTED or key == "trust_remote_code":
                raise ModelRefusedError(
                    f"the file {name} asks for code to be run: it has the key {key!r}",
                    "use a model that transformers knows by itself, and remove the key",
                )


def _keys(value: object) -> Iterator[str]:
    """Every key of every object that could be a setting; vocabularies (string to number) hold words, not settings."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(inner, int) or isinstance(inner, bool):
                yield key
            if isinstance(inner, (dict, list)):
                yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, (dict, list)):
                yield from _keys(inner)


def _read_json(folder: Path, file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise ModelRefusedError(
            f"there is no {file.relative_to(folder)}", "give the folder of a whole model"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelRefusedError(f"{file.relative_to(folder)} is not JSON: {error}", "upload the file again") from error
