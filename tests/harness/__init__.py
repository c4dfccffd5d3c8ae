"""What the demonstration, the end-to-end tests and the benchmarks share."""
