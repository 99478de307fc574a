"""What notebooks show of volumes, plans and runs."""
