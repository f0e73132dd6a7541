"""What the catalog knows without asking anyone: states, rules for files and rows, and what is wrong with them."""
