"""What does a driver's process do? One driver instance, one call after another, until it is left.

Frames are those of the sandbox: two lengths, a JSON header, raw bytes.
"""

from __future__ import annotations

import importlib
import os
import resource
import select
import signal
import sys
import threading
import traceback
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import orjson

from app.drivers.driver import (
    BaseDriver,
    Circuit,
    DeviceState,
    DeviceUnavailable,
    DriverError,
    InvalidCircuit,
)
from app.sandbox.confinement import limit_cpu
from app.sandbox.protocol import HEADER_BYTES, encode_frame, read_frame, write_frame

if TYPE_CHECKING:
    from collections.abc import Callable

#: Where the process finds its calls.
CALLS_FD = 3
#: Longest circuit.
BODY_BYTES = 64 << 20
#: What a plugin in a folder calls its driver.
ATTRIBUTE = "DRIVER"
METHODS = (
    "initialize",
    "get_devices",
    "execute_circuit",
    "get_device_status",
    "calibrate_device",
)
_MESSAGE_CHARS = 1000


class Invalid(Exception):
    """The plugin is no driver."""


def main() -> None:
    """Serve calls until the manager hangs up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout = sys.stderr
    threading.Thread(target=_end_with_the_manager, name="hang-up", daemon=True).start()
    instance: list[BaseDriver] = []
    while frame := read_frame(CALLS_FD, most_body=BODY_BYTES):
        header = orjson.loads(frame[0])
        limit_cpu(header["cpu_s"])
        write_frame(CALLS_FD, _answer(instance, header, frame[1]))


def _end_with_the_manager() -> None:
    """End, with everything that the driver has started, as soon as the manager hangs up.

    It may do so during a call, when it was killed: nobody else would end a driver that hangs.
    """
    poll = select.poll()
    poll.register(CALLS_FD, select.POLLRDHUP)
    poll.poll()
    os.killpg(0, signal.SIGKILL)


def _answer(instance: list[BaseDriver], header: dict[str, Any], body: bytes) -> bytes:
    """The frame that answers a call; whatever goes wrong is told in it."""
    try:
        result = _perform(instance, header, body)
        frame = encode_frame({"ok": result}, b"")
        if len(frame) > HEADER_BYTES:
            message = f"the answer has {len(frame)} bytes; at most {HEADER_BYTES} are allowed"
            return _failed("failed", DriverError(message))
    except Invalid as exc:
        return _failed("invalid_driver", exc)
    except DeviceUnavailable as exc:
        return _failed("unavailable", exc)
    except InvalidCircuit as exc:
        return _failed("invalid_circuit", exc)
    except MemoryError as exc:
        return _failed("memory", exc)
    except DriverError as exc:
        return _failed("failed", exc)
    except BaseException as exc:  # noqa: BLE001 - the border of the process: plugins raise what they like
        # For the plugin's author: the manager logs what comes here.
        traceback.print_exc(file=sys.stderr)
        return _failed("raised", exc)
    return frame


def _perform(instance: list[BaseDriver], header: dict[str, Any], body: bytes) -> Any:
    operation = header["operation"]
    if operation == "initialize":
        _limit_memory(header["memory_bytes"])
        driver = load(header["source"], body)
        driver.initialize(header["config"])
        instance.append(driver)
        return {"version": str(getattr(driver, "version", ""))}
    driver = instance[0]
    if operation == "devices":
        return [asdict(device) for device in driver.get_devices()]
    if operation == "execute":
        circuit = Circuit(
            qasm3=body.decode(), num_qubits=header["num_qubits"], num_clbits=header["num_clbits"]
        )
        counts = driver.execute_circuit(
            header["device_id"], circuit, header["shots"], header["options"]
        )
        return {str(bits): int(times) for bits, times in counts.items()}
    if operation == "status":
        return DeviceState(driver.get_device_status(header["device_id"])).value
    if operation == "calibrate":
        return str(driver.calibrate_device(header["device_id"]))
    if operation == "health":
        healthcheck: Callable[[], object] = getattr(driver, "healthcheck", lambda: True)
        return bool(healthcheck())
    if operation == "close":
        close: Callable[[], object] = getattr(driver, "close", lambda: None)
        close()
        return None
    raise Invalid(f"there is no operation {operation!r}")


def load(source: str, code: bytes = b"") -> BaseDriver:
    """Make the driver of a file, or of ``module:attribute``.

    Args:
        source: path of the file, or the attribute.
        code: what stands in the file.

    Raises:
        Invalid: there is none, or it lacks a method.
    """
    try:
        factory = _factory(source, code)
        driver: BaseDriver = factory()
    except Invalid:
        raise
    except (Exception, SystemExit) as exc:
        message = f"it cannot be made: {type(exc).__name__}: {exc}"
        raise Invalid(message) from exc
    missing = [name for name in METHODS if not callable(getattr(driver, name, None))]
    if missing:
        raise Invalid(f"it has no {', '.join(missing)}; a driver has {', '.join(METHODS)}")
    return driver


def _factory(source: str, code: bytes) -> Callable[[], BaseDriver]:
    if source.endswith(".py"):
        module = ModuleType(f"qfleet_driver_{Path(source).stem}")
        module.__file__ = source
        sys.modules[module.__name__] = module
        exec(compile(code, source, "exec"), module.__dict__)  # noqa: S102 - plugins are programs
        attribute = ATTRIBUTE
    else:
        name, _, attribute = source.partition(":")
        module = importlib.import_module(name)
    factory: Callable[[], BaseDriver] | None = getattr(module, attribute, None)
    if factory is None:
        raise Invalid(f"{source} has no {attribute}: name the driver's class so")
    return factory


def _failed(kind: str, error: BaseException) -> bytes:
    text = str(error)[:_MESSAGE_CHARS] or type(error).__name__
    if kind == "raised":
        text = f"{type(error).__name__}: {text}"
    # Names of files may hold what is no Unicode.
    text = text.encode(errors="replace").decode()
    return encode_frame({"error": kind, "message": text}, b"")


def _limit_memory(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
