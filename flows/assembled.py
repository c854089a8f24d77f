"""The steps of a run that are finished before anything is reconstructed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.layout import Group, Layout
from flows.steps.workspace import StepResult


class Assembled:
    """Finished steps up to the assembly, by name of series or group; `shape` is that of frames.

    `refined` are the groups and differenced series whose rotations were refined.
    """

    def __init__(
        self,
        layout: Layout,
        prepared: dict[str, StepResult],
        aligned: dict[str, StepResult],
        motions: dict[str, StepResult | None],
        assembled: dict[str, StepResult],
        differenced: list[StepResult],
        shape: tuple[int, int],
        refined: Mapping[str, StepResult] | None = None,
    ):
        self.refined = dict(refined or {})
        self.layout = layout
        self.prepared = prepared
        self.aligned = aligned
        self.motions = motions
        self.assembled = assembled
        self.differenced = differenced
        self.shape = shape

    def of(self, group: Group) -> list[StepResult]:
        """Prepared series of a group."""
        return [self.prepared[series.name] for series in group.members]

    def realigned(
        self, aligned: Mapping[str, StepResult], assembled: Mapping[str, StepResult]
    ) -> Assembled:
        """The same, some groups aligned and assembled anew."""
        return Assembled(
            self.layout,
            self.prepared,
            self.aligned | dict(aligned),
            self.motions,
            self.assembled | dict(assembled),
            self.differenced,
            self.shape,
            self.refined,
        )

    def turned(self, refined: Mapping[str, StepResult]) -> Assembled:
        """The same, the rotations of some groups and differenced series refined."""
        entered = [
            refined.get(series.name, step)
            for series, step in zip(self.layout.differenced, self.differenced, strict=True)
        ]
        groups = {name: step for name, step in refined.items() if name in self.assembled}
        return Assembled(
            self.layout,
            self.prepared,
            self.aligned,
            self.motions,
            self.assembled | groups,
            entered,
            self.shape,
            self.refined | dict(refined),
        )

    def to_refine(self) -> list[tuple[str, dict[str, StepResult], list[str]]]:
        """What is to be refined together: name, steps, and the stacks in which turns are found.

        Partners are refined in their scalar channel, which has far less noise than their
        difference, and in the difference beside it, which sees turns of a round and even sample;
        series that come differenced in themselves. Scalar series beside partners keep their one
        axis, which filtered back-projection needs. Mountings that are used by view keep the
        rotations that they have.
        """
        sets = []
        both = ["scalar.h5", "differenced.h5"]
        for kind in ("linear", "circular"):
            groups = [g.name for g in self.layout.groups if g.kind == kind and not g.by_view]
            sets.append((kind, {name: self.assembled[name] for name in groups}, both))
        for contrast in ("scalar", "linear", "circular"):
            entered = {
                series.name: step
                for series, step in zip(self.layout.differenced, self.differenced, strict=True)
                if series.contrast == contrast
            }
            sets.append((f"{contrast}-differenced", entered, ["differenced.h5"]))
        return [item for item in sets if item[1]]

    def stacks(self, contrast: str) -> list[Path]:
        """Files of one contrast; without a scalar series the mean of partners is the scalar."""
        entered = [
            step.path("differenced.h5")
            for series, step in zip(self.layout.differenced, self.differenced, strict=True)
            if series.contrast == contrast
        ]
        if contrast == "scalar":
            groups = self.layout.with_kind(None) or list(self.layout.groups)
            return [*entered, *(self.assembled[g.name].path("scalar.h5") for g in groups)]
        groups = [group for group in self.layout.groups if group.kind == contrast]
        return [
            *entered,
            *(
                self.assembled[g.name].path("joint.h5" if g.joint else "differenced.h5")
                for g in groups
                if g.joint or g.partners
            ),
        ]

    def pair_stacks(self) -> dict[str, list[Path]]:
        """Differences and means of partners LH and LV, mounting by mounting."""
        groups = [g for g in self.layout.groups if g.kind == "linear" and g.partners]
        return {
            "pair_differences": [self.assembled[g.name].path("differenced.h5") for g in groups],
            "pair_means": [
                self.assembled[g.name].path("means.h5" if g.by_view else "scalar.h5")
                for g in groups
            ],
        }

    def sources(self, at_energies: Mapping[float, StepResult]) -> dict[str, Any]:
        """What the analyses need to know of the beamtime itself, see `analyses.Sources`."""
        beamtime, layout = self.layout.beamtime, self.layout
        chemistry = beamtime.chemistry
        linear = layout.with_kind("linear")
        off = layout.off_resonance()
        prepared = [series for series in beamtime.series if series.name in self.prepared]
        validation = chemistry.validation if chemistry else None
        return {
            "energy_files": [s.path("energy.npz") for s in at_energies.values()] or None,
            "energies_ev": list(at_energies) or None,
            "absorbing": any(series.absorbing for series in beamtime.energy_series()),
            "chemistry": chemistry,
            "references": layout.file(chemistry.references) if chemistry else None,
            "validation_map": layout.file(validation.file) if validation else None,
            "series": prepared or None,
            "phases": [self.prepared[s.name].path("phase.h5") for s in prepared] or None,
            "exposure": beamtime.exposure,
            "linear": self.stacks("linear") or None,
            **{name: paths or None for name, paths in self.pair_stacks().items()},
            "resonance": linear[0].members[0].energy if linear else None,
            "density_energy_ev": off[0].members[0].energy.known_ev if off else None,
            "scattering_factors": layout.file(beamtime.sample.scattering_factors),
        }

    def parts(self) -> dict[str, Any]:
        """What the result tells about series and mountings."""
        return {
            "prepared": {name: step.folder for name, step in self.prepared.items()},
            "alignments": {name: step.folder for name, step in self.aligned.items()},
            "members": {g.name: [s.name for s in g.members] for g in self.layout.groups},
            "assembled": {name: step.folder for name, step in self.assembled.items()},
            "motions": {name: folder(self.motions.get(name)) for name in self.aligned},
            "refined": {name: step.folder for name, step in self.refined.items()},
        }


def folder(step: StepResult | None) -> Path | None:
    """Folder of a step that may not have been made."""
    return None if step is None else step.folder


def output(step: StepResult | None, name: str) -> Path | None:
    """A file of a step that may not have been made."""
    return None if step is None else step.path(name)
