"""Pages of results: one HTML file that opens offline, and its figures for a paper."""
