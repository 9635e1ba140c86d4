"""The demo as a new user has it, smaller."""

import json

import xarray
from described import undescribed

from sharpflow.experiments.demo.run import run_demo


def test_every_statement_of_the_quick_demo_holds_and_its_numbers_are_kept(tmp_path):
    assert run_demo(tmp_path, quick=True, progress=False) == 0
    checks = json.loads((tmp_path / "checks.json").read_text())["checks"]
    parts = {"linear regression", "matrix completion", "network on digits"}
    assert {check["part"] for check in checks} == parts
    assert sum(check["holds"] is True for check in checks) > 10
    assert len(list(tmp_path.glob("*.png"))) == 10
    with xarray.open_dataset(tmp_path / "demo.nc") as numbers:
        assert numbers.attrs["quick"] == "True"
        assert undescribed(numbers) == []
        for name, array in numbers.variables.items():
            beside = array.attrs.get("reference")
            assert not isinstance(beside, str) or beside in numbers, name
        for name in ("circle_trajectory", "circle_flow"):
            points = numbers[name].values
            assert abs((points**2).sum(axis=1) - 1.0).max() < 1e-12
