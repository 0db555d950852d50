"""The candidate: all that a researcher may change, and nothing else may be."""
