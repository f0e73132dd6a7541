"""Reading of files from strangers, in child processes that may be killed at any time."""
