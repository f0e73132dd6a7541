"""The object store, and the services whose tokens are accepted here."""
