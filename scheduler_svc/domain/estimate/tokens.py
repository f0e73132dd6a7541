"""How many tokens the rows of a dataset become, by the rule of the model's own processor.

Frames are chosen as the trainer chooses them. Sizes follow `smart_resize` of transformers 5.23
(`models/*/video_processing_*.py`); a test holds them against the processors themselves.
"""

from __future__ import annotations

import functools
import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from operator import attrgetter

from scheduler_svc.domain.estimate.facts import DatasetShape, FrameBudget, FrameRule, ModelShape, RowShape, ShapeClip
from scheduler_svc.domain.parameters import SamplingParameters

_MIN_FRAMES = 2
_CHANNELS = 3
_FIXED_PATCH_BYTES = 16 * 16 * _CHANNELS * 4
"""Towers with a fixed number of tokens have patches of 14 or 16 pixels."""
_TEMPLATE_TOKENS = 24
"""Role names and marks of two turns."""
_STEP_TOKENS = 3
"""Marks around the words before a frame."""
_SPARE = 1.05
_MOST_CHARACTERS = 3.5
_MOST_COUNTED = 1 << 10
"""Frames up to which fewer are looked at, too: more than a job or a row may ask for."""


@dataclass(frozen=True, slots=True)
class RowTokens:
    """What one row comes to."""

    visual: int
    text: int
    """An estimate: the tokenizer is not at hand."""
    answer: int
    """Of `text`, those that are learned; an estimate, too."""
    patches: int
    """What the vision tower works on."""
    frames: int
    """That the model sees."""
    pixel_bytes: int
    """Of its frames as the processor hands them over, 32 bits a number."""
    decoded_pixels: int
    """Of all frames that are decoded to get at those."""

    @property
    def total(self) -> int:
        return self.visual + self.text


_NOTHING = RowTokens(0, 0, 0, 0, 0, 0, 0)
_NUMBERS: Callable[[RowTokens], tuple[int, ...]] = attrgetter(*(field.name for field in fields(RowTokens)))


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What the rows of a dataset come to."""

    largest: RowTokens
    """The most that any row has of each; the text is that of the row that says most."""
    mean: RowTokens
    longest: RowTokens
    """Surely one row: of that with most visual tokens, the frames alone."""
    wordiest: RowTokens
    """Surely one row: of that which says most, the words alone."""
    common: RowTokens
    """No more than the mean, whatever the lengths of rows of one shape are."""
    smallest: RowTokens
    """About what the smallest rows come to; nothing where those are not known."""
    rows: int
    """For training."""


@dataclass(frozen=True, slots=True)
class _Size:
    height: int
    width: int


@functools.lru_cache(maxsize=512)
def count_tokens(model: ModelShape, dataset: DatasetShape, sampling: SamplingParameters) -> TokenCounts | None:
    """Returns the tokens of a dataset's rows; None where the model's rule or the dataset's clips are not known."""
    rule = model.frame_rule
    if rule is None or not dataset.shapes:
        return None
    rows = [(shape, _row(rule, shape, sampling, is_exact=False)) for shape in dataset.shapes]
    density = characters_per_token(model.vocabulary)
    count = max(1, sum(shape.rows for shape, _ in rows))

    def mean(values: Sequence[int]) -> int:
        return round(sum(value * shape.rows for value, (shape, _) in zip(values, rows, strict=True)) / count)

    each = [row for _, row in rows]
    # Of everything the most that a row has: no batch is larger than one of such rows.
    biggest = _combined(each, max)
    typical = _combined(each, mean)
    typical = replace(typical, frames=max(1, typical.frames))
    exact = [(shape, _row(rule, shape, sampling, is_exact=True)) for shape in dataset.shapes]
    # Of rows alike, the longest is known, and their mean: more frames never become more tokens each.
    alike = [(shape, _share(row, shape.mean_frames / max(1, shape.frames))) for shape, row in exact]
    parts = [_share(row, shape.rows / max(count, dataset.counted)) for shape, row in alike]
    return TokenCounts(
        largest=_with_words(biggest, density, dataset.max_text, dataset.max_answer, rule),
        mean=_with_words(typical, density, dataset.mean_text, dataset.mean_answer, rule),
        longest=replace(max((row for _, row in exact), key=lambda row: row.visual), text=0),
        wordiest=_words_alone(density, dataset.max_text, dataset.max_answer),
        common=_sum(functools.reduce(_sum, parts), _words_alone(density, dataset.mean_text, dataset.mean_answer)),
        smallest=replace(min((row for _, row in alike), key=lambda row: row.visual), text=0)
        if dataset.counted <= count
        else _NOTHING,
        rows=dataset.rows or count,
    )


def _share(row: RowTokens, share: float) -> RowTokens:
    """A share of a row's frames, at most all."""
    share = min(1.0, share)
    return _combined([replace(row, text=0, answer=0)], lambda values: math.floor(values[0] * share))


def _sum(one: RowTokens, other: RowTokens) -> RowTokens:
    return _combined([one, other], sum)


def _combined(rows: Sequence[RowTokens], combine: Callable[[Sequence[int]], int]) -> RowTokens:
    """Each number made of those that the rows have in its place."""
    return RowTokens(*map(combine, zip(*map(_NUMBERS, rows), strict=True)))


def _words_alone(density: float, text: float, answer: float) -> RowTokens:
    """Without what is added for the error of counting words by their characters."""
    return replace(_NOTHING, text=math.floor(text / density), answer=math.floor(answer / density))


def rows_over_context(
    model: ModelShape, dataset: DatasetShape, sampling: SamplingParameters
) -> tuple[tuple[RowShape, int], ...]:
    """Returns the shapes whose frames alone are more tokens than the model takes, with how many; most tokens first.

    Empty where anything is not known for certain: words are not counted, for their tokens are only estimated.
    """
    rule = model.frame_rule
    if rule is None or rule.is_upper_bound or not model.context_length:
        return ()
    counted = [(shape, _row(rule, shape, sampling, is_exact=True).visual) for shape in dataset.shapes]
    over = [(shape, tokens) for shape, tokens in counted if tokens > model.context_length]
    return tuple(sorted(over, key=lambda pair: -pair[1]))


def characters_per_token(vocabulary: int) -> float:
    """Returns how many characters a token stands for: 1 with 256 tokens, 3.5 with 150,000, as in Qwen's on English, and
    where the vocabulary is not known (0)."""
    if not vocabulary:
        return _MOST_CHARACTERS
    if vocabulary <= 256:
        return 1.0
    return min(_MOST_CHARACTERS, 1.0 + 2.5 * (math.log2(vocabulary) - 8) / 9.2)


def clip_tokens(rule: FrameRule, clip: ShapeClip, sampling: SamplingParameters) -> int:
    """Returns the tokens of the frames that a row takes from a clip."""
    return _clip(rule, clip, _own(clip, sampling), is_exact=True).visual


def sampled_frames(clip: ShapeClip, sampling: SamplingParameters) -> int:
    """Returns how many frames are taken: 1 to `max_frames`."""
    wanted = sampling.max_frames
    if sampling.fps > 0 and clip.fps > 0:
        covered = math.floor((clip.frames - 1) / clip.fps * sampling.fps + 1e-6) + 1
        wanted = min(max(covered, _MIN_FRAMES), sampling.max_frames)
    return max(1, min(wanted, clip.frames))


def _row(rule: FrameRule, shape: RowShape, sampling: SamplingParameters, *, is_exact: bool) -> RowTokens:
    """What the longest row of a shape comes to; unless `is_exact`, or what a shorter one may, where that is more."""
    found = (_clip(rule, clip, _own(clip, sampling), is_exact=is_exact) for clip in shape.clips)
    return functools.reduce(_sum, found, _NOTHING)


def _own(clip: ShapeClip, sampling: SamplingParameters) -> SamplingParameters:
    """The sampling with what the row says of its clip in front."""
    return replace(
        sampling,
        max_frames=clip.max_frames or sampling.max_frames,
        fps=sampling.fps if clip.sampling_fps is None else clip.sampling_fps,
        max_pixels=sampling.max_pixels if clip.max_pixels is None else clip.max_pixels,
    )


def _clip(rule: FrameRule, clip: ShapeClip, sampling: SamplingParameters, *, is_exact: bool) -> RowTokens:
    """One clip's tokens; `text` holds the number of steps whose words come before them."""
    frames = sampled_frames(clip, sampling)
    decoded = clip.frames * clip.width * clip.height
    if rule.budget is FrameBudget.FIXED:
        tokens = frames * rule.tokens_per_frame + rule.tokens_per_clip
        patches = math.ceil(frames * rule.tokens_per_frame * rule.patches_per_token)
        return RowTokens(tokens, frames, 0, patches, frames, patches * _FIXED_PATCH_BYTES, decoded)
    frames = max(frames, rule.frames_per_patch)
    size = _scaled(clip, sampling.max_pixels)
    if is_exact or rule.budget is FrameBudget.EACH_FRAME or frames > _MOST_COUNTED:
        patches = _patches(rule, size, frames)
    else:
        patches = _most_patches(rule, size, 1 << frames.bit_length())[frames]
    steps = math.ceil(frames / rule.frames_per_patch)
    pixel_bytes = patches * rule.frames_per_patch * rule.patch_size**2 * _CHANNELS * 4
    return RowTokens(patches // rule.merge_size**2, steps, 0, patches, frames, pixel_bytes, decoded)


@functools.lru_cache(maxsize=1024)
def _most_patches(rule: FrameRule, size: _Size, end: int) -> array[int]:
    """For each number of frames below `end` the most patches that so many or fewer come to: where all frames share one
    budget, rounding may give fewer of them more."""
    counts = (0 if frames < rule.frames_per_patch else _patches(rule, size, frames) for frames in range(end))
    return array("q", accumulate(counts, max))


def _patches(rule: FrameRule, size: _Size, frames: int) -> int:
    resized = _resized(rule, frames, size)
    steps = math.ceil(frames / rule.frames_per_patch)
    return steps * (resized.height // rule.patch_size) * (resized.width // rule.patch_size)


def _with_words(row: RowTokens, density: float, text: float, answer: float, rule: FrameRule) -> RowTokens:
    steps = row.text
    words = text / density + steps * (rule.characters_per_step / density + _STEP_TOKENS)
    return replace(
        row,
        text=math.ceil(_SPARE * words) + _TEMPLATE_TOKENS,
        answer=math.ceil(_SPARE * answer / density) + 2,
    )


def _scaled(clip: ShapeClip, max_pixels: int) -> _Size:
    """As the decoder scales frames down."""
    if max_pixels <= 0 or clip.height * clip.width <= max_pixels:
        return _Size(clip.height, clip.width)
    factor = math.sqrt(max_pixels / (clip.height * clip.width))
    return _Size(max(2, int(clip.height * factor) // 2 * 2), max(2, int(clip.width * factor) // 2 * 2))


def _resized(rule: FrameRule, frames: int, size: _Size) -> _Size:
    """As the processor resizes them."""
    factor = rule.patch_size * rule.merge_size
    if rule.budget is FrameBudget.ALL_FRAMES:
        most = rule.max_pixels
        if rule.max_frame_tokens:
            share = min(rule.max_frame_tokens * factor**2, rule.max_pixels // frames)
            most = max(share, int(rule.min_pixels * 1.05)) * frames
        if size.height < factor or size.width < factor:
            scale = max(factor / size.height, factor / size.width)
            size = _Size(int(size.height * scale), int(size.width * scale))
        rounded = round(frames / rule.frames_per_patch) * rule.frames_per_patch
        return _fitted(size, factor, rule.min_pixels, most, frames=frames, rounded_frames=rounded)
    most = rule.max_pixels // frames if rule.budget is FrameBudget.SHARED else rule.max_pixels
    if rule.max_clip_tokens:
        total = int(rule.max_clip_tokens * factor**2 * 0.9)
        most = max(min(most, total * rule.frames_per_patch // frames), int(rule.min_pixels * 1.05))
    return _fitted(size, factor, rule.min_pixels, most, frames=1, rounded_frames=1)


def _fitted(size: _Size, factor: int, least: int, most: int, *, frames: int, rounded_frames: int) -> _Size:
    height, width = round(size.height / factor) * factor, round(size.width / factor) * factor
    pixels = frames * size.height * size.width
    if rounded_frames * height * width > most:
        beta = math.sqrt(pixels / most) if most else math.inf
        height = max(factor, math.floor(size.height / beta / factor) * factor)
        width = max(factor, math.floor(size.width / beta / factor) * factor)
    elif rounded_frames * height * width < least:
        beta = math.sqrt(least / pixels)
        height = math.ceil(size.height * beta / factor) * factor
        width = math.ceil(size.width * beta / factor) * factor
    return _Size(max(factor, height), max(factor, width))
