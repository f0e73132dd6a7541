"""How many wake-ups are worth their message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from scheduler_svc.domain.job import DeviceClass, WakeUp


def choose_to_send(wake_ups: Sequence[WakeUp], idle_trainers: int) -> tuple[Sequence[WakeUp], Sequence[WakeUp]]:
    """Returns which of some due wake-ups are to be sent, and which the others make up for; each in the same order.

    A wake-up gives no job away: it has one idle trainer ask, which then gets whatever is next for it, and goes on
    asking until nothing is left. So of each device class there are at most as many as there are idle trainers. One
    there is always: a trainer may have become idle just now.
    """
    limit = max(idle_trainers, 1)
    taken: Counter[DeviceClass] = Counter()
    sent: list[WakeUp] = []
    spared: list[WakeUp] = []
    for wake_up in wake_ups:
        taken[wake_up.device_class] += 1
        (sent if taken[wake_up.device_class] <= limit else spared).append(wake_up)
    return sent, spared
