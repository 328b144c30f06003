"""How does the result of a primitive stand in typed JSON? As the client's decoder reads it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import orjson

from app.primitives.programs import SamplerPubResult
from app.primitives.runtime.blobs import encode_array

if TYPE_CHECKING:
    from datetime import datetime

    from app.primitives.programs import (
        EstimatorPubResult,
        ExecutionSpan,
        PrimitiveResult,
        RegisterSamples,
    )


def encode_primitive_result(result: PrimitiveResult) -> bytes:
    """The document of ``GET /jobs/{id}/results``."""
    metadata = {**result.result_metadata, "provenance": result.metadata}
    spans = [
        _span(index, pub, pub.span)
        for index, pub in enumerate(result.pub_results)
        if isinstance(pub, SamplerPubResult) and pub.span is not None
    ]
    if spans:
        metadata["execution"] = {"execution_spans": _typed("ExecutionSpans", {"spans": spans})}
    document = {
        "pub_results": [
            _sampler_pub(pub) if isinstance(pub, SamplerPubResult) else _estimator_pub(pub)
            for pub in result.pub_results
        ],
        "metadata": metadata,
    }
    return orjson.dumps(_typed("PrimitiveResult", document), option=orjson.OPT_SERIALIZE_NUMPY)


def _sampler_pub(pub: SamplerPubResult) -> dict[str, Any]:
    fields = {name: _bit_array(samples) for name, samples in pub.registers.items()}
    data = _data_bin(fields, "BitArray", pub.shape)
    return _typed("SamplerPubResult", {"data": data, "metadata": pub.metadata})


def _estimator_pub(pub: EstimatorPubResult) -> dict[str, Any]:
    fields = {name: encode_array(values) for name, values in pub.values.items()}
    data = _data_bin(fields, "numpy.ndarray", pub.shape)
    return _typed("PubResult", {"data": data, "metadata": pub.metadata})


def _data_bin(fields: dict[str, Any], kind: str, shape: tuple[int, ...]) -> dict[str, Any]:
    value = {
        "field_names": list(fields),
        "field_types": [kind] * len(fields),
        "shape": shape,
        "fields": fields,
    }
    return _typed("DataBin", value)


def _bit_array(samples: RegisterSamples) -> dict[str, Any]:
    return _typed("BitArray", {"array": encode_array(samples.array), "num_bits": samples.num_bits})


def _span(index: int, pub: SamplerPubResult, span: ExecutionSpan) -> dict[str, Any]:
    """All parameter sets and shots of a pub: ``[shape, first set, end, first shot, end]``.

    If it was twirled, the randomizations are the first axis, the shots those of each, and
    ``[shape, True, first, end, first shot, end, shots of the pub]`` says so.
    """
    shots = next((samples.array.shape[-2] for samples in pub.registers.values()), 0)
    slices: list[Any]
    if span.twirls is None:
        kind, slices = "DoubleSliceSpan", [[*pub.shape, shots], 0, math.prod(pub.shape), 0, shots]
    else:
        randomizations, each = span.twirls
        sets = randomizations * math.prod(pub.shape)
        slices = [[randomizations, *pub.shape, each], True, 0, sets, 0, each, shots]
        kind = "TwirledSliceSpanV2"
    value = {
        "start": _datetime(span.started),
        "stop": _datetime(span.finished),
        "data_slices": {str(index): slices},
    }
    return _typed(kind, value)


def _datetime(time: datetime) -> dict[str, Any]:
    return _typed("datetime", time.isoformat())


def _typed(name: str, value: Any) -> dict[str, Any]:
    return {"__type__": name, "__value__": value}
