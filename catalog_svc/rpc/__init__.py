"""The services of `reeltune.catalog.v1`: convert, call one use case, convert."""
