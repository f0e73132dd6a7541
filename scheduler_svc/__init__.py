"""Training jobs: queue, leases, retries, events, watch streams, artifacts."""
