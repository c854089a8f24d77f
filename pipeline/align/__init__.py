"""Alignment: within a series by tomographic consistency, between series by registration."""
