"""Where steps are computed: this process, Dask workers, jobs of Slurm; and what fits there."""
