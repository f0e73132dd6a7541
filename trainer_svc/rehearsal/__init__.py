"""A recipe that trains nothing: it goes through all that a training job goes through, in milliseconds, and misbehaves
on order. For tests of everything around the training; offered only by trainers that are started for it."""
