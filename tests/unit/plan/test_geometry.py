"""What a geometry determines: missing components by name, fewer mountings, planned beamtimes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import GeometryError, InputError
from pipeline.io.beamtime import load_beamtime
from pipeline.plan import judge_plan
from pipeline.plan_geometry import check_geometry, judge_geometry
from pipeline.plan_views import view_groups
from pipeline.report.conditioning import geometry_picture
from pipeline.tomography.contrast import (
    circular_weights,
    linear_difference_weights,
    polarised_weights,
)
from pipeline.tomography.geometry import series_rotations
from schemas.recipe import GeometrySettings, OrientationSettings, Recipe

ANGLES = np.arange(0.0, 180.0, 5.0)
MOUNTINGS = [(0.0, 0.0), (30.0, 0.0), (30.0, 90.0), (30.0, -90.0)]


def rotations(*mountings: tuple[float, float]) -> np.ndarray:
    return np.concatenate([series_rotations(ANGLES, *mounting) for mounting in mountings])


def names_of(*mountings: tuple[float, float]) -> np.ndarray:
    return np.repeat([f"m{k}" for k in range(len(mountings))], len(ANGLES))


def test_one_axis_leaves_the_shears_along_it_unseen() -> None:
    turned = rotations(MOUNTINGS[0])
    geometry = judge_geometry("linear", turned, linear_difference_weights(turned), 64)
    assert geometry.missing == ["yz", "xy"]
    assert geometry.problem == (
        "the geometry cannot determine yz, xy of the orientation tensor: none of its 36 "
        "projections depends on it; add a mounting with another rotation axis, or set "
        "geometry.force to have it made up by the prior"
    )
    vector = judge_geometry("circular", turned, circular_weights(turned), 64)
    assert vector.missing == ["y"]


def test_a_tilted_axis_leaves_mixtures_unseen() -> None:
    turned = rotations((45.0, 0.0))
    vector = judge_geometry("circular", turned, circular_weights(turned), 64)
    assert vector.missing == ["a mixture of x and y"]


def test_a_second_mounting_is_enough_and_a_tiny_tilt_is_none() -> None:
    for tilt, missing in ((30.0, []), (0.5, ["yz", "xy"])):
        turned = rotations((0.0, 0.0), (tilt, 0.0))
        geometry = judge_geometry("linear", turned, linear_difference_weights(turned), 64)
        assert geometry.missing == missing


def test_each_mounting_adds_to_what_is_determined() -> None:
    turned = rotations(*MOUNTINGS)
    weights = linear_difference_weights(turned)
    geometry = judge_geometry("linear", turned, weights, 64, mountings=names_of(*MOUNTINGS))
    assert [item.names[-1] for item in geometry.mountings] == ["m0", "m1", "m2", "m3"]
    rank = [item.at.components for item in geometry.mountings]
    assert rank == sorted(rank)
    assert rank[3] > 2.0 * rank[0]
    assert geometry.mountings[-1].at == geometry.frequencies[2]
    assert [bool(item.missing) for item in geometry.mountings] == [True, False, False, False]
    assert np.mean(geometry.rank) == pytest.approx(rank[3])


def test_one_polarisation_alone_sees_less_than_two() -> None:
    turned = rotations(*MOUNTINGS)
    single = polarised_weights(turned, 0.0, 0.64)
    both = np.concatenate([single, polarised_weights(turned, 90.0, 0.64)])
    one = judge_geometry("linear", turned, single, 64)
    two = judge_geometry("linear", np.concatenate([turned, turned]), both, 64)
    assert one.names[-1] == two.names[-1] == "isotropic"
    assert (one.most, one.missing, two.missing) == (6, [], [])
    assert one.frequencies[2].components < two.frequencies[2].components <= 6.0


def series(name: str, angle_deg: float, tilt: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "files": [f"{name}/*.h5"],
        "tilt": tilt,
        "polarisation": {"kind": "linear", "angle_deg": angle_deg, "degree": 0.64},
        "energy": {"energy_ev": 5468.0},
        "angles_deg": ANGLES.tolist(),
        **changes,
    }


def planned(folder: Path, *members: dict[str, Any], **changes: Any) -> Path:
    path = folder / "planned.yaml"
    content = {"sample": {"name": "planned"}, "series": list(members), **changes}
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


UPRIGHT, TILTED = {"name": "t1"}, {"name": "t2", "tilt_deg": 30.0}


def test_a_beamtime_is_judged_before_it_is_measured(tmp_path: Path) -> None:
    path = planned(tmp_path, series("lh", 0.0, UPRIGHT), series("lv", 90.0, UPRIGHT))
    with pytest.raises(InputError, match=r"lh/\*\.h5"):
        load_beamtime(path)
    loaded = load_beamtime(path, planned=True)
    plan = judge_plan(loaded.beamtime, loaded.folder, Recipe(), 100)
    assert len(plan.problems) == 1
    assert "cannot determine yz, xy of the orientation tensor" in plan.problems[0]
    assert [title.split(",")[0] for title, _, _ in plan.tables()] == ["Polarisations", "Geometry"]
    assert json.dumps(plan.as_json())
    forced = Recipe(geometry=GeometrySettings(force=True))
    assert judge_plan(loaded.beamtime, loaded.folder, forced, 100).problems == []


def test_only_products_that_are_wanted_are_refused(tmp_path: Path) -> None:
    pair = series("lh", 0.0, UPRIGHT), series("lv", 90.0, UPRIGHT)
    loaded = load_beamtime(planned(tmp_path, *pair, products=["density"]), planned=True)
    plan = judge_plan(loaded.beamtime, loaded.folder, Recipe(), 100)
    assert plan.problems == []
    wanted = load_beamtime(planned(tmp_path, *pair, products=["grains"]), planned=True)
    with pytest.raises(GeometryError, match="cannot determine yz, xy"):
        check_geometry(wanted.beamtime, plan.geometry)


def test_differences_are_taken_unless_the_data_call_for_more(tmp_path: Path) -> None:
    members = [series("a", 0.0, UPRIGHT), series("b", 90.0, UPRIGHT), series("c", 0.0, TILTED)]
    missing = load_beamtime(planned(tmp_path, *members), planned=True)
    groups = view_groups(missing.beamtime, missing.folder, "auto")
    assert [(g.by_view, g.joint, g.partners, g.alone) for g in groups] == [
        (True, True, 36, 0),
        (True, True, 0, 36),
    ]
    with pytest.raises(InputError, match="no projection of LH at tilt 't2' has a partner in LV"):
        view_groups(missing.beamtime, missing.folder, "difference")
    members.append(series("d", 90.0, TILTED))
    complete = load_beamtime(planned(tmp_path, *members), planned=True)
    groups = view_groups(complete.beamtime, complete.folder, "auto")
    assert [(g.by_view, g.joint) for g in groups] == [(False, False)] * 2
    groups = view_groups(complete.beamtime, complete.folder, "joint")
    assert [(g.by_view, g.joint) for g in groups] == [(True, True)] * 2
    members[3]["exclude"] = [0, 5]
    some = load_beamtime(planned(tmp_path, *members), planned=True)
    groups = view_groups(some.beamtime, some.folder, "auto")
    assert [(g.by_view, g.joint, g.partners, g.alone) for g in groups] == [
        (False, False, 36, 0),
        (True, False, 34, 2),
    ]
    diagonal = [*members, series("e", 45.0, TILTED)]
    more = load_beamtime(planned(tmp_path, *diagonal), planned=True)
    assert all(g.joint for g in view_groups(more.beamtime, more.folder, "auto"))


def test_helicities_that_do_not_belong_together(tmp_path: Path) -> None:
    def circular(name: str, helicity: int, **changes: Any) -> dict[str, Any]:
        light = {"kind": "circular", "helicity": helicity}
        return series(name, 0.0, UPRIGHT, polarisation=light, **changes)

    path = planned(tmp_path, circular("p", 1), circular("m", -1, exclude=[3]))
    loaded = load_beamtime(path, planned=True)
    expected = "1 projections of C\\+ and C- at tilt 't1' have no partner at their angle"
    with pytest.raises(InputError, match=expected):
        view_groups(loaded.beamtime, loaded.folder, "auto")


def test_the_picture_is_one() -> None:
    turned = rotations(*MOUNTINGS)
    weights = linear_difference_weights(turned)
    geometry = judge_geometry("linear", turned, weights, 64, mountings=names_of(*MOUNTINGS))
    assert geometry_picture([geometry]).startswith(b"\x89PNG")


def test_joint_settings_are_named_in_the_recipe() -> None:
    assert Recipe().orientation.polarisations == "auto"
    assert OrientationSettings(polarisations="joint").polarisations == "joint"
