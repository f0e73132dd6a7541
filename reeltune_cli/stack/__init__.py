"""The whole mesh on one machine: `reeltune up`, `reeltune doctor`, `reeltune trainer`."""
