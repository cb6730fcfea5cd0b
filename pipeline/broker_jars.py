"""What a broker runs on: Java, and Kafka's jars, which Maven fetches once.

The jars stay in ~/.cache/graphsieve (XDG_CACHE_HOME/graphsieve where that is set), outside the tree; from then on Maven
is not needed. It checks the checksum of each against the repository's, and fails where one differs.
"""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import ConfigError

# Not 4.3.1, not 4.4.0: a broker of theirs that starts again takes partitions that have no leader yet for deleted ones.
# Transactions that it ends meanwhile never end there, and readers of committed messages do not come past them. (4.4.0
# also lacks kafka-tools-api, which the tool that formats its storage needs.)
KAFKA = "4.2.1"
SLF4J = "1.7.36"  # as Kafka's slf4j-api: without a backend of this version the broker would log nothing
MAVEN_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
JAVA_AT_LEAST = 17

POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>graphsieve</groupId>
  <artifactId>broker</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>{SLF4J}</version>
    </dependency>
  </dependencies>
</project>
"""


def missing() -> str | None:
    """Return what keeps a broker from running here, and what to install; None where nothing does."""
    install = "install default-jre-headless and maven (Debian), or see adoptium.net and maven.apache.org"
    version = _java_version()
    if version is None or version < JAVA_AT_LEAST:
        found = "no java on the path runs" if version is None else f"the java on the path is {version}"
        return f"a Kafka broker needs Java {JAVA_AT_LEAST} or newer, and {found}: {install}"
    if not _folder().is_dir() and shutil.which("mvn") is None:
        return f"Maven fetches the Kafka broker, and no mvn is on the path: {install}"
    return None


def fetched_jars(say: Callable[[str], None]) -> Path:
    """Return the folder of the jars. It is there as a whole or not at all, whoever else fetches at the same time."""
    folder = _folder()
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # One at a time: Maven's own store does not bear two. Who has waited finds the folder there.
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            say(f"Maven fetches Apache Kafka {KAFKA}: 44 MB, once")
            _fetch(folder)
    return folder


def _folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "graphsieve" / f"kafka-{KAFKA}"


def _java_version() -> int | None:
    try:
        told = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    except OSError:
        return None
    version = re.search(r'version "(\d+)', told)
    return int(version[1]) if version else None


def _fetch(folder: Path) -> None:
    """Fetch beside the folder, then rename: what is killed half-way leaves no half of it."""
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as workplace:
        pom, jars = Path(workplace) / "pom.xml", Path(workplace) / "jars"
        pom.write_text(POM, encoding="utf-8")
        line = ["mvn", "--quiet", "--batch-mode", "--strict-checksums", f"--file={pom}"]
        line += [f"{MAVEN_PLUGIN}:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
        result = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            error = re.search(r"\[ERROR\] (.+)", result.stdout)
            reason = error[1] if error else f"mvn ended with {result.returncode}"
            raise ConfigError(f"Maven cannot fetch Apache Kafka {KAFKA}: {reason}")
        jars.rename(folder)
