"""A beamline computer: notices finished scans, starts their runs, serves dashboard and reports."""
