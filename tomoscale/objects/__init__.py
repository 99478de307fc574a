"""What needs the identity of objects across blocks: two passes over the volume, and something small in between."""
