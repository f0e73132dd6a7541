"""For all tests: the fixtures of meshkit (real servers, fresh databases, real channels)."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["meshkit.testing.plugin"]

# How long an example takes says something about the machine's other work, and nothing about the rule under test.
settings.register_profile("reeltune", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("reeltune")
