"""Which frames of a mounting belong together, and how their polarisations are fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.align.views import match_views
from pipeline.errors import InputError
from pipeline.io.beamtime import series_angles
from schemas.beamtime import Beamtime
from schemas.recipe import Polarisations
from schemas.series import Series

Rows = tuple[str, list[str], list[list[str]]]
"""Title, headers and rows of a table."""


PAIR = ("LH", "LV")
"""Polarisations whose difference is taken."""


@dataclass(frozen=True)
class ViewGroup:
    """How the frames of one mounting are used.

    Attributes
    ----------
    by_view : whether they are sorted by view, since not every one has its partner LH or LV.
    joint : whether the polarisations are fitted jointly.
    partners : frames of the first partner that have a second one.
    alone : frames that have none.
    tilt, labels : the mounting, and its polarisations.
    """

    by_view: bool
    joint: bool
    partners: int
    alone: int
    tilt: str = ""
    labels: tuple[str, ...] = ()


def view_groups(beamtime: Beamtime, folder: Path, polarisations: Polarisations) -> list[ViewGroup]:
    """How each of `beamtime.dichroic_groups()` is used.

    Parameters
    ----------
    beamtime, folder : as loaded.
    polarisations : the recipe's `orientation.polarisations`; `auto` takes differences unless a
        mounting has other polarisations than LH and LV or more projections without a partner than
        pairs. One field is fitted, so that all mountings go one way.

    Raises
    ------
    InputError
        If differences are asked for and no projection of a mounting has a partner, or circular
        partners do not belong together.
    """
    found = [_partners(members, folder) for members in beamtime.dichroic_groups()]
    linear = [members[0].polarisation.kind == "linear" for members in beamtime.dichroic_groups()]
    called = any(
        partners < alone or any(s.polarisation.label not in PAIR for s in members)
        for members, is_linear, (partners, alone) in zip(
            beamtime.dichroic_groups(), linear, found, strict=True
        )
        if is_linear
    )
    joint = polarisations == "joint" or (polarisations == "auto" and called)
    groups = []
    for members, is_linear, (partners, alone) in zip(
        beamtime.dichroic_groups(), linear, found, strict=True
    ):
        if is_linear and not joint and partners == 0:
            raise InputError(
                f"no projection of LH at tilt '{members[0].tilt.name}' has a partner in LV; "
                "orientation.polarisations 'difference' needs one, 'joint' does not",
                field=f"series '{members[0].name}'",
            )
        if not is_linear and alone:
            raise InputError(
                f"{alone} projections of C+ and C- at tilt '{members[0].tilt.name}' have no "
                "partner at their angle; leave them out with exclude",
                field=f"series '{members[0].name}'",
            )
        groups.append(
            ViewGroup(
                by_view=is_linear and (joint or alone > 0),
                joint=is_linear and joint,
                partners=partners,
                alone=alone,
                tilt=members[0].tilt.name,
                labels=tuple(series.polarisation.label for series in members),
            )
        )
    return groups


def _partners(members: Sequence[Series], folder: Path) -> tuple[int, int]:
    """Frames of the first partner that have a second one, and frames that have none."""
    angles = [series_angles(series, folder) for series in members]
    labels = [series.polarisation.label for series in members]
    total = sum(len(found) for found in angles)
    pair = next((p for p in (PAIR, ("C+", "C-")) if set(p) <= set(labels)), None)
    if pair is None:
        return 0, total
    one, two = (angles[labels.index(label)] for label in pair)
    if len(one) == len(two) and np.array_equal(one, two):
        return len(one), total - 2 * len(one)
    both = int((match_views([one, two]) >= 0).all(axis=0).sum())
    return both, total - 2 * both


def views_table(groups: Sequence[ViewGroup]) -> Rows:
    """Title, headers and rows of how the polarisations of each mounting are fitted."""
    headers = ["mounting", "polarisations", "partners", "without partner", "fitted"]
    rows = [
        [
            group.tilt,
            ", ".join(group.labels),
            str(group.partners),
            str(group.alone),
            "jointly" if group.joint else "difference of partners",
        ]
        for group in groups
    ]
    return "Polarisations", headers, rows
