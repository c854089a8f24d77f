"""The report: figures and one HTML page that opens offline."""
