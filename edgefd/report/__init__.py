"""Pages, tables and plots of run folders; HTML and SVG parts that the audit page shares."""
