"""JSON Schemas, as OpenAPI and pydantic write them, and how a page says them."""

from collections.abc import Iterator, Mapping

from pydantic import BaseModel, Field, JsonValue
from pydantic.alias_generators import to_camel

from scripts.reference.markdown import table

_FORMATS = {"uuid": "UUID", "date-time": "time", "date": "day", "binary": "bytes"}
_TYPES = {"boolean": "true or false", "string": "text", "null": "null", "number": "number"}
_LONGEST_ENUM = 8


class Schema(BaseModel, alias_generator=to_camel):
    """What a value may be: as much of it as a page says."""

    ref: str = Field("", alias="$ref")
    type: str = ""
    format: str = ""
    description: str = ""
    enum: list[JsonValue] = []
    const: JsonValue = None
    default: JsonValue = None
    any_of: "list[Schema]" = []
    items: "Schema | None" = None
    properties: "dict[str, Schema]" = {}
    pattern_properties: "dict[str, Schema]" = {}
    additional_properties: "Schema | bool" = True
    required: list[str] = []
    min_items: int | None = None
    max_items: int | None = None
    max_length: int | None = None
    minimum: float | None = None
    maximum: float | None = None
    defs: "dict[str, Schema]" = Field({}, alias="$defs")

    @property
    def name(self) -> str:
        """The name of the schema that this refers to, or empty."""
        return self.ref.rpartition("/")[2]

    def told(self) -> str:
        """Return what the description says, of this or of what it is one of."""
        return self.description or next((s.description for s in self.any_of if s.description), "")

    def names(self) -> Iterator[str]:
        """Yield the names of all schemas that this refers to."""
        inner = [*self.any_of, *self.properties.values(), *self.pattern_properties.values()]
        inner += [s for s in (self.items, self.additional_properties) if isinstance(s, Schema)]
        if self.name:
            yield self.name
        for each in inner:
            yield from each.names()

    def given(self) -> str:
        """Return what a value is where it is given: one that can be left out may be null, too."""
        others = [each.kind() for each in self.any_of if each.type != "null"]
        return " or ".join(dict.fromkeys(others)) or self.kind()

    def kind(self) -> str:
        """Return in a few words what a value is."""
        if self.name:
            return f"[{self.name}](#{self.name.lower()})"
        if self.any_of:
            return " or ".join(dict.fromkeys(each.kind() for each in self.any_of))
        if self.const is not None:
            return f"`{self.const}`"
        if self.enum:
            is_long = len(self.enum) > _LONGEST_ENUM
            shown = self.enum[: _LONGEST_ENUM // 2] if is_long else self.enum
            return " | ".join(f"`{value}`" for value in shown) + (" ..." if is_long else "")
        if self.type == "array":
            bounds = _bounds(self.min_items, self.max_items, "").removeprefix(", ")
            many = f"list ({bounds})" if bounds else "list"
            return f"{many} of {self.items.kind() if self.items else 'anything'}"
        if self.type == "object":
            return self._object()
        if self.type == "integer":
            return f"integer{_bounds(self.minimum, self.maximum, '')}"
        if self.format in _FORMATS:
            return _FORMATS[self.format]
        return f"{_TYPES.get(self.type, 'anything')}{_bounds(None, self.max_length, ' characters')}"

    def _object(self) -> str:
        values = next(iter(self.pattern_properties.values()), self.additional_properties)
        return f"object of {values.kind()}" if isinstance(values, Schema) else "object"

    def fields(self) -> str:
        """Return a table of an object's fields."""
        return table(
            ["field", "value", "what it is"],
            (
                [f"`{name}`", self._value(name, inner), inner.told()]
                for name, inner in self.properties.items()
            ),
        )

    def _value(self, name: str, inner: "Schema") -> str:
        if name in self.required:
            return inner.kind()
        return inner.given() + (inner.unless_given() or "; optional")

    def unless_given(self) -> str:
        """Return how a page says a single value that is the default; empty if there is none."""
        if self.default in (None, "") or isinstance(self.default, list | dict):
            return ""
        shown = str(self.default)
        return f"; default `{shown.lower() if isinstance(self.default, bool) else shown}`"


Schemas = Mapping[str, Schema]


def _bounds(least: float | None, most: float | None, unit: str) -> str:
    least, most = (None if each is None else int(each) for each in (least, most))
    if most is None:
        return "" if not least else f", {least} at least"
    return f", at most {most}{unit}" if least is None else f", {least} to {most}{unit}"
