"""What the scheduler does, named by verb."""
