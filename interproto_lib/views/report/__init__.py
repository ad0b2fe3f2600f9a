"""The report: what the notebooks found, bound into one HTML page that opens offline."""
