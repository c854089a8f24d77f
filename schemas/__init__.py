"""Pydantic models of everything that enters or leaves: beamtime, recipe, provenance.

Imports nothing else of this project.
"""

from schemas.beamtime import Beamtime, Material, Product, Sample, SupportFile
from schemas.cluster import Cluster
from schemas.energy import Energy
from schemas.polarisation import Polarisation
from schemas.provenance import InputFile, Provenance, StepRecord
from schemas.recipe import Recipe
from schemas.series import Contrast, Format, Series, State
from schemas.tilt import Tilt

__all__ = [
    "Beamtime",
    "Cluster",
    "Contrast",
    "Energy",
    "Format",
    "InputFile",
    "Material",
    "Polarisation",
    "Product",
    "Provenance",
    "Recipe",
    "Sample",
    "Series",
    "State",
    "StepRecord",
    "SupportFile",
    "Tilt",
]
