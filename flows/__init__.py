"""Prefect flows, Dask clusters and the command line: everything that starts or watches a run."""
