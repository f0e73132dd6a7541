"""What auth counts, in this process: replicas are summed. No label says who somebody is."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()
"""Shown by the service as a whole."""

LOG_INS = Counter(
    "reeltune_auth_log_ins_total", "Log-ins by password, and how they ended", ["result"], registry=REGISTRY
)
SIGN_UPS = Counter("reeltune_auth_sign_ups_total", "Users who signed up", registry=REGISTRY)
REFRESHES = Counter(
    "reeltune_auth_refreshes_total",
    "Refresh tokens presented, and how it ended",
    ["result"],
    registry=REGISTRY,
)
LOG_OUTS = Counter("reeltune_auth_log_outs_total", "Sessions that their users have ended", registry=REGISTRY)
TOKENS = Counter("reeltune_auth_access_tokens_issued_total", "Access tokens signed", registry=REGISTRY)
USER_CHANGES = Counter("reeltune_auth_user_changes_total", "Changes of users by admins", registry=REGISTRY)
HASH_SECONDS = Histogram(
    "reeltune_auth_password_hash_seconds",
    "Time from asking for a password to be hashed or verified until it was, the wait for a thread included",
    buckets=(0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10),
    registry=REGISTRY,
)
HASH_REFUSED = Counter(
    "reeltune_auth_password_queue_refused_total", "Passwords turned away because too many waited", registry=REGISTRY
)
REVOKED = Gauge(
    "reeltune_auth_revoked_sessions",
    "Ended sessions that services were last told of",
    registry=REGISTRY,
)

# Told as 0 from the start: of a counter that appears with its first event nobody sees the rise.
for _result in ("ok", "refused", "throttled", "disabled"):
    LOG_INS.labels(_result)
for _result in ("ok", "refused", "reused"):
    REFRESHES.labels(_result)


def show_password_queue(registry: CollectorRegistry, waiting: Callable[[], int], limit: int) -> None:
    """Shows how many passwords are being hashed or wait for it, and how many may."""
    queue = Gauge("reeltune_auth_password_queue", "Passwords being hashed, or waiting for it", registry=registry)
    queue.set_function(waiting)
    Gauge("reeltune_auth_password_queue_limit", "How many may be", registry=registry).set(limit)
