"""The cluster that a command line names, in place of the recipe's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError

if TYPE_CHECKING:
    from schemas.recipe import Recipe

SITE = "DICHROTOMO_CLUSTER"
"""Environment variable: the file that `--cluster slurm` takes its settings from."""

CLUSTER_HELP = (
    "none: in this process; local: worker processes here; cuda: one for each visible GPU; slurm: "
    f"jobs, with the settings of the recipe or of the file that {SITE} names; FILE.yaml: a site's "
    "settings; tls://HOST:PORT: an existing Dask scheduler. The recipe's choice (local) if absent."
)


def with_cluster(recipe: Recipe, choice: str | None) -> Recipe:
    """Recipe with the cluster that the command line names.

    Raises
    ------
    InputError : there is no such cluster, or its settings are not valid.
    """
    if choice is None:
        return recipe
    from pydantic import ValidationError

    from pipeline.io.yaml_file import load_model
    from schemas.base import explain
    from schemas.cluster import Cluster

    changes: dict[str, Any] = {"kind": choice, "address": None}
    if choice.endswith((".yaml", ".yml")):
        return recipe.model_copy(update={"cluster": load_model(Path(choice), Cluster)})
    if choice == "slurm" and recipe.cluster.kind != "slurm" and SITE in os.environ:
        cluster = load_model(Path(os.environ[SITE]), Cluster)
        if cluster.kind != "slurm":
            message = f"expected kind: slurm, found {cluster.kind}"
            raise InputError(message, path=os.environ[SITE], field="kind")
        return recipe.model_copy(update={"cluster": cluster})
    if choice.startswith(("tcp://", "tls://")):
        changes = {"kind": "address", "address": choice}
    elif choice not in ("none", "local", "cuda", "slurm"):
        raise InputError(
            f"cluster '{choice}' is not supported; expected none, local, cuda, slurm, a file of "
            "settings, or the address of a Dask scheduler such as tls://10.0.0.5:8786",
            field="--cluster",
        )
    try:
        cluster = Cluster.model_validate(recipe.cluster.model_dump() | changes)
    except ValidationError as error:
        raise InputError(explain(error, Cluster)[0], field="--cluster") from None
    return recipe.model_copy(update={"cluster": cluster})
