"""What a beamtime asks for: its series, sorted into groups that are aligned together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.steps.stages import PairKind
from pipeline.align.assemble import nominal_base
from pipeline.errors import InputError
from pipeline.io.beamtime import load_beamtime
from pipeline.io.raw import SeriesInfo
from pipeline.plan import inspect_all
from pipeline.plan_views import view_groups
from schemas.beamtime import Beamtime, Product
from schemas.recipe import Polarisations
from schemas.series import Series


@dataclass(frozen=True)
class Group:
    """Series that are aligned together: one scalar series, two partners, or any polarisations.

    Attributes
    ----------
    name : of the group's steps.
    members : one series, or the partners in the order in which they are subtracted.
    kind : contrast of the partners, None for a scalar series.
    by_view : whether its frames are sorted by view: not every one has its partner, LH or LV.
    joint : whether its polarisations are fitted jointly, instead of their differences.
    partners : frames of LH that have a partner in LV, or C+ in C-.
    """

    name: str
    members: tuple[Series, ...]
    kind: PairKind | None
    by_view: bool = False
    joint: bool = False
    partners: int = 0

    @property
    def prepared(self) -> bool:
        """Whether the frames have still to be aligned."""
        return self.members[0].state in ("raw", "phase")

    @property
    def degree(self) -> float:
        """Degree of polarisation, which partners enter a difference with by their mean."""
        degrees = [member.polarisation.degree for member in self.members]
        return sum(degrees) / len(degrees)

    def base(self) -> NDArray[np.float64]:
        """Nominal rotation from the sample to the frame that turns about y."""
        tilt = self.members[0].tilt
        return nominal_base(tilt.tilt_deg, tilt.pre_rotation_deg)


@dataclass(frozen=True)
class Layout:
    """What a beamtime asks for.

    Attributes
    ----------
    beamtime, folder : as loaded.
    infos : metadata of every series.
    groups : in the order of the beamtime.
    differenced : series that come differenced.
    reference : group whose frame is the sample's; None if nothing has to be aligned.
    """

    beamtime: Beamtime
    folder: Path
    infos: Mapping[str, SeriesInfo]
    groups: tuple[Group, ...]
    differenced: tuple[Series, ...]
    reference: Group | None

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Common (ny, nx): that of the reference, or of the first series."""
        first = self.reference.members[0] if self.reference else self.beamtime.series[0]
        return self.infos[first.name].shape

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """(z, y, x) of a volume that fills the frames."""
        ny, nx = self.frame_shape
        return nx, ny, nx

    @property
    def pixel_size_m(self) -> float | None:
        """Pixel size of the reference [m]."""
        first = self.reference.members[0] if self.reference else self.beamtime.series[0]
        return self.infos[first.name].pixel_size_m

    def with_kind(self, kind: PairKind | None) -> list[Group]:
        """Groups of one contrast."""
        return [group for group in self.groups if group.kind == kind]

    def off_resonance(self) -> list[Group]:
        """Scalar groups whose phase gives the electron density."""
        first = {group.name: group.members[0] for group in self.with_kind(None)}
        return [
            group
            for group in self.with_kind(None)
            if not first[group.name].energy.resonant and not first[group.name].absorbing
        ]

    def excluding(self, wanted: Mapping[str, Sequence[int]]) -> Layout:
        """The same without some projections, by series."""

        def changed(series: Series) -> Series:
            together = sorted({*series.exclude, *wanted.get(series.name, ())})
            return series.model_copy(update={"exclude": together})

        groups = tuple(
            replace(group, members=tuple(changed(series) for series in group.members))
            for group in self.groups
        )
        names = [group.name for group in self.groups]
        reference = self.reference and groups[names.index(self.reference.name)]
        beamtime = self.beamtime.model_copy(
            update={"series": [changed(series) for series in self.beamtime.series]}
        )
        return replace(self, beamtime=beamtime, groups=groups, reference=reference or None)

    def energy_groups(self) -> dict[float, list[Group]]:
        """Scalar groups that chemistry compares, by energy in rising order; none without it."""
        chemistry = self.beamtime.chemistry
        if chemistry is None or not self.wants("chemistry"):
            return {}
        members = {series.name for series in self.beamtime.energy_series()}
        found: dict[float, list[Group]] = {}
        for group in self.with_kind(None):
            if group.name in members:
                found.setdefault(group.members[0].energy.known_ev, []).append(group)
        return dict(sorted(found.items()))

    def other_energy(self, group: Group) -> bool:
        """Whether a group shows the reference's mounting at another energy, for chemistry."""
        first, other = (self.reference or group).members[0], group.members[0]
        compared = {item.name for groups in self.energy_groups().values() for item in groups}
        return group.name in compared and first.tilt.name == other.tilt.name

    def file(self, name: str | None) -> Path | None:
        """A file beside the beamtime file."""
        return None if name is None else self.folder / name

    def wants(self, product: Product) -> bool:
        """Whether a product is asked for, or nothing in particular."""
        return not self.beamtime.products or product in self.beamtime.products

    def has(self, contrast: str) -> bool:
        """Whether the data hold a contrast."""
        return any(group.kind == contrast for group in self.groups) or any(
            series.contrast == contrast for series in self.differenced
        )


def lay_out(path: Path, polarisations: Polarisations = "auto") -> Layout:
    """Load a beamtime, check all that metadata can tell, and sort its series.

    Parameters
    ----------
    path : the beamtime file.
    polarisations : the recipe's `orientation.polarisations`.

    Raises
    ------
    InputError : the first thing that is wrong with the beamtime file or its data.
    """
    loaded = load_beamtime(path)
    beamtime = loaded.beamtime
    infos = inspect_all(beamtime, loaded.folder)
    dichroic = beamtime.dichroic_groups()
    mountings = [members[0].tilt.name for members in dichroic]
    views = view_groups(beamtime, loaded.folder, polarisations)
    groups = []
    for members, found in zip(dichroic, views, strict=True):
        first = members[0]
        kind: PairKind = "linear" if first.polarisation.kind == "linear" else "circular"
        name = first.tilt.name
        if mountings.count(name) > 1:
            name = f"{name}-{first.energy.known_ev:g}eV"
        groups.append(
            Group(
                name,
                tuple(members),
                kind,
                by_view=found.by_view,
                joint=found.joint,
                partners=found.partners,
            )
        )
    groups += [Group(series.name, (series,), None) for series in beamtime.scalar_series()]
    _check_groups(groups, path)
    reference = beamtime.reference()
    aligned_here = [group for group in groups if group.prepared]
    at_reference = [group for group in aligned_here if group.members[0].tilt.name == reference]
    differenced = tuple(series for series in beamtime.series if series.state == "differenced")
    return Layout(
        beamtime,
        loaded.folder,
        infos,
        tuple(groups),
        differenced,
        next(iter([*at_reference, *aligned_here]), None),
    )


def _check_groups(groups: Sequence[Group], path: Path) -> None:
    for group in groups:
        states = [member.state for member in group.members]
        if len({state in ("raw", "phase") for state in states}) > 1:
            raise InputError(
                f"expected partners of one state, found {' and '.join(states)}",
                path=path,
                field=f"series '{group.members[1].name}'",
            )
    for kind in ("linear", "circular"):
        energies = {group.members[0].energy.known_ev for group in groups if group.kind == kind}
        if len(energies) > 1:
            found = ", ".join(f"{energy:g}" for energy in sorted(energies))
            raise InputError(
                f"expected one resonant energy for {kind} dichroism, found {found} eV; "
                "one run reconstructs one of them",
                path=path,
                field="series",
            )
