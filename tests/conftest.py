"""For all tests: the fixtures of meshkit (real servers, fresh databases, real channels)."""

pytest_plugins = ["meshkit.testing.plugin"]
