"""What the benchmarks compare with: the classic way of doing the same."""
