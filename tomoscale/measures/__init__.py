"""Measures: padded blocks to integer counts, and counts to numbers with units."""
