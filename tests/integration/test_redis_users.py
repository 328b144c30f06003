"""Redis as `docker-compose.yaml` starts it: each role has a user of its own, which may do its work and no more.

The server is the embedded Valkey, run by the very script of the compose file.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
import yaml

from app.local.addresses import free_port
from app.local.valkey import server_binary
from app.lua.keys import SCHEMA

from .fleet import Fleet, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
USERS = ROOT / "deploy/redis-users.conf"
#: What a worker has no use for.
NOT_FOR_WORKERS = {
    "idempotency:{owner}:{instance}:{key}",
    "unanswered:{owner}:{instance}:{fingerprint}",
    "apikey:{id}",
    "apikeys",
    "failed_logins:{address}",
    "secret",
    "probe",
    # Those of the executors, each by its name.
    "{executor}",
}


class Server:
    """A Redis with the users of the compose file; has the face of the embedded Valkey."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def url_of(self, user: str) -> str:
        password = (self._folder / f"run/{user}-password/value").read_text()
        assert len(password) == 64
        return f"redis://{user}:{password}@127.0.0.1:{self.port}/0"

    @property
    def url(self) -> str:
        return self.url_of("operator")

    @property
    def log(self) -> str:
        return (self._folder / "redis.log").read_text()

    def start(self) -> None:
        compose = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
        *shell, script = compose["services"]["redis"]["command"]
        for user in ("operator", "gateway", "worker", "drivers"):
            (self._folder / f"run/{user}-password").mkdir(parents=True, exist_ok=True)
        (self._folder / "data").mkdir(exist_ok=True)
        script = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", script).replace("$$", "$")
        for ours, theirs in {
            "/run/": f"{self._folder}/run/",
            "/etc/qfleet/redis-users.conf": str(USERS),
            "dir /data": f"dir {self._folder}/data",
            "redis-server -": f"{server_binary()} - --port {self.port} --bind 127.0.0.1",
        }.items():
            assert ours in script
            script = script.replace(ours, theirs)
        with (self._folder / "redis.log").open("wb") as log:
            self.process = subprocess.Popen([*shell, script], stdout=log, stderr=log)
        wait_until(self._answers, 20, "Redis answers")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    yield made
    made.stop()


def refused(client: redis.Redis, *words: str) -> bool:
    try:
        client.execute_command(*words)
    except redis.exceptions.NoPermissionError:
        return True
    return False


def test_what_a_role_has_written_is_there_after_a_restart(server: Server) -> None:
    """Redis 7.0 reads its file back with the rights of ``default``; Valkey does not ask for any."""
    with redis.Redis.from_url(server.url_of("gateway")) as gateway, gateway.pipeline() as pipeline:
        pipeline.set("probe", "1").hset("jobs:1", "a", "2").execute()
        gateway.eval("redis.call('SET', 'a', 1) redis.call('SET', 'b', 2)", 0)
    server.stop()

    server.start()

    with redis.Redis.from_url(server.url) as operator:
        assert set(operator.keys()) == {b"probe", b"jobs:1", b"a", b"b"}
    assert "CRITICAL" not in server.log
    with redis.Redis(port=server.port) as nobody, pytest.raises(redis.AuthenticationError):
        nobody.ping()


@pytest.mark.timeout(120)
def test_gateway_and_worker_do_all_their_work_as_their_users(
    server: Server, tmp_path: Path
) -> None:
    settings = {"QFLEET_AUTH": "on", "QFLEET_BOOTSTRAP_KEY": "set-by-the-operator"}
    fleet: Any = Fleet(folder=tmp_path, valkey=server, **settings)  # type: ignore[arg-type]
    fleet.environment["QFLEET_REDIS_URL"] = server.url_of("gateway")
    key = {"Authorization": "apikey set-by-the-operator"}

    def ask(method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        status, answer = fleet.request(method, path, body, **(key | headers))
        return int(status), answer

    try:
        fleet.start_gateway()
        fleet.start_worker(
            QFLEET_REDIS_URL=server.url_of("worker"), QFLEET_EXECUTORS="aer,noisy,auto"
        )
        with redis.Redis.from_url(server.url) as operator:
            operator.hset("plans", "open|running", "1")
        source = {
            "circuit": 'OPENQASM 3.0; include "stdgates.inc"; qubit q; h q; bit c = measure q;'
        }

        made = [ask("POST", "/tasks", source)[1]["task_id"] for _ in range(4)]
        made.append(ask("POST", "/tasks", source | {"backend": "simulator@auto"})[1]["task_id"])
        large = {"circuit": source["circuit"] + " //" + "x" * 900_000}
        made.append(ask("POST", "/tasks", large, **{"Idempotency-Key": "k"})[1]["task_id"])
        ended = [ask("GET", f"/tasks/{task}?wait=30")[1] for task in made]
        assert [task["status"] for task in ended] == ["completed"] * 6, ended

        session = {"mode": "dedicated", "backend": "simulator@aer", "max_ttl": 60}
        status, opened = ask("POST", "/api/v1/sessions", session)
        assert status == 200, opened
        job = {
            "program_id": "sampler",
            "backend": "simulator@aer",
            "session_id": opened["id"],
            "params": {"pubs": [], "version": 2},
        }
        status, accepted = ask("POST", "/api/v1/jobs", job)
        assert status == 200, accepted
        assert ask("POST", f"/api/v1/jobs/{accepted['id']}/cancel")[0] in (204, 409)
        assert ask("DELETE", f"/api/v1/sessions/{opened['id']}/close")[0] == 204
        for path in ("/health", "/health/ready", "/metrics.json", "/api/v1/jobs", "/tasks"):
            assert ask("GET", path)[0] == 200, path
        assert ask("POST", "/tasks", source, Authorization="apikey wrong-one")[0] == 401
    finally:
        fleet.close()

    logs = b"".join(log.read_bytes() for log in tmp_path.glob("*.log"))
    assert b"NOPERM" not in logs
    assert b"no permissions" not in logs.lower()


def test_nobody_comes_in_without_a_password(server: Server) -> None:
    for url in (f"redis://127.0.0.1:{server.port}/0", f"redis://:x@127.0.0.1:{server.port}/0"):
        with (
            redis.Redis.from_url(url) as client,
            pytest.raises((redis.AuthenticationError, redis.ResponseError)),
        ):
            client.get("job:x")


@pytest.mark.parametrize("user", ["gateway", "worker", "drivers"])
@pytest.mark.parametrize(
    "words",
    [
        "KEYS *",
        "FLUSHALL",
        "FLUSHDB",
        "CONFIG GET *",
        "CONFIG SET maxmemory 1",
        "ACL LIST",
        "SHUTDOWN NOSAVE",
        "SAVE",
        "REPLICAOF 127.0.0.1 1",
        "MODULE LIST",
        "MONITOR",
        "CLIENT KILL TYPE normal",
        "SCRIPT FLUSH",
        "FUNCTION FLUSH",
        "SORT job:x BY secret GET secret",
        "RESTORE secret 0 x",
        "SUBSCRIBE elsewhere",
    ],
)
def test_neither_rules_the_server(server: Server, user: str, words: str) -> None:
    with redis.Redis.from_url(server.url_of(user)) as client:
        assert refused(client, *words.split())
    with redis.Redis.from_url(server.url) as operator:
        assert operator.ping()


@pytest.mark.parametrize(
    "words",
    [
        "GET secret",
        "SET secret x",
        "HGETALL apikey:abc",
        "ZRANGE apikeys 0 -1",
        "HSET instances:alice default large",
        "HSET plans open|running 9",
        "DEL plans",
        "GET idempotency:a:b:c",
        "EVAL redis.call('GET','secret') 0",
        "RENAME job:x secret",
        "COPY secret job:x",
        "LPUSH other x",
        "PUBLISH elsewhere x",
    ],
)
def test_a_worker_reaches_nothing_that_is_not_its_own(server: Server, words: str) -> None:
    with redis.Redis.from_url(server.url) as operator:
        operator.set("secret", "s")
        operator.hset("plans", "open|running", "1")
        operator.set("job:x", "v")
    with (
        redis.Redis.from_url(server.url_of("worker")) as client,
        # Within a script the server says so in words of its own.
        pytest.raises(redis.ResponseError, match=r"(?i)permission|ACL failure"),
    ):
        client.execute_command(*words.split())
    with redis.Redis.from_url(server.url) as operator:
        assert operator.get("secret") == b"s"
        assert operator.hgetall("plans") == {b"open|running": b"1"}


@pytest.mark.parametrize("user", ["gateway", "drivers"])
def test_who_takes_jobs_may_ask_how_much_redis_holds(server: Server, user: str) -> None:
    with redis.Redis.from_url(server.url_of(user)) as client:
        assert client.info("memory")["maxmemory"] == 512 * 2**20
    with redis.Redis.from_url(server.url_of("worker")) as client:
        assert refused(client, "INFO", "memory")


def test_a_worker_may_touch_every_key_of_its_work(server: Server) -> None:
    with redis.Redis.from_url(server.url) as operator:
        for key in SCHEMA:
            if key.pattern in NOT_FOR_WORKERS:
                continue
            name = re.sub(r"{\w+}", "x", key.pattern)
            assert operator.acl_dryrun("worker", "TYPE", name) in (b"OK", "OK"), name


def test_a_worker_of_an_executor_that_is_not_announced_is_told_why(server: Server) -> None:
    from app.errors import Unavailable
    from app.jobs.connection import connect_worker, translated

    with (
        connect_worker(server.url_of("worker")) as client,
        pytest.raises(Unavailable, match=r"Redis refuses this process.*deploy/redis-users.conf"),
        translated(),
    ):
        client.brpop(["mine"], timeout=1)
