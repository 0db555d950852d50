"""Improve a small language model overnight, on the computer you already own."""

__version__ = "0.1.0"
