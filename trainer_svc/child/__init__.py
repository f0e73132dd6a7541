"""Child processes: started, spoken with, watched and killed. Nothing in the service itself loads a training library."""
