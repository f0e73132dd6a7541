"""Which files a model folder may hold, and what its JSON must not ask for. Nothing in a folder is ever executed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from catalog_svc.domain.errors import FileNotAllowed
from catalog_svc.domain.file_path import extension, file_name

_ALLOWED_EXTENSIONS = frozenset({".safetensors", ".json", ".txt", ".model", ".tiktoken", ".jinja", ".md"})
_ALLOWED_NAMES = frozenset({"LICENSE", "LICENCE", "NOTICE", "USE_POLICY"})

_PICKLED = frozenset(
    {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".keras", ".msgpack"}
)
_CODE = frozenset({".py", ".pyc", ".so", ".sh", ".ipynb", ".dll"})
_OTHER_WEIGHTS = frozenset({".gguf", ".ggml", ".onnx", ".tflite", ".pb", ".engine", ".mlmodel"})

_REMOTE_CODE_KEYS = frozenset({"auto_map", "trust_remote_code", "custom_pipelines"})
MAX_KEY_PATHS = 5


def check_model_file(path: str) -> None:
    """Raises FileNotAllowed, naming the file and the remedy, for a file that no model folder may hold."""
    suffix = extension(path)
    if suffix in _ALLOWED_EXTENSIONS or file_name(path) in _ALLOWED_NAMES:
        return
    if suffix in _PICKLED:
        problem = f"{suffix} files can run code when they are loaded"
        remedy = "save the model with save_pretrained(…, safe_serialization=True) and upload its .safetensors files"
    elif suffix in _CODE:
        problem = f"{suffix} files are code, and code in a model folder is never run"
        remedy = "leave it out, and use a model that transformers knows by itself"
    elif suffix in _OTHER_WEIGHTS:
        problem = f"{suffix} weights cannot be trained from"
        remedy = "upload the .safetensors files of the same model"
    else:
        problem = "it is no file of a model folder"
        remedy = "leave it out: a model is its .safetensors, .json, tokenizer and .txt, .md or .jinja files"
    raise FileNotAllowed(path, problem, remedy)


def is_code(path: str) -> bool:
    """Tells whether a file is a program."""
    return extension(path) in _CODE


def remote_code_keys(value: Any) -> list[str]:
    """Returns the places in a JSON value (`text_config.auto_map`) that ask for code; at most MAX_KEY_PATHS."""
    found: list[str] = []
    for place in _remote_code_places(value):
        found.append(place)
        if len(found) == MAX_KEY_PATHS:
            break
    return found


def _remote_code_places(value: Any) -> Iterator[str]:
    # A stack of our own: depth comes from outside.
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        place, current = stack.pop()
        if isinstance(current, dict):
            for key, inner in current.items():
                # A vocabulary maps words, whatever they are, to whole numbers: that is no setting.
                is_token = isinstance(inner, int) and not isinstance(inner, bool)
                inner_place = f"{place}.{key}" if place else str(key)
                if key in _REMOTE_CODE_KEYS and not is_token:
                    yield inner_place
                if isinstance(inner, dict | list):
                    stack.append((inner_place, inner))
        elif isinstance(current, list):
            stack.extend((f"{place}[{n}]", inner) for n, inner in enumerate(current) if isinstance(inner, dict | list))
