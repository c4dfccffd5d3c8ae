"""End to end: real vLLM on the CPU, a real sidecar in another process."""
