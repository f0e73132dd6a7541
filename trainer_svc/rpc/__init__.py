"""The trainer's own gRPC services."""
