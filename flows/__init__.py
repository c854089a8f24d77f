"""Prefect flows, Dask clusters and the command line: everything that starts or watches a run.

Read first, in this order::

    cli            the command line
    beamtime_flow  the path of a beamtime, from raw projections to the report
    preview_flow   the same while it is measured: what has arrived, on coarse pixels
    tasks          the steps of both as Prefect tasks: which files and settings go into which
    layout         what a beamtime asks for: its series, sorted into groups
    assembled      the steps that are finished before anything is reconstructed
    run            the means of a run: work folder, cluster, display
    running        a beamtime as a flow run of a server that may be away
    approval       where a run waits for its operator
    study          the robustness study of a finished run

then what they stand on::

    steps           what a run computes: plain functions, files in and files out, kept and reused
    cluster         where it is computed: this process, Dask workers, Slurm; memory and disk
    prefect_server  the server's settings, its API, and which runs it has been told of
    display         progress and quality in the terminal and on the page of a run
    service         `serve` and `watch`: a beamline computer that notices scans and starts runs
    batches         `batch`: many beamtimes after another or at the same time
    command         the other commands: about a result, the service, a batch; tables and errors

`steps` imports nothing else of `flows`: the code that a step may run is the code in its key.
"""
