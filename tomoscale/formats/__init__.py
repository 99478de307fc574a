"""Readers of what beamlines write."""
