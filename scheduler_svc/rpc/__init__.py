"""gRPC: converts, calls one use case, converts."""
