"""What every service of the mesh shares, by capability."""
