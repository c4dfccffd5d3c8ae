"""Classes that inference engines look for under fixed names."""
