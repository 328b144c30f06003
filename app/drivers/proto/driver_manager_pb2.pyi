from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CircuitFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CIRCUIT_FORMAT_UNSPECIFIED: _ClassVar[CircuitFormat]
    AQO_JSON: _ClassVar[CircuitFormat]
    AQO_PROTO: _ClassVar[CircuitFormat]
    QASM3_TEXT: _ClassVar[CircuitFormat]
    BACKEND_NATIVE: _ClassVar[CircuitFormat]

class DeviceStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEVICE_STATUS_UNSPECIFIED: _ClassVar[DeviceStatus]
    ONLINE: _ClassVar[DeviceStatus]
    OFFLINE: _ClassVar[DeviceStatus]
    CALIBRATING: _ClassVar[DeviceStatus]
    MAINTENANCE: _ClassVar[DeviceStatus]
    ERROR_STATUS: _ClassVar[DeviceStatus]
CIRCUIT_FORMAT_UNSPECIFIED: CircuitFormat
AQO_JSON: CircuitFormat
AQO_PROTO: CircuitFormat
QASM3_TEXT: CircuitFormat
BACKEND_NATIVE: CircuitFormat
DEVICE_STATUS_UNSPECIFIED: DeviceStatus
ONLINE: DeviceStatus
OFFLINE: DeviceStatus
CALIBRATING: DeviceStatus
MAINTENANCE: DeviceStatus
ERROR_STATUS: DeviceStatus

class CircuitPayload(_message.Message):
    __slots__ = ("format", "data")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    format: CircuitFormat
    data: bytes
    def __init__(self, format: _Optional[_Union[CircuitFormat, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class DeviceInfo(_message.Message):
    __slots__ = ("device_id", "name", "backend_type", "status", "queue_depth", "estimated_wait_sec", "capabilities")
    class CapabilitiesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BACKEND_TYPE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_DEPTH_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_WAIT_SEC_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    name: str
    backend_type: str
    status: DeviceStatus
    queue_depth: int
    estimated_wait_sec: int
    capabilities: _containers.ScalarMap[str, str]
    def __init__(self, device_id: _Optional[str] = ..., name: _Optional[str] = ..., backend_type: _Optional[str] = ..., status: _Optional[_Union[DeviceStatus, str]] = ..., queue_depth: _Optional[int] = ..., estimated_wait_sec: _Optional[int] = ..., capabilities: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ListDevicesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDevicesResponse(_message.Message):
    __slots__ = ("devices",)
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[DeviceInfo]
    def __init__(self, devices: _Optional[_Iterable[_Union[DeviceInfo, _Mapping]]] = ...) -> None: ...

class GetDeviceStatusRequest(_message.Message):
    __slots__ = ("device_id",)
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    def __init__(self, device_id: _Optional[str] = ...) -> None: ...

class GetDeviceStatusResponse(_message.Message):
    __slots__ = ("device_id", "status", "queue_depth", "estimated_wait_sec", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_DEPTH_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_WAIT_SEC_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    status: DeviceStatus
    queue_depth: int
    estimated_wait_sec: int
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, device_id: _Optional[str] = ..., status: _Optional[_Union[DeviceStatus, str]] = ..., queue_depth: _Optional[int] = ..., estimated_wait_sec: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ExecuteCircuitRequest(_message.Message):
    __slots__ = ("job_id", "device_id", "payload", "shots", "options")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SHOTS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    device_id: str
    payload: CircuitPayload
    shots: int
    options: _containers.ScalarMap[str, str]
    def __init__(self, job_id: _Optional[str] = ..., device_id: _Optional[str] = ..., payload: _Optional[_Union[CircuitPayload, _Mapping]] = ..., shots: _Optional[int] = ..., options: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ExecuteCircuitResponse(_message.Message):
    __slots__ = ("counts", "execution_time_sec", "metadata")
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_TIME_SEC_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.ScalarMap[str, int]
    execution_time_sec: float
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, counts: _Optional[_Mapping[str, int]] = ..., execution_time_sec: _Optional[float] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class CalibrateDeviceRequest(_message.Message):
    __slots__ = ("device_id", "options")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    options: _containers.ScalarMap[str, str]
    def __init__(self, device_id: _Optional[str] = ..., options: _Optional[_Mapping[str, str]] = ...) -> None: ...

class CalibrateDeviceResponse(_message.Message):
    __slots__ = ("calibration_ref",)
    CALIBRATION_REF_FIELD_NUMBER: _ClassVar[int]
    calibration_ref: str
    def __init__(self, calibration_ref: _Optional[str] = ...) -> None: ...

class CancelExecutionRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class CancelExecutionResponse(_message.Message):
    __slots__ = ("job_id", "state")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    state: str
    def __init__(self, job_id: _Optional[str] = ..., state: _Optional[str] = ...) -> None: ...

class StreamExecutionRequest(_message.Message):
    __slots__ = ("job_id", "after_sequence", "execute")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXECUTE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    after_sequence: int
    execute: ExecuteCircuitRequest
    def __init__(self, job_id: _Optional[str] = ..., after_sequence: _Optional[int] = ..., execute: _Optional[_Union[ExecuteCircuitRequest, _Mapping]] = ...) -> None: ...

class ExecutionEvent(_message.Message):
    __slots__ = ("sequence", "job_id", "state", "attempt", "result")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    job_id: str
    state: str
    attempt: int
    result: ExecuteCircuitResponse
    def __init__(self, sequence: _Optional[int] = ..., job_id: _Optional[str] = ..., state: _Optional[str] = ..., attempt: _Optional[int] = ..., result: _Optional[_Union[ExecuteCircuitResponse, _Mapping]] = ...) -> None: ...

class DriverInfo(_message.Message):
    __slots__ = ("name", "state", "kind", "version", "device_ids", "breaker", "device_breakers", "connections_active", "connections_idle", "connections_max", "caches", "error", "restarts")
    class DeviceBreakersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class CachesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_IDS_FIELD_NUMBER: _ClassVar[int]
    BREAKER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_BREAKERS_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_IDLE_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_MAX_FIELD_NUMBER: _ClassVar[int]
    CACHES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    kind: str
    version: str
    device_ids: _containers.RepeatedScalarFieldContainer[str]
    breaker: str
    device_breakers: _containers.ScalarMap[str, str]
    connections_active: int
    connections_idle: int
    connections_max: int
    caches: _containers.ScalarMap[str, int]
    error: str
    restarts: int
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., kind: _Optional[str] = ..., version: _Optional[str] = ..., device_ids: _Optional[_Iterable[str]] = ..., breaker: _Optional[str] = ..., device_breakers: _Optional[_Mapping[str, str]] = ..., connections_active: _Optional[int] = ..., connections_idle: _Optional[int] = ..., connections_max: _Optional[int] = ..., caches: _Optional[_Mapping[str, int]] = ..., error: _Optional[str] = ..., restarts: _Optional[int] = ...) -> None: ...

class LoadDriverRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class LoadDriverResponse(_message.Message):
    __slots__ = ("driver",)
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    driver: DriverInfo
    def __init__(self, driver: _Optional[_Union[DriverInfo, _Mapping]] = ...) -> None: ...

class UnloadDriverRequest(_message.Message):
    __slots__ = ("name", "drain_sec")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DRAIN_SEC_FIELD_NUMBER: _ClassVar[int]
    name: str
    drain_sec: int
    def __init__(self, name: _Optional[str] = ..., drain_sec: _Optional[int] = ...) -> None: ...

class UnloadDriverResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDriversRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDriversResponse(_message.Message):
    __slots__ = ("drivers",)
    DRIVERS_FIELD_NUMBER: _ClassVar[int]
    drivers: _containers.RepeatedCompositeFieldContainer[DriverInfo]
    def __init__(self, drivers: _Optional[_Iterable[_Union[DriverInfo, _Mapping]]] = ...) -> None: ...

class ResetBreakerRequest(_message.Message):
    __slots__ = ("driver", "device_id")
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    driver: str
    device_id: str
    def __init__(self, driver: _Optional[str] = ..., device_id: _Optional[str] = ...) -> None: ...

class ResetBreakerResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
