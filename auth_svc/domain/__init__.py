"""Users, passwords, sessions and keys: rules without I/O."""
