"""The steps of a run: plain functions, files in and files out, and the folders that keep them."""
