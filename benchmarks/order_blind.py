"""A video model that cannot see the order of frames, in NF4, and clips that differ in nothing but their order.

Each frame passes a small vision transformer by itself; the tokens of all frames are averaged and read out. It is first
trained to name what a still clip shows; then a head is to tell whether a bar moves left or right. Reversing such a clip
turns the answer round and leaves the average, and with it a plain LoRA model's every output, as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import bitsandbytes as bnb
import torch
from torch import Tensor, nn
from torch.nn import functional

FRAMES, HEIGHT, WIDTH = 6, 8, 32
_PATCH, _SIZE, _HEADS, _BLOCKS = 4, 48, 4, 3
_COLOURS, _ROWS, _PLACES = 3, 2, 8
_BAR = 4


@dataclass(frozen=True, slots=True)
class Clips:
    """Bars of one of three colours in one of two rows, before noise."""

    pixel_values: Tensor
    """float32 (B, F, 3, H, W), -1 to 1."""
    colour: Tensor
    row: Tensor
    place: Tensor
    """Eighth of the width in which the bar stands first, 0 to 7."""
    direction: Tensor
    """0: left, 1: right."""


class OrderBlindModel(nn.Module):
    """The tower as `model.visual`, in the place where video-text models of transformers have theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.model = PooledTower()
        self.still_head = nn.Linear(_SIZE, _COLOURS + _ROWS + _PLACES)
        self.head = nn.Linear(_SIZE, 2)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits of left and right, (B, 2)."""
        logits: Tensor = self.head(self.model(pixel_values=pixel_values))
        return logits


class PooledTower(nn.Module):
    """Frame by frame, then the mean of all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(3 * _PATCH * _PATCH, _SIZE)
        self.places = nn.Parameter(0.1 * torch.randn((HEIGHT // _PATCH) * (WIDTH // _PATCH), _SIZE))
        self.visual = nn.Sequential(*(Block() for _ in range(_BLOCKS)))
        self.norm = nn.LayerNorm(_SIZE)

    def forward(self, *, pixel_values: Tensor) -> Tensor:
        """Pooled features, (B, D), of (B, F, 3, H, W)."""
        clips, frames = pixel_values.shape[:2]
        patches = functional.unfold(pixel_values.flatten(0, 1), _PATCH, stride=_PATCH).transpose(1, 2)
        tokens = self.visual(self.patches(patches) + self.places)
        pooled: Tensor = self.norm(tokens).view(clips, frames * patches.shape[1], -1).mean(1)
        return pooled


class Block(nn.Module):
    """Attention within a frame, and a feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(_SIZE), nn.LayerNorm(_SIZE)
        self.qkv, self.proj = nn.Linear(_SIZE, 3 * _SIZE), nn.Linear(_SIZE, _SIZE)
        self.fc1, self.fc2 = nn.Linear(_SIZE, 4 * _SIZE), nn.Linear(4 * _SIZE, _SIZE)

    def forward(self, tokens: Tensor) -> Tensor:
        count = tokens.shape[1]
        query, key, value = (
            self.qkv(self.norm1(tokens)).view(-1, count, 3, _HEADS, _SIZE // _HEADS).permute(2, 0, 3, 1, 4)
        )
        seen = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self.proj(seen)
        widened: Tensor = self.fc2(functional.gelu(self.fc1(self.norm2(tokens))))
        return tokens + widened


def draw(count: int, generator: torch.Generator, *, moving: bool) -> Clips:
    """Clips whose bars move at 1 to 5 pixels a frame, or stand still; everything else by chance."""

    def chance(below: int, *shape: int) -> Tensor:
        return torch.randint(0, below, (count, *shape), generator=generator)

    colour, row, direction = chance(_COLOURS), chance(_ROWS), chance(2)
    speed = 1 + chance(5)
    span = speed * (FRAMES - 1)
    first = (torch.rand(count, generator=generator) * (WIDTH - _BAR - span)).long()
    lefts = first[:, None] + speed[:, None] * torch.arange(FRAMES)
    if moving:
        lefts = torch.where(direction[:, None] == 0, lefts.flip(1), lefts)
    else:
        lefts = chance(WIDTH - _BAR + 1, 1).expand(count, FRAMES)
    across = (torch.arange(WIDTH) >= lefts[..., None]) & (torch.arange(WIDTH) < lefts[..., None] + _BAR)
    down = (torch.arange(HEIGHT) // (HEIGHT // _ROWS)) == row[:, None]
    bar = across[:, :, None, None, :] & down[:, None, None, :, None]
    lit = bar & (torch.arange(_COLOURS) == colour[:, None])[:, None, :, None, None]
    noise = 0.3 * torch.rand(count, FRAMES, 3, HEIGHT, WIDTH, generator=generator)
    pixels = torch.where(lit, torch.ones(()), noise)
    return Clips(2 * pixels - 1, colour, row, lefts[:, 0] * _PLACES // (WIDTH - _BAR + 1), direction)


def trained_base(seed: int, steps: int) -> OrderBlindModel:
    """A model that names colour, row and place of still bars."""
    torch.manual_seed(seed)
    model = OrderBlindModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed + 1)
    for _ in range(steps):
        clips = draw(48, generator, moving=False)
        colour, row, place = model.still_head(model.model(pixel_values=clips.pixel_values)).split(
            (_COLOURS, _ROWS, _PLACES), dim=1
        )
        loss = sum(
            functional.cross_entropy(logits, wanted)
            for logits, wanted in ((colour, clips.colour), (row, clips.row), (place, clips.place))
        )
        assert isinstance(loss, Tensor)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model


def quantized(model: OrderBlindModel) -> OrderBlindModel:
    """The same model with the linear layers of its blocks in NF4, double-quantised."""
    quantize_layers(model.model.visual)
    return model


def quantize_layers(part: nn.Module) -> None:
    """Puts the linear layers of `part` into NF4, double-quantised, as transformers does with a real model's."""
    for name, module in list(part.named_modules()):
        if isinstance(module, nn.Linear):
            layer = bnb.nn.Linear4bit(
                module.in_features, module.out_features, compute_dtype=torch.float32, quant_type="nf4"
            )
            layer.weight = bnb.nn.Params4bit(module.weight.data, requires_grad=False, quant_type="nf4", module=layer)
            layer.bias = module.bias
            layer.support_avx512bf16_for_cpu = False
            part.set_submodule(name, layer.to("cpu"))
