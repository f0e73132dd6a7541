"""Where users, sessions, login failures and keys are kept; the only place with SQL."""
