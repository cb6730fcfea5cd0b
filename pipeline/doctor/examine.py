"""`graphsieve doctor`: is all there that a consumer needs? Before it starts, or beside a group that runs.

    CHECKS    what is looked at, in order: what each needs to be told, and which earlier ones must not have failed
    examine   looks at one after the other, and goes on after a problem

Safe beside a running group: nothing is published, no position moves, no member joins, nobody is fenced. What is left
behind: in Kafka a transactional id of the doctor's own, `graphsieve-GROUP-doctor`, until the broker forgets it.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pipeline.doctor import broker, events, process, state
from pipeline.doctor.finding import Finding, Setup, Verdict, problem, problem_of
from pipeline.errors import GraphsieveError


class Check(NamedTuple):
    name: str
    look: Callable[[Setup], Iterable[Finding]]
    given: tuple[str, ...] = ()  # flags without which there is nothing to look at
    after: tuple[str, ...] = ()  # checks that must not have found a problem


class Examined(NamedTuple):
    check: str
    verdict: Verdict
    found: str
    fix: str


CHECKS = (
    Check("config", process.look_at_config),
    Check("software", process.look_at_software, after=("config",)),
    Check("compiled code", process.look_at_compiled_code),
    Check("model", events.look_at_model, ("model",)),
    Check("log", broker.look_at_log, ("log",), ("config",)),
    Check("topics", broker.look_at_topics, ("log",), ("log",)),
    Check("permissions", broker.look_at_permissions, ("log",), ("log", "topics")),
    Check("schema", events.look_at_schema, ("model",), ("config", "model")),
    Check("events", events.look_at_events, ("log", "model"), ("topics", "model", "schema")),
    Check("state", state.look_at_state, ("state",), ("config",)),
    Check("disk", state.look_at_disk, ("state",), ("state",)),
    Check("group", broker.look_at_group, ("log",), ("topics",)),
    Check("clock", process.look_at_clock, ("log",), ("log", "topics")),
    Check("port", process.look_at_port, after=("config",)),
    Check("memory", process.look_at_memory, after=("state",)),
)


def examine(setup: Setup) -> list[Examined]:
    """Return what all checks have found."""
    failed: set[str] = set()
    examined: list[Examined] = []
    for check in CHECKS:
        findings = _reasons_to_skip(check, setup, failed) or list(_look(check, setup))
        if any(finding.verdict == "problem" for finding in findings) or set(check.after) & failed:
            failed.add(check.name)
        examined += [Examined(check.name, *finding) for finding in findings]
    return examined


def as_report(examined: list[Examined]) -> dict[str, Any]:
    """Return what --json prints."""
    verdicts = [found.verdict for found in examined]
    checks = [found._asdict() for found in examined]
    return {"problems": verdicts.count("problem"), "warnings": verdicts.count("warning"), "checks": checks}


def _reasons_to_skip(check: Check, setup: Setup, failed: set[str]) -> list[Finding]:
    values = {"model": setup.model_folder, "log": setup.log_url, "state": setup.state}
    if missing := [name for name in check.given if values[name] is None]:
        return [Finding("skipped", f"not looked at: name it with {' and '.join(f'--{name}' for name in missing)}")]
    if blocking := [name for name in check.after if name in failed]:
        return [Finding("skipped", f"not looked at, for it needs: {', '.join(blocking)}")]
    return []


def _look(check: Check, setup: Setup) -> Iterable[Finding]:
    try:
        yield from check.look(setup)
    except GraphsieveError as error:
        yield problem_of(error)
    except OSError as error:
        yield problem(
            f"{error.filename or 'input/output'}: {error.strerror or error}", "make it readable for this user"
        )
