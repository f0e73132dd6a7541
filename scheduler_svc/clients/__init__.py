"""The only place with another service's stub, the object store or NATS."""
