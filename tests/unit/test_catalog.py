"""The catalog serves what was recorded, as it was recorded, under the names that callers use."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.backends.catalog import Backend, Catalog
from app.backends.documents import KEPT_PROPERTIES, PULSE
from app.backends.names import SIMULATOR
from app.backends.recordings import find_recordings
from app.config import Settings
from app.errors import BackendNotFound, CalibrationNotFound, ConfigurationInvalid

EXECUTORS = ("aer", "my_gpu")
RECORDINGS = find_recordings()
CONFIGURATION_KEYS = {
    *("backend_name", "backend_version", "n_qubits", "basis_gates", "gates", "local", "simulator"),
    *("conditional", "open_pulse", "memory", "coupling_map", "online_date"),
}
PROPERTIES_KEYS = {
    *("backend_name", "backend_version", "last_update_date", "qubits", "gates", "general"),
}
#: A gate with any other key makes the client drop the backend without a word.
GATE_KEYS = {
    *("name", "parameters", "qasm_def", "coupling_map", "latency_map", "conditional"),
    "description",
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    aliases = {"ibm_lab": "fake_manila@aer", "qpu": "simulator@aer", "gone": "fake_lima@gone"}
    return Catalog.load(aliases=aliases, max_qubits=30)


def exactly(document: bytes) -> Any:
    """The document, its numbers as they are written."""
    return json.loads(document, parse_float=str, parse_int=str)


def near(name: str, catalog: Catalog) -> object:
    with pytest.raises(BackendNotFound) as refused:
        catalog.resolve(name, EXECUTORS)
    return refused.value.details["near"]


def test_every_device_of_the_installed_package_is_there() -> None:
    from qiskit_ibm_runtime.fake_provider import backends
    from qiskit_ibm_runtime.fake_provider.fake_backend import FakeBackendV2

    classes = [
        value
        for value in vars(backends).values()
        if isinstance(value, type) and issubclass(value, FakeBackendV2)
    ]

    assert len(RECORDINGS) == len(classes) == 68
    for cls in classes:
        recording = RECORDINGS[cls.backend_name]
        assert recording.configuration == Path(cls.dirname) / cls.conf_filename
        assert recording.properties == Path(cls.dirname) / cls.props_filename
        assert recording.physical_qubits == (cls._physical_qubits or recording.num_qubits)


def test_the_package_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.backends.recordings.find_spec", lambda _: None)

    with pytest.raises(ConfigurationInvalid, match="is not installed"):
        find_recordings()


def test_finding_the_package_does_not_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    found = importlib.util.find_spec

    monkeypatch.setattr(
        "app.backends.recordings.find_spec", lambda name: asked.append(name) or found(name)
    )
    find_recordings()

    # The specification of a submodule cannot be had without importing what is above it.
    assert asked == ["qiskit_ibm_runtime"]


@pytest.mark.parametrize("metadata", RECORDINGS)
def test_a_configuration_is_as_recorded_but_for_its_name_and_pulses(
    catalog: Catalog, metadata: str
) -> None:
    backend = catalog.resolve(f"{metadata}@aer", EXECUTORS)
    recorded = exactly(RECORDINGS[metadata].configuration.read_bytes())

    served = exactly(catalog.configuration(backend).body)

    assert served.keys() >= CONFIGURATION_KEYS
    assert served.pop("backend_name") == f"{metadata}@aer"
    assert served.pop("open_pulse") is False
    assert re.fullmatch("[0-9a-f]{24}", served.pop("calibration_id"))
    assert all(gate.keys() <= GATE_KEYS for gate in served["gates"])
    left_out = {"backend_name", "open_pulse", *PULSE}
    assert served == {key: value for key, value in recorded.items() if key not in left_out}
    assert int(recorded["n_qubits"]) == backend.num_qubits


@pytest.mark.parametrize("metadata", RECORDINGS)
def test_properties_are_as_recorded_but_for_their_name(catalog: Catalog, metadata: str) -> None:
    backend = catalog.resolve(f"{metadata}@my_gpu", EXECUTORS)
    recorded = exactly(RECORDINGS[metadata].properties.read_bytes())
    configuration = exactly(catalog.configuration(backend).body)

    served = exactly(catalog.properties(backend).body)

    assert served.keys() >= PROPERTIES_KEYS
    assert served["calibration_id"] == configuration["calibration_id"]
    assert served == recorded | {
        "backend_name": f"{metadata}@my_gpu",
        "calibration_id": configuration["calibration_id"],
    }
    assert len(served["qubits"]) == backend.num_qubits


def test_the_memory_that_properties_take_is_bounded(catalog: Catalog) -> None:
    for backend in catalog.backends(EXECUTORS):
        catalog.properties(backend)

    assert catalog._documents._properties.cache_info().currsize == KEPT_PROPERTIES


def test_an_alias_stands_for_its_backend_under_its_own_name(catalog: Catalog) -> None:
    backend = catalog.resolve("ibm_lab", EXECUTORS)

    assert (backend.name, backend.metadata, backend.executor) == ("ibm_lab", "fake_manila", "aer")
    assert not backend.is_mock
    assert exactly(catalog.configuration(backend).body)["backend_name"] == "ibm_lab"
    assert exactly(catalog.properties(backend).body)["backend_name"] == "ibm_lab"


def test_an_alias_is_not_there_when_its_executor_is_not(catalog: Catalog) -> None:
    assert "gone" not in {backend.name for backend in catalog.backends(EXECUTORS)}
    with pytest.raises(BackendNotFound):
        catalog.resolve("gone", EXECUTORS)

    assert catalog.resolve("gone", {"gone"}).metadata == "fake_lima"


def test_aliases_and_the_simulator_come_first_and_mocks_last(catalog: Catalog) -> None:
    backends = list(catalog.backends(EXECUTORS))
    first_mock = [backend.is_mock for backend in backends].index(True)

    assert [backend.name for backend in backends[:5]] == [
        "ibm_lab",
        "qpu",
        "simulator@aer",
        "simulator@my_gpu",
        "fake_aachen@aer",
    ]
    assert first_mock == 2 + 69 * 2
    assert all(backend.is_mock for backend in backends[first_mock:])


def test_every_backend_can_be_run_dry(catalog: Catalog) -> None:
    def client_turns_to(backend: Backend) -> Backend:
        # QiskitRuntimeService._run of qiskit-ibm-runtime 0.51.
        return catalog.resolve(re.sub(r"^[^_]+", "mock", backend.name), EXECUTORS)

    for backend in catalog.backends(EXECUTORS):
        mock = client_turns_to(backend)

        assert mock.is_mock
        assert mock.metadata == backend.metadata
        assert exactly(catalog.configuration(mock).body)["backend_name"] == mock.name
        if backend.metadata != SIMULATOR:
            assert mock.executor == backend.executor


def test_backends_without_an_underscore_share_the_simulator_as_their_mock() -> None:
    catalog = Catalog.load(aliases={"lab": "fake_manila@aer", "qpu": "fake_fez@aer"}, max_qubits=9)

    assert catalog.resolve("mock", ["aer", "noisy"]).metadata == SIMULATOR
    assert catalog.resolve("mock", ["aer", "noisy"]).executor == "aer"


def test_the_simulator_is_as_large_as_the_fleet_can_hold(catalog: Catalog) -> None:
    known = catalog.resolve("simulator@aer", EXECUTORS, 33)
    unknown = catalog.resolve("simulator@aer", EXECUTORS)

    assert (known.num_qubits, unknown.num_qubits) == (33, 30)
    assert exactly(catalog.configuration(known).body)["n_qubits"] == "33"
    assert catalog.configuration(known).etag != catalog.configuration(unknown).etag
    assert catalog.properties(known).body == b"{}"


def test_documents_that_differ_have_different_tags(catalog: Catalog) -> None:
    documents = [
        document
        for metadata in RECORDINGS
        for backend in [catalog.resolve(f"{metadata}@aer", EXECUTORS)]
        for document in (catalog.configuration(backend), catalog.properties(backend))
    ]

    assert len({document.etag for document in documents}) == 2 * len(RECORDINGS)


def test_a_name_that_no_backend_has_is_refused_with_those_near_it(catalog: Catalog) -> None:
    assert near("fake_manilla@my_gpu", catalog)[0] == "fake_manila@my_gpu"
    assert near("fake_manila", catalog)[0] == "fake_manila@aer"
    assert near("ibm_labs", catalog) == ["ibm_lab"]
    assert near("fake_manila@gpu", catalog)[0] == "fake_manila@aer"
    assert near("x" * 10_000, catalog) == []


def test_the_refusal_of_a_name_says_which_executors_there_are(catalog: Catalog) -> None:
    with pytest.raises(BackendNotFound, match=r"'fake_fez@gpu'.*\['aer', 'my_gpu'\]"):
        catalog.resolve("fake_fez@gpu", EXECUTORS)
    with pytest.raises(BackendNotFound) as refused:
        catalog.resolve("y" * 10_000, EXECUTORS)

    assert len(refused.value.message) < 200


def test_each_device_has_one_calibration_of_its_own(catalog: Catalog) -> None:
    other = Catalog.load(aliases={}, max_qubits=5)
    ids = {name: catalog._documents.calibration(name) for name in RECORDINGS}

    assert len(set(ids.values())) == len(RECORDINGS)
    for name, calibration_id in ids.items():
        other.check_calibration(f"{name}@aer", calibration_id)
        other.check_calibration(f"{name}@aer", None)


@pytest.mark.parametrize("name", ["fake_fez@aer", "simulator@aer", "mock_manila@aer", "qpu"])
def test_another_calibration_is_refused(catalog: Catalog, name: str) -> None:
    manilas = catalog._documents.calibration("fake_manila")
    catalog.check_calibration("ibm_lab", manilas)

    with pytest.raises(CalibrationNotFound):
        catalog.check_calibration(name, manilas)


@pytest.mark.parametrize(
    ("aliases", "fault"),
    [
        ({"lab": "fake_manilla@aer"}, "fake_manila"),
        ({"lab": "fake_manila"}, "METADATA@EXECUTOR"),
        ({"lab": "ibm_lab"}, "METADATA@EXECUTOR"),
        ({"Lab": "fake_manila@aer"}, "'Lab' is no name"),
        ({"la/b": "fake_manila@aer"}, "'la/b' is no name"),
        ({"fake_fez@aer": "fake_manila@aer"}, "'fake_fez@aer' is no name"),
        ({"mock_lab": "fake_manila@aer"}, "'mock_lab' is no name"),
        ({"a_lab": "fake_fez@aer", "b_lab": "fake_manila@aer"}, "share the mock mock_lab"),
    ],
)
def test_an_alias_that_could_not_work_stops_the_start(aliases: dict[str, str], fault: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=fault) as refused:
        Catalog.load(aliases=aliases, max_qubits=30)

    assert refused.value.message.startswith("QFLEET_ALIASES: ")


def test_aliases_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QFLEET_ALIASES", "ibm_lab=fake_manila@aer, qpu = simulator@aer,")

    assert Settings(_env_file=None).aliases == {
        "ibm_lab": "fake_manila@aer",
        "qpu": "simulator@aer",
    }


@pytest.mark.parametrize("text", ["qpu", "qpu=", "qpu=fake_fez@aer,qpu=fake_lima@aer"])
def test_aliases_that_are_not_pairs_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("QFLEET_ALIASES", text)

    with pytest.raises(ValidationError, match="NAME=METADATA@EXECUTOR"):
        Settings(_env_file=None)
