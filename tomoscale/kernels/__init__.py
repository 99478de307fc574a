"""Kernels: pure functions from one padded block to one block."""
