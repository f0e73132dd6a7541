"""The commands of `reeltune`, one module a topic; each has `register(app)`."""
