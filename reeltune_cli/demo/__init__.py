"""The demo's material: generated clips, their questions, the dataset folder and the recipe that learns it."""
