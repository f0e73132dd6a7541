"""gRPC as the mesh speaks it: one server form, one client form, one form of error."""
