"""The table that every benchmark prints: measured values with their bars beside them, or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, Protocol, TypeVar


class Line(Protocol):
    """What a table is made of: its text is one line."""

    def as_json(self) -> dict[str, Any]:
        """The same for other programs."""
        ...


LineT = TypeVar("LineT", bound=Line)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    measure, value : what was measured.
    floor : the bar that the value has to meet; None for a row that is only reported.
    goal : where it should be; on which side of the floor it lies says whether more is better.
    unit : of all three.
    detail : what else is worth knowing.
    seconds : how long it took, where the table tells that.
    """

    measure: str
    value: float
    floor: float | None = None
    goal: float | None = None
    unit: str = ""
    detail: str = ""
    seconds: float | None = None

    @property
    def more(self) -> bool:
        """Whether more is better."""
        return self.floor is not None and self.goal is not None and self.goal > self.floor

    @property
    def met(self) -> bool:
        """Whether the floor is reached."""
        if self.floor is None:
            return True
        return self.value >= self.floor if self.more else self.value <= self.floor

    def as_json(self) -> dict[str, Any]:
        """Values and bars, and on which side of them is good."""
        return {**asdict(self), "more": self.more}

    def __str__(self) -> str:
        """As a line of the table."""
        bars = [
            "reported" if bar is None else f"{name} {bar:<7.4g}"
            for name, bar in (("floor", self.floor), ("goal", self.goal))
        ]
        took = "" if self.seconds is None else f"{self.seconds:7.1f} s "
        verdict = "" if self.met else "BELOW THE FLOOR " if self.more else "ABOVE THE FLOOR "
        line = f"{self.measure:<58} {self.value:<9.4g} {self.unit:<9} {' '.join(bars)}"
        return f"{line} {verdict}{took}{self.detail}".rstrip()


class Table(Generic[LineT]):
    """Rows as they are measured: shown at once, for the next ones may take long, or kept for JSON.

    Parameters
    ----------
    as_json : print all rows as one list when the table is complete.
    label : what JSON calls the measure.
    """

    def __init__(self, *, as_json: bool, label: str = "measure"):
        self.rows: list[LineT] = []
        self._as_json = as_json
        self._label = label

    def add(self, rows: Iterable[LineT]) -> None:
        """Take rows, one after another."""
        for row in rows:
            self.rows.append(row)
            if not self._as_json:
                print(row, flush=True)

    def complete(self) -> list[LineT]:
        """All rows; printed, if they are wanted as JSON."""
        if self._as_json:
            print(json.dumps([self._named(row.as_json()) for row in self.rows], indent=1))
        return self.rows

    def _named(self, content: Mapping[str, Any]) -> dict[str, Any]:
        return {self._label if key == "measure" else key: item for key, item in content.items()}
