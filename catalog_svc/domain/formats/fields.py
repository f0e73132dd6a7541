"""Typed reading of one row's fields, and the error that a bad field raises."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from catalog_svc.domain.file_path import BadPath, check_path, extension
from catalog_svc.domain.issue import shown
from catalog_svc.domain.media_root import MediaRoot, is_absolute
from catalog_svc.domain.sample import TRAIN_SPLIT, Role, VideoPart

MAX_MESSAGES = 200
MAX_PARTS = 200
MAX_TEXT_CHARACTERS = 128 * 1024
MAX_SAMPLE_ID_CHARACTERS = 128

# Other trainers mark the place of a clip by a tag in the text. Here a clip is a part of its own, so a tag could only
# show the clip twice, or smuggle a control token into the prompt.
_TAGS = (
    "<video>",
    "<image>",
    "<|video_pad|>",
    "<|image_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|im_start|>",
    "<|im_end|>",
)
TAG = re.compile("|".join(re.escape(tag) for tag in _TAGS))
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_SPLIT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_REMOTE = ("http://", "https://", "s3://", "gs://", "ftp://", "file://", "data:")
_IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_MEDIA_WITHOUT_PLACE = ("images", "image", "audios", "audio")
_REMOTE_REMEDY = "import the annotation file, which fetches the clip, or upload the clip and name it by its path"
_PLACE_OF_CLIP = "give the path that the clip was uploaded as"

# What other files call the three who speak here, to say what would be right.
_FOREIGN_ROLES = {
    Role.USER: ("user", "human", "question", "prompt", "q"),
    Role.ASSISTANT: ("assistant", "gpt", "chatgpt", "bot", "model", "ai", "answer", "a"),
    Role.SYSTEM: ("system", "developer", "context"),
}


class BadRow(Exception):
    """What is wrong with a row, by field."""

    def __init__(self, reason: str, field: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field
        self.message = message
        self.remedy = remedy


def read_text(value: Any, field: str) -> str:
    """Returns a text that is there, can be stored, and holds no tag; raises BadRow."""
    if not isinstance(value, str):
        raise BadRow("ROW_INVALID", field, f"{field} is {_described(value)}, not a text", "give a text")
    if len(value) > MAX_TEXT_CHARACTERS:
        raise BadRow("ROW_TOO_LONG", field, f"{field} has more than {MAX_TEXT_CHARACTERS} characters", "shorten it")
    if _UNSTORABLE.search(value):
        raise BadRow(
            "ROW_INVALID", field, f"{field} holds a character that is no text", "remove the NUL or lone surrogate"
        )
    tag = TAG.search(value)
    if tag is not None:
        remedy = "remove it: the row's clip is shown without a tag"
        raise BadRow("TAG_IN_TEXT", field, f"{field} holds the tag {tag[0]}", remedy)
    return value


def read_clip_path(value: Any, field: str, root: MediaRoot) -> str:
    """Returns the path of a clip of this dataset; raises BadRow."""
    if not isinstance(value, str) or not value.strip():
        what = f"{field} is {_described(value)}, not the path of a clip"
        raise BadRow("CLIP_PATH_INVALID", field, what, _PLACE_OF_CLIP)
    path = value.strip()
    while path.startswith("./"):
        path = path[2:]
    path = root.resolve(path)
    if path.lower().startswith(_REMOTE):
        bound = root.bind(path) if root.bind is not None else None
        if bound is None:
            what = f"{field} is the address {shown(path)!r}, not a path in this dataset"
            raise BadRow("CLIP_REMOTE", field, what, _REMOTE_REMEDY)
        path = bound
    try:
        check_path(path)
    except BadPath as error:
        what = f"the path {shown(path)!r} {error}"
        raise BadRow("CLIP_PATH_INVALID", field, what, _path_remedy(path)) from error
    if extension(path) in _IMAGES:
        what = f"{field} names the image {shown(path)!r} as a clip"
        raise BadRow("MEDIA_UNSUPPORTED", field, what, "remove the row, or make a clip of the image")
    return path


def check_media(value: Mapping[str, Any]) -> None:
    """Raises BadRow if a row shows images or plays sounds, for which a sample has no place."""
    for name in _MEDIA_WITHOUT_PLACE:
        if value.get(name):
            what = f"the row has {name}; samples are about clips only"
            raise BadRow("MEDIA_UNSUPPORTED", name, what, f"remove the row, or its {name} with their tags")


def read_list(value: Any, field: str, most: int) -> list[Any]:
    """Returns a list of 1 to `most` things; raises BadRow."""
    if not isinstance(value, list) or not value:
        what = f"{field} is {_described(value)}, not a list with something in it"
        raise BadRow("ROW_INVALID", field, what, "keep to the documented form")
    if len(value) > most:
        what = f"{field} has {len(value)} entries, at most {most} are read"
        raise BadRow("ROW_INVALID", field, what, "split the row")
    return value


def read_object(value: Any, field: str, form: str) -> Mapping[str, Any]:
    """Returns a JSON object; raises BadRow, which tells the right form."""
    if not isinstance(value, dict):
        raise BadRow("ROW_INVALID", field, f"{field} is {_described(value)}, not an object", f"write {form}")
    return value


def read_role(value: Any, field: str, roles: Mapping[str, Role], *, is_mappable: bool) -> Role:
    """Returns who speaks; raises BadRow, which tells the mapping that would mend it."""
    if isinstance(value, str) and value in roles:
        return roles[value]
    word = shown(value, 40)
    likely = [role for role, words in _FOREIGN_ROLES.items() if isinstance(value, str) and value.lower() in words]
    own = next((name for name, role in roles.items() if likely and role is likely[0]), None)
    remedy = f"write {own}" if own else f"use {', '.join(roles)}"
    if is_mappable:
        tag = f"{likely[0].value}_tag" if likely else "user_tag, assistant_tag or system_tag"
        remedy += f', or map it in dataset_info.json: "tags": {{"{tag}": "{word}"}}'
    raise BadRow("ROLE_UNKNOWN", field, f"{field} is {_described(value)}", remedy)


def read_number(value: Any, field: str, *, least: float, most: float, is_whole: bool = False) -> float | None:
    """Returns a number between `least` and `most` (both allowed), or None if absent; raises BadRow."""
    if value is None:
        return None
    number = _number(value)
    if number is None or (is_whole and number != int(number)):
        kind = "a whole number" if is_whole else "a number"
        raise BadRow(
            "ROW_INVALID", field, f"{field} is {_described(value)}, not {kind}", f"give {kind}, or leave it out"
        )
    if not least <= number <= most:
        what = f"{field} is {shown(value)}, not between {least:g} and {most:g}"
        raise BadRow("ROW_INVALID", field, what, "give a number in that range, or leave it out")
    return number


def read_video(value: Mapping[str, Any], path: str, field: str) -> VideoPart:
    """Returns a reference to the clip `path` with the limits that stand beside it; raises BadRow."""
    start = read_number(_first(value, "start", "video_start"), f"{field}.start", least=0, most=1e6)
    end = read_number(_first(value, "end", "video_end"), f"{field}.end", least=0, most=1e6)
    if end is not None and end <= (start or 0.0):
        what = f"{field}.end is {end:g}, not after its start {start or 0.0:g}"
        raise BadRow("ROW_INVALID", f"{field}.end", what, "give an end after the start, both in seconds")
    frames = read_number(
        _first(value, "max_frames", "nframes"), f"{field}.max_frames", least=1, most=100_000, is_whole=True
    )
    pixels = read_number(value.get("max_pixels"), f"{field}.max_pixels", least=1, most=1e9, is_whole=True)
    return VideoPart(
        path=path,
        start_seconds=start,
        end_seconds=end,
        fps=read_number(value.get("fps"), f"{field}.fps", least=0.001, most=1000),
        max_frames=None if frames is None else int(frames),
        max_pixels=None if pixels is None else int(pixels),
    )


def read_split(value: Any) -> str:
    """Returns the split, `train` where none is given; raises BadRow."""
    if value is None or value == "":
        return TRAIN_SPLIT
    if not isinstance(value, str) or not _SPLIT.fullmatch(value):
        what = f"split is {_described(value)}, not a name of 1 to 64 letters, digits, `.`, `_` or `-`"
        raise BadRow("ROW_INVALID", "split", what, "use train, eval or another plain name")
    return value


def read_sample_id(value: Any) -> str | None:
    """Returns the row's own id, or None where it has none; raises BadRow."""
    if value is None or value == "":
        return None
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or len(text) > MAX_SAMPLE_ID_CHARACTERS or not text.isprintable() or not text.strip():
        what = f"sample_id is {_described(value)}"
        raise BadRow(
            "ROW_INVALID",
            "sample_id",
            what,
            f"give 1 to {MAX_SAMPLE_ID_CHARACTERS} printable characters, or leave it out",
        )
    return text


def _path_remedy(path: str) -> str:
    if not is_absolute(path):
        return _PLACE_OF_CLIP
    folder = shown(path.replace("\\", "/").rpartition("/")[0] or "/")
    return f'give it relative to the dataset, or take the start off in dataset_info.json: "media_root": "{folder}"'


def _first(value: Mapping[str, Any], *names: str) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _described(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, str):
        return repr(shown(value)) if value else "empty"
    return f"the {type(value).__name__} {shown(value, 40)!r}"
