"""Payloads as the types that handlers ask for.

Answers for: reading a payload as what an annotation says (msgspec structs, dataclasses, TypedDicts, built-in types,
pydantic models where pydantic is installed), and for an error that names the field where it does not fit. Refuses to
know: who asks, and where the payload came from.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

import msgspec

from hubbub import payload
from hubbub.errors import BadRequest, ConfigurationError
from hubbub.model import Publication

#: Annotations that take everything.
ANYTHING = frozenset({Any, object, inspect.Parameter.empty})


class Reader:
    """Reads payloads as one type. `name` is the type's, for errors."""

    __slots__ = ("_read", "_takes_bytes", "is_anything", "name")

    def __init__(self, type: Any) -> None:
        bare = unannotated(type)
        self.is_anything = bare in ANYTHING and bare is type
        self.name = getattr(bare, "__name__", str(bare))
        self._takes_bytes = self.is_anything or bare is bytes
        self._read = payload.decode if self.is_anything else _reader(type)

    def json(self, data: bytes) -> Any:
        """A JSON payload as the type. Raises BadRequest (107) with a text that names the field."""
        try:
            return self._read(data)
        except BadRequest:
            raise
        except ValueError as error:  # msgspec's, pydantic's, and the type's own
            raise BadRequest(f"payload does not fit {self.name}: {_told(error)}") from None
        except Exception as error:  # a validator of the application's may raise anything
            raise BadRequest(f"payload does not fit {self.name}: {error!r}") from error

    def publication(self, publication: Publication) -> Any:
        """What was published as the type; bytes as they are. Raises BadRequest (107)."""
        return self.bytes(publication.data) if publication.binary else self.json(publication.data)

    def bytes(self, data: bytes) -> bytes:
        """Bytes, for who takes them. Raises BadRequest (107)."""
        if not self._takes_bytes:
            raise BadRequest(f"payload does not fit {self.name}: it is bytes")
        return data


def unannotated(type: Any) -> Any:
    """The type inside `Annotated[type, ...]`."""
    return get_args(type)[0] if get_origin(type) is Annotated else type


def _reader(type: Any) -> Callable[[bytes], Any]:
    if _is_pydantics(type):
        return _pydantic().TypeAdapter(type).validate_json  # type: ignore[no-any-return]  # looked up where it is
    try:
        unknown = _unknown(msgspec.inspect.type_info(type), set())
        if unknown is None:
            return msgspec.json.Decoder(type).decode
    except (TypeError, NameError) as error:
        raise ConfigurationError(f"payloads cannot be read as {type!r}: {error}") from None
    raise ConfigurationError(
        f"payloads cannot be read as {unknown.__name__}: make it a dataclass, a msgspec.Struct or a pydantic model"
    )


def _unknown(info: Any, seen: set[Any]) -> Any:
    """A class inside a type that nobody has described, which msgspec would only notice with the first payload."""
    if isinstance(info, msgspec.inspect.CustomType):
        return info.cls
    of = getattr(info, "cls", None)
    if of in seen:
        return None
    if of is not None:
        seen.add(of)
    parts: list[Any] = []
    for name in getattr(info, "__struct_fields__", ()):
        part = getattr(info, name)
        parts.extend(part if isinstance(part, tuple) else (part,))
    found = (_unknown(part, seen) for part in parts if isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field))
    return next((each for each in found if each is not None), None)


def _is_pydantics(type: Any) -> bool:
    """Whether pydantic has something to say about `type`; it has been imported by whoever wrote such a type."""
    if "pydantic" not in sys.modules:
        return False
    # What stands in Annotated is an object and no type: a FieldInfo, a validator.
    if hasattr(type, "__pydantic_core_schema__") or type.__class__.__module__.partition(".")[0] == "pydantic":
        return True
    return any(_is_pydantics(part) for part in get_args(type))


def _pydantic() -> Any:
    return sys.modules["pydantic"]


def _told(error: ValueError) -> str:
    """One line that begins with the field: msgspec puts it last, pydantic on lines of its own."""
    errors = getattr(error, "errors", None)
    if callable(errors):
        first = errors()[0]
        field = ".".join(map(str, first["loc"]))
        return f"{field}: {first['msg']}" if field else str(first["msg"])
    what, _, path = str(error).partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    return f"{field}: {what}" if field else what
