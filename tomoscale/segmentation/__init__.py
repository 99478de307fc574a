"""Labels of a whole volume by trained networks: slices, windows, planes, and what their speed-ups cost."""
