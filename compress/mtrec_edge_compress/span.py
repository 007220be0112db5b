"""Which values a setting of a recipe may have, and which a search may give it. Knows nothing of what searches."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, get_origin, get_type_hints

from mtrec_edge_runtime.errors import RecipeError

Count = Annotated[int, 1, 1_000_000]
Share = Annotated[float, 0.0, 1.0]
Positive = Annotated[float, 0.0, 1e6]  # or 0


@dataclass(frozen=True)
class Span:
    """Which values `tune` may give one setting: all from low to high, or one of some choices."""

    low: float = 0.0
    high: float = 0.0
    step: float = 0.0  # 0: every number; of a whole-numbered setting 0 is 1
    log: bool = False  # draw evenly on a logarithmic scale
    choices: tuple[str | bool | int | float, ...] = ()  # instead of low and high

    def check(self, name: str) -> None:
        """Refuse a span that no value can be drawn from; `name` is said in the error."""
        if self.choices:
            if (self.low, self.high, self.step, self.log) != (0.0, 0.0, 0.0, False):
                raise RecipeError(f"{name}: write choices, or low and high, not both")
            if any(not isinstance(value, str | bool | int | float) for value in self.choices):
                raise RecipeError(f"{name}: choices = {list(self.choices)}: write numbers, strings or booleans")
            return
        if not self.low < self.high or not math.isfinite(self.high - self.low):
            raise RecipeError(f"{name}: low = {self.low}, high = {self.high}: write low below high, or choices")
        if self.log and (self.low <= 0 or self.step):
            raise RecipeError(f"{name}: log = true wants low above 0 and no step")
        if self.step < 0 or (self.step and not self._on_step(self.high)):
            raise RecipeError(f"{name}: step = {self.step} does not lead from {self.low} to {self.high}")

    def holds(self, value: object) -> bool:
        """Return whether a setting may have this value."""
        if self.choices:
            return value in self.choices
        assert isinstance(value, int | float)
        return self.low <= value <= self.high and (not self.step or self._on_step(value))

    def _on_step(self, value: float) -> bool:
        steps = (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)


def within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a setting that is not from low to high."""
    if not low <= value <= high:
        raise RecipeError(f"{name} = {value}: write a number from {low} to {high}")


class Ranged:
    """Settings whose types say where a number may lie: `Annotated[int, low, high]`, or a name for one, as `Share`."""

    table: ClassVar[str] = ""  # of the recipe, with its dot; said in errors

    def __post_init__(self) -> None:
        """Refuse a number that is not within its range."""
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            if get_origin(hint) is Annotated:
                within(self.table + name, getattr(self, name), *hint.__metadata__)
