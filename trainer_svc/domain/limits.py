"""How long things may take, in seconds, and how much there may be of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    heartbeat: float = 5.0
    silence: float = 15.0
    """Longest time the scheduler may leave a heartbeat or report unanswered before the stream counts as broken."""
    lost_grant: float = 30.0
    """How long a refused grant is tried again: as long as a lease."""
    loading: float = 1800.0
    """Longest time without progress before the first step."""
    progress: float = 600.0
    """Longest time without progress afterwards."""
    stop_grace: float = 20.0
    """How long the child may take to stop when a user asked; the scheduler waits 30 s for all of it."""
    stop_total: float = 26.0
    """How long after the order the last checkpoint may still be on its way: the rest is for completing the attempt."""
    last_checkpoint: float = 60.0
    """How long the last checkpoint of a training process that died may take to be published."""
    drain_grace: float = 14.0
    """How long the child may take to checkpoint when the trainer goes away."""
    drain_publish: float = 17.0
    """How long after that word the checkpoint may still be on its way: the rest is for giving the job back."""
    drain_total: float = 19.0
    """How long going away may take in all."""
    storage: float = 600.0
    """How long storage troubles are borne before the attempt is given up."""
    flush: float = 5.0
    """How long the last reports may take to be recorded before the attempt is ended."""


@dataclass(frozen=True, slots=True)
class InferenceLimits:
    waiting: int = 16
    """Questions that may wait; more are told to come back."""
    idle: float = 300.0
    """How long a model stays loaded unused."""
    loading: float = 900.0
    """Longest time until a model is loaded."""
    token: float = 180.0
    """Longest time from one piece of an answer to the next, the clip's decoding included."""
    adapters: int = 8
    """Adapters kept beside a loaded model."""
    cancel: float = 10.0
    """How long the child may take to drop a question whose asker left."""
