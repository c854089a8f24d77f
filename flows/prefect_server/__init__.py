"""The Prefect server: its settings, its API over HTTP, and which runs it has been told of."""
