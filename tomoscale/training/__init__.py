"""Training: patches from volumes, recipes, the loop, cross-validation, and what to annotate next."""
