"""What a training job will take, counted before it starts: tokens, memory by part, time, and what would fit. Pure."""
