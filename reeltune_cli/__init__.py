"""The command `reeltune`: a client of any mesh, and the whole mesh on one machine."""
