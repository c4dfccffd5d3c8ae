"""Names of the original's server side: clients of a sidecar, and the sidecar itself."""
