"""A model with a tower, a projector and a language part, in NF4, and two ways in which its task may change.

It sees a picture of a bar and is asked for the bar's colour, row or place. Then either the pictures change (a dark bar
on bright noise: the tower has most to learn) or the questions do (new words, whose answers are sums and parities of
what was asked for before: the language part has).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.order_blind import Block, quantize_layers

Shift = Literal["none", "vision", "language"]
_HEIGHT, _WIDTH, _PATCH, _SIZE, _BAR = 8, 32, 4, 48, 4
_PATCHES = (_HEIGHT // _PATCH) * (_WIDTH // _PATCH)
_COLOURS, _ROWS, _PLACES = 3, 2, 8
_FIRST_ROW, _FIRST_PLACE = _COLOURS, _COLOURS + _ROWS
_ANSWERS = _COLOURS + _ROWS + _PLACES
_QUESTIONS = 3
TARGETS = r"(visual|language)\.\d\.(qkv|proj|fc1|fc2)|projector"


class ThreePartModel(nn.Module):
    """Picture tokens and one question token in, one of thirteen answers out."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(3 * _PATCH * _PATCH, _SIZE)
        self.places = nn.Parameter(0.1 * torch.randn(_PATCHES, _SIZE))
        self.visual = nn.Sequential(*(Block() for _ in range(3)))
        self.visual_norm = nn.LayerNorm(_SIZE)
        self.projector = nn.Linear(_SIZE, _SIZE)
        # The second half are words that the base never saw.
        self.questions = nn.Embedding(2 * _QUESTIONS, _SIZE)
        self.positions = nn.Parameter(0.1 * torch.randn(_PATCHES + 1, _SIZE))
        self.language = nn.Sequential(*(Block() for _ in range(3)))
        self.language_norm = nn.LayerNorm(_SIZE)
        self.head = nn.Linear(_SIZE, _ANSWERS)

    def forward(self, picture: Tensor, question: Tensor) -> Tensor:
        """Logits, (B, 13), of (B, 3, H, W) and (B,)."""
        patches = functional.unfold(picture, _PATCH, stride=_PATCH).transpose(1, 2)
        seen = self.projector(self.visual_norm(self.visual(self.patches(patches) + self.places)))
        tokens = torch.cat([seen, self.questions(question)[:, None]], dim=1) + self.positions
        logits: Tensor = self.head(self.language_norm(self.language(tokens)[:, -1]))
        return logits


def draw(count: int, generator: torch.Generator, shift: Shift) -> tuple[Tensor, Tensor, Tensor]:
    """(pictures, questions, answers) by chance."""

    def chance(below: int) -> Tensor:
        return torch.randint(0, below, (count,), generator=generator)

    colour, row, left, asked = chance(_COLOURS), chance(_ROWS), chance(_WIDTH - _BAR + 1), chance(_QUESTIONS)
    place = left * _PLACES // (_WIDTH - _BAR + 1)
    across = (torch.arange(_WIDTH) >= left[:, None]) & (torch.arange(_WIDTH) < left[:, None] + _BAR)
    down = torch.arange(_HEIGHT) // (_HEIGHT // _ROWS) == row[:, None]
    bar = (down[:, :, None] & across[:, None, :])[:, None] & (torch.arange(_COLOURS) == colour[:, None])[
        ..., None, None
    ]
    noise = 0.3 * torch.rand(count, 3, _HEIGHT, _WIDTH, generator=generator)
    picture = torch.where(bar, 0.35, 1 - noise) if shift == "vision" else torch.where(bar, 1.0, noise)
    answers = torch.stack([colour, _FIRST_ROW + row, _FIRST_PLACE + place])
    if shift == "language":
        answers = torch.stack(
            [
                (colour + row) % _COLOURS,
                _FIRST_ROW + ((colour > 0).long() ^ row),
                _FIRST_PLACE + (place + 3 * row) % _PLACES,
            ]
        )
    answer = answers.gather(0, asked[None]).squeeze(0)
    return 2 * picture - 1, asked + (_QUESTIONS if shift == "language" else 0), answer


def trained_base(seed: int, steps: int) -> ThreePartModel:
    """A model that answers the old questions about the old pictures."""
    torch.manual_seed(seed)
    model = ThreePartModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed + 1)
    for _ in range(steps):
        picture, question, answer = draw(128, generator, "none")
        loss = functional.cross_entropy(model(picture, question), answer)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model


def quantized(model: ThreePartModel) -> ThreePartModel:
    """The same model with the linear layers of tower and language part in NF4; the projector stays as it is."""
    quantize_layers(model.visual)
    quantize_layers(model.language)
    return model
