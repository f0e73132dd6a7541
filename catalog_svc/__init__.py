"""The catalog service: datasets, clips and base models — upload, validation, and snapshots for trainers."""
