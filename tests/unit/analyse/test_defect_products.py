"""Products of defects, resolution and edges come back from files as they were, empty or not."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.analyse import defect_lines, defects_plane, edges, hedgehogs, resolution
from pipeline.io.product import Product
from pipeline.io.product_files import load_product, save_product
from pipeline.io.product_nexus import read_products, write_products
from pipeline.report.products import product_section

N = 24
Z, Y, X = np.indices((N, N, N)) - float(N // 2)


def products(empty: bool) -> list[Product]:
    mask = np.full((N, N, N), not empty)
    half = 0.5 * np.arctan2(Y - 0.3, X - 0.4)
    axis = np.stack([np.cos(half), np.sin(half), 0 * X]).astype(np.float32)
    away = np.stack([X - 0.3, Y - 0.2, Z + 0.4])
    vector = (away / np.linalg.norm(away, axis=0)).astype(np.float32)
    volume = (0.5 + 0.5 * np.tanh(X / 1.5 + 0.2 * Y)).astype(np.float32)
    labels = np.where(X + 0.2 * 1.5 * Y > 0, 1, 0).astype(np.uint8) * np.uint8(not empty)
    halves = (
        {} if empty else {"density": resolution.fourier_shell_correlation(volume, volume, 1e-8)}
    )
    return [
        defects_plane.as_product(defects_plane.find_planar_defects(axis, mask, 1e-8)),
        defect_lines.as_product(defect_lines.find_disclinations(axis, mask, 1e-8)),
        hedgehogs.as_product(hedgehogs.find_hedgehogs(vector, mask, 1e-8)),
        resolution.as_product(halves),
        edges.as_product(edges.material_edges(volume, labels, ["V2O5 / b"], 1e-8)),
    ]


@pytest.mark.parametrize("empty", [False, True])
def test_they_come_back_from_files_and_have_a_section(tmp_path: Path, empty: bool) -> None:
    made = {product.name: product for product in products(empty)}
    assert len(made) == 5
    with h5py.File(tmp_path / "result.nxs", "w") as file:
        write_products(file.create_group("entry"), made)
        stored = read_products(file["entry"])
    for name, product in made.items():
        folder = tmp_path / name
        folder.mkdir()
        save_product(folder, product)
        for back in (load_product(folder), stored[name]):
            assert back.figures.keys() == product.figures.keys()
            assert back.notes == product.notes
            for key, table in product.tables.items():
                for column, values in table.columns.items():
                    np.testing.assert_array_equal(back.tables[key].columns[column], values)
            assert back.curves.keys() == product.curves.keys()
            assert back.lines.keys() == product.lines.keys()
        assert product.notes or not empty
        assert product.summary.split(".")[0] in product_section(product)
