"""An Apache Kafka broker as a process: for tests, benches and first steps.

    with Broker.start(folder) as broker:    # an empty folder; a free port unless one is given
        broker.url                          # kafka://127.0.0.1:PORT
        broker.kill(); broker.restart()     # SIGKILL; then the same folder and ports again
        broker.pause(); broker.resume()     # SIGSTOP, SIGCONT

It is the real thing: one node in KRaft mode, broker and controller in one JVM, up in four seconds, of 250 to 400 MB.
One node replicates nothing, and what it stores is lost with its folder: nothing for production.

`python -m pipeline.broker` runs one in the foreground, with its state in a temporary folder: `make kafka`.
"""

import argparse
import base64
import contextlib
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from pipeline.broker_jars import fetched_jars, missing
from pipeline.errors import ConfigError, GraphsieveError, LogError

Say = Callable[[str], None]
Process = subprocess.Popen[bytes]

HOST = "127.0.0.1"
USUAL_PORT = 9092
# Below those that Linux and macOS give to outgoing connections: else a client that tries to connect again and again
# while the broker is down may be given the broker's own port, and the broker cannot have it back.
FREE_PORTS = range(20_000, 32_768)

START_SECONDS = 90.0  # 4 s on an idle machine; tests share theirs
STOP_SECONDS = 20.0

LOGGING = "-Dorg.slf4j.simpleLogger"
LIGHT = ("-XX:+UseSerialGC", "-Xmx512m")
# For what is measured: else it would be how the broker collects garbage, for 0.1 s at once. So does Kafka's usual G1 on
# two busy cores, where its threads wait for one another.
ROOMY = ("-XX:+UseSerialGC", "-Xms1g", "-Xmx1g", "-Xmn600m", "-XX:+AlwaysPreTouch")
JAVA = (
    "java", "-Djava.io.tmpdir=.", "-XX:-UsePerfData",  # what is killed leaves nothing outside its folder
    f"{LOGGING}.defaultLogLevel=warn", f"{LOGGING}.showDateTime=true", f"{LOGGING}.dateTimeFormat=HH:mm:ss.SSS",
)  # fmt: skip


@dataclass(frozen=True)
class Security:
    """A second listener, SASL_SSL: which certificate it shows, and who may log in by PLAIN or SCRAM-SHA-256.

    Any token is taken for OAUTHBEARER, as long as it has not expired."""

    certificate: Path  # PEM: a private key as PKCS #8, its certificate for 127.0.0.1, the chain
    users: Mapping[str, str]  # name -> password, of letters and digits
    guarded: bool = False  # may they do only what ACLs grant? Who comes to the other listener may do all


@dataclass
class Broker:
    """A broker's process, its folder and its ports, which stay the same when it is killed and restarted."""

    folder: Path
    port: int
    secure_port: int | None
    _memory: Sequence[str]
    _jars: Path
    _process: Process | None = field(default=None, init=False)
    _watcher: Process | None = field(default=None, init=False)

    @classmethod
    def start(
        cls,
        folder: Path,
        port: int = 0,
        security: Security | None = None,
        say: Say = lambda line: None,
        memory: Sequence[str] = LIGHT,
    ) -> "Broker":
        """Start a broker with an empty folder, and return once it serves; it does not outlive this process.

        `memory` are Java's options on that: LIGHT or ROOMY.
        ConfigError where Java or Maven is missing or the port is taken; LogError, with the end of the broker's log,
        where it does not come up.
        """
        if reason := missing():
            raise ConfigError(reason)
        if port and not is_free(port):
            raise ConfigError(f"port {port} is taken: end what listens there, or choose another port")
        free = free_ports()
        broker = cls(folder, port or next(free), next(free) if security else None, memory, fetched_jars(say))
        folder.mkdir(parents=True, exist_ok=True)
        settings = _settings(broker, next(free), security)
        (folder / "server.properties").write_text("".join(f"{k}={v}\n" for k, v in settings.items()), encoding="utf-8")
        with broker._killed_on_error():
            broker._format(security)
            broker._serve()
        return broker

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        return f"kafka://{self.address}"

    @property
    def secure_address(self) -> str:
        """The address of the SASL_SSL listener, where the broker was started with one."""
        assert self.secure_port is not None
        return f"{HOST}:{self.secure_port}"

    @property
    def pid(self) -> int:
        return self._running.pid

    def kill(self) -> None:
        """End it as a crash does. Nothing happens where it has ended."""
        if self._process is None or self._watcher is None:
            return
        self._process.kill()
        self._process.wait()
        self._watcher.kill()  # before anybody else gets the process's number
        self._watcher.communicate()
        self._process = self._watcher = None

    def restart(self) -> None:
        """Start it again, killed where it still runs, and return once it serves."""
        self.kill()
        with self._killed_on_error():
            self._serve()

    def pause(self) -> None:
        """Stop it in its tracks: its connections stay, and nobody answers."""
        self._running.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it in order; kill it where that takes too long. Nothing happens where it has ended."""
        if self._process is None:
            return
        self.resume()  # what is stopped does not heed SIGTERM
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self.kill()

    def wait(self) -> None:
        """Wait until it ends by itself, as it should not: LogError tells why it did."""
        code = self._running.wait()
        raise self._failure(f"has ended by itself, with {code}")

    def __enter__(self) -> "Broker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _running(self) -> Process:
        assert self._process is not None, "the broker has been killed or stopped"
        return self._process

    @property
    def _log(self) -> Path:
        return self.folder / "broker.log"

    @contextlib.contextmanager
    def _killed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.kill()
            raise

    def _java(self, *words: str) -> None:
        """Run a class of Kafka's in the folder, which ends when we do."""
        with self._log.open("ab") as log:
            line = [*JAVA, "-cp", f"{self._jars}/*", *words]
            # A session of its own: Ctrl-C is for us, who end it in order.
            self._process = subprocess.Popen(line, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        # A test run that is killed must not leave its broker behind. The watcher reads from a pipe that closes however
        # we die. The kernel's own means, PR_SET_PDEATHSIG, is only Linux's, and kills the broker as soon as the
        # *thread* ends that started it.
        watch = ["sh", "-c", 'read -r line; kill -KILL "$1"', "sh", str(self._process.pid)]
        self._watcher = subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True)

    def _format(self, security: Security | None) -> None:
        """Write what a node's storage begins with: the cluster's id, this node as its voter, SCRAM's users."""
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        users = security.users.items() if security else ()
        scram = [f"--add-scram=SCRAM-SHA-256=[name={name},password={password}]" for name, password in users]
        tool = ["kafka.tools.StorageTool", "format", "--standalone", f"--cluster-id={cluster}", *scram]
        self._java(*LIGHT, "-XX:TieredStopAtLevel=1", *tool, "--config=server.properties")
        if self._running.wait() != 0:
            raise self._failure("cannot format its folder")
        self.kill()

    def _serve(self) -> None:
        self._java(*self._memory, "kafka.Kafka", "server.properties")
        deadline = time.monotonic() + START_SECONDS
        while not _serves(self.port):
            if (code := self._running.poll()) is not None:
                raise self._failure(f"ended with {code} while it started")
            if time.monotonic() > deadline:
                raise self._failure(f"does not serve {START_SECONDS:.0f} s after its start")
            time.sleep(0.05)

    def _failure(self, what: str) -> LogError:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line for line in lines if line.strip() and " WARN " not in line and not line.startswith("\t")]  # stacks
        return LogError(f"the Kafka broker {what}: {' | '.join(told[-3:]) or 'it said nothing'} (from {self._log})")


# ---- ports and settings ----


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java does: closed connections do not count
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_ports() -> Iterator[int]:
    """Ports that are free now, at random: two brokers that start at once hardly meet."""
    return filter(is_free, random.sample(FREE_PORTS, len(FREE_PORTS)))


def _settings(broker: Broker, controller_port: int, security: Security | None) -> dict[str, object]:
    controller = f"{HOST}:{controller_port}"
    secure = f",SASL_SSL://{broker.secure_address}" if security else ""
    settings: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.bootstrap.servers": controller,
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{broker.address},CONTROLLER://{controller}{secure}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL",
        "log.dirs": "data",
        # One node: the topics that Kafka makes for itself have one replica, and few partitions.
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "auto.create.topics.enable": "false",  # or a misspelt name would be a new topic
        # The controller takes a killed broker for alive until this has passed, and refuses the restarted one so long.
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        # Tests do not wait minutes: sessions may be short, groups start at once, dead transactions are ended soon.
        "group.min.session.timeout.ms": 1000,
        "group.initial.rebalance.delay.ms": 0,
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
        "log.cleaner.dedupe.buffer.size": 16 * 2**20,  # of a heap of 512 MB; by default 128 MB
    }
    settings |= _secure_settings(security) if security else {}
    return settings | (GUARDED if security and security.guarded else {})


def _secure_settings(security: Security) -> dict[str, object]:
    plain, scram = "listener.name.sasl_ssl.plain", "listener.name.sasl_ssl.scram-sha-256"
    token = "listener.name.sasl_ssl.oauthbearer"
    modules = "org.apache.kafka.common.security"
    users = " ".join(f'user_{name}="{password}"' for name, password in security.users.items())
    return {
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,OAUTHBEARER",
        f"{plain}.sasl.jaas.config": f"{modules}.plain.PlainLoginModule required {users};",
        # SCRAM's users are in the storage since it was formatted.
        f"{scram}.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;",
        # Tokens that nobody signed: Kafka's own handler for development.
        f"{token}.sasl.jaas.config": f"{modules}.oauthbearer.OAuthBearerLoginModule required;",
        f"{token}.sasl.server.callback.handler.class": (
            f"{modules}.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": security.certificate.resolve(),
    }


GUARDED = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",  # of the listener without encryption
}

# Kafka's Metadata request, version 1, for no topics: size, request, version, correlation id, no client id, topics.
METADATA_REQUEST = struct.pack(">ihhihi", 14, 3, 1, 0, -1, 0)


def _serves(port: int) -> bool:
    """Does it answer, and count itself among the brokers that serve? It opens its port some time before it does."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection, connection.makefile("rb") as answer:
            connection.sendall(METADATA_REQUEST)
            head = answer.read(12)  # size, correlation id, number of brokers
    except OSError:
        return False
    return len(head) == 12 and struct.unpack(">iii", head)[2] > 0


# ---- in the foreground ----


def run_broker(port: int, say: Say) -> None:
    """Serve until a signal; 0 takes the usual port, or a free one where that is taken."""
    port = port or (USUAL_PORT if is_free(USUAL_PORT) else 0)
    with (
        tempfile.TemporaryDirectory(prefix="graphsieve-kafka-") as folder,
        Broker.start(Path(folder), port, say=say) as broker,
    ):
        say(f"next, in another terminal: graphsieve topics create {broker.url}/events --partitions 1")
        say("Ctrl-C ends the broker; what is on it is gone then")
        print(broker.url, flush=True)  # last: whoever reads it may end the broker at once
        broker.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a broker; return 0 after Ctrl-C or SIGTERM, 2 for an error that its reader can mend."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.broker", description="an Apache Kafka broker, one node")
    parser.add_argument("--port", type=int, default=0, help=f"by default {USUAL_PORT}, or a free one where it is taken")
    args = parser.parse_args(argv)
    for end in (signal.SIGINT, signal.SIGTERM):  # a shell has its background commands ignore the first
        signal.signal(end, signal.default_int_handler)
    try:
        run_broker(args.port, say=lambda line: print(f"graphsieve: {line}", file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        pass
    except (GraphsieveError, OSError) as error:
        print(f"graphsieve: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
