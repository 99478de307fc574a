"""Labels by a human in the loop: what to annotate next, and corrections brought back into a label volume."""
