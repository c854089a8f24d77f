"""The command line's parts beside its main module: results, service, batch, and how they print."""
