"""What the service does, each named by its verb."""
