"""The gRPC face of the service: convert, call one use case, convert."""
