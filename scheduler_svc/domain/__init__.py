"""What a training job is and may become: pure, standard library only."""
