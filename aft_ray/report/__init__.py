"""A run as people look at it: one page, report.html, that needs nothing but a browser."""
