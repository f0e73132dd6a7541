"""What a trainer does, named by verb."""
