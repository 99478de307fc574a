"""Networks, model bundles, and how far a network looks."""
