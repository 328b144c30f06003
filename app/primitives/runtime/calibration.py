"""How do params become a calibration, and its times a document?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from app.primitives.programs import CalibrationProgram, CalibrationResult
from app.primitives.runtime.document import parse

if TYPE_CHECKING:
    from app.config import ProgramLimits

_VERSION = "v0.1"


def decode_calibration(params: bytes, limits: ProgramLimits) -> CalibrationProgram:
    """The program of a calibration.

    Raises:
        InvalidProgram: it is not valid; the message begins with the place.
    """
    top = parse(params, limits)
    document = top.fields()
    # Clients before 0.51 do not say which version it is.
    if document.keys() - {"schema_version"} != {"options"}:
        raise top.refused("wrong_keys", "the keys are options, schema_version")
    if "schema_version" in document:
        document["schema_version"].word(_VERSION)
    options = document["options"]
    for name, field in options.fields().items():
        if name != "experimental":
            raise field.refused("unknown_option", "there is no such option here")
        field.fields()
    return CalibrationProgram(options=options.plain(types={}))


def encode_calibration(result: CalibrationResult) -> bytes:
    """The document of ``GET /jobs/{id}/results``."""
    document = {
        "schema_version": _VERSION,
        "start": result.span.started.isoformat(),
        "stop": result.span.finished.isoformat(),
    }
    return orjson.dumps(document)
