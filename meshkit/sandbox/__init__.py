"""Child processes that read files from strangers: confined, killed at a deadline, replaced.

The parent uses `pool` and `process`, the child `child`, which imports next to nothing; nor does this file.
"""
