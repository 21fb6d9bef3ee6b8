"""One section of the config in a checkpoint's metadata, read with type checks."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from LTX_2_MLX.errors import CheckpointError

# Far beyond any published value, and still a float32.
_LARGEST = 1e30

Choice = TypeVar("Choice", bound=str)


class ConfigSection:
    """A section such as ``transformer``. Every reader raises ``CheckpointError`` for a value of the wrong type."""

    def __init__(self, name: str, values: Any):
        if not isinstance(values, Mapping):
            raise CheckpointError(f"The checkpoint's config has no section {name!r}. Use the file as published.")
        self.name = name
        self.values = values

    def __contains__(self, field: str) -> bool:
        return field in self.values

    def check_fields(self, known: Collection[str], fixed: Mapping[str, Any]) -> None:
        """Raise ``CheckpointError`` for unknown fields, and for fields of ``fixed`` with another value."""
        unknown = sorted(self.values.keys() - set(known) - fixed.keys())
        if unknown:
            raise CheckpointError(
                f"config.{self.name} has fields that this version does not know: {', '.join(unknown)}. "
                f"The checkpoint is newer than this library; update it."
            )
        for field, expected in fixed.items():
            if field in self.values and self.values[field] != expected:
                raise self._wrong(field, f"only {expected!r} is supported")

    def size(self, field: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self._value(field, default)
        if type(value) is not int or value < 1:
            raise self._wrong(field, "expected a positive whole number")
        return value

    def sizes(self, field: str, default: Sequence[int]) -> tuple[int, ...]:
        """One or more positive whole numbers."""
        value = self._value(field, default)
        is_list = isinstance(value, list | tuple) and len(value) > 0
        if not is_list or not all(type(number) is int and number > 0 for number in value):
            raise self._wrong(field, "expected a list of positive whole numbers")
        return tuple(value)

    def number(self, field: str, default: float) -> float:
        """A positive number."""
        value = self._value(field, default)
        if not _is_positive(value):
            raise self._wrong(field, "expected a positive number")
        return float(value)

    def numbers(self, field: str, default: Collection[float], count: int) -> tuple[float, ...]:
        """``count`` positive numbers."""
        value = self._value(field, default)
        has_length = isinstance(value, list | tuple) and len(value) == count
        if not has_length or not all(map(_is_positive, value)):
            raise self._wrong(field, f"expected a list of {count} positive number{'s' * (count > 1)}")
        return tuple(map(float, value))

    def flag(self, field: str, default: bool) -> bool:
        """True or false."""
        value = self._value(field, default)
        if not isinstance(value, bool):
            raise self._wrong(field, "expected true or false")
        return value

    def choice(self, field: str, choices: Collection[Choice], default: Choice) -> Choice:
        """One of a few strings."""
        value = self._value(field, default)
        for choice in choices:
            if value == choice:
                return choice
        raise self._wrong(field, f"expected {' or '.join(repr(choice) for choice in choices)}")

    def _value(self, field: str, default: Any) -> Any:
        if field not in self.values and default is None:
            raise CheckpointError(f"config.{self.name} lacks {field}. Use the file as published.")
        return self.values.get(field, default)

    def _wrong(self, field: str, expected: str) -> CheckpointError:
        shown = f"{self.values.get(field)!r}"[:60]
        return CheckpointError(f"config.{self.name}.{field} is {shown}; {expected}.")


def _is_positive(value: Any) -> bool:
    # JSON allows integers that no float can hold, and Python's reader allows NaN.
    return type(value) in (int, float) and 0 < value < _LARGEST
