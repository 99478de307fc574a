"""The method sections of the papers as functions."""
