"""Launch: acquire a host, provision it, start the training; or leave nothing behind."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from gpuctl.aws.access import allow_ssh_from, claim_group
from gpuctl.aws.account import Account
from gpuctl.aws.fleet import create_fleet, create_template, wait_until_running
from gpuctl.core.boot import BootKeys, user_data
from gpuctl.core.errors import (
    CloudGone,
    GpuctlError,
    Interrupted,
    LeftBehind,
    NameInUse,
    NoAnswer,
    NoCapacity,
    UsageError,
)
from gpuctl.core.fleet import fleet_request, template_request
from gpuctl.core.host_state import HostState
from gpuctl.core.hosts import Instance
from gpuctl.core.outputs import amount
from gpuctl.core.plan import Plan, unlike
from gpuctl.core.profile import Profile
from gpuctl.core.uploads import readable
from gpuctl.remote.host import Host
from gpuctl.remote.keys import generate_key
from gpuctl.remote.payload import build_payload
from gpuctl.remote.training import start_training, training_state
from gpuctl.remote.upload import ToldReader, workspace_tar
from gpuctl.state.paths import Paths
from gpuctl.state.records import Made, RunRecord
from gpuctl.state.runs import RunFolder, run_folder
from gpuctl.workflows.boot import wait_for_boot
from gpuctl.workflows.follow import note_state
from gpuctl.workflows.hosts import RunHandle
from gpuctl.workflows.interrupts import EndingSignals, interrupts_wait, nobody
from gpuctl.workflows.jobs import shipped
from gpuctl.workflows.names import refuse_name_in_use
from gpuctl.workflows.planning import Planned
from gpuctl.workflows.removal import accounts_of, known_resources, remove_everywhere, tagged
from gpuctl.workflows.reporter import Reporter

CAPACITY_TIMEOUT_S = 300
REMOVE_TIMEOUT_S = 600

_FIRST_ATTEMPT = 1
"""Of the run on its host: a launch starts a run, and never goes on with one."""

_PIP_CHATTER = ("WARNING: Location", "Looking in", "Collecting", "Processing", "Requirement already", "Using cached")


@dataclass(frozen=True)
class Launched:
    """A run whose training has started, its hosts, and how the training stands just after."""

    record: RunRecord
    instances: tuple[Instance, ...]
    state: HostState

    @property
    def plan(self) -> Plan:
        """What was carried out."""
        return self.record.plan


def launch(planned: Planned, *, profile: Profile, paths: Paths, reporter: Reporter, alive_s: float = 0.0) -> Launched:
    """Carry out the plan up to the start of the training, or until that has lived for `alive_s` or ended. Whatever ends
    it before the start, nothing is left behind.

    It has started once the host has answered so, or where a launch that was cut off may have started it: then nothing
    is undone. Raises Interrupted where Ctrl-C undid it, KeyboardInterrupt where that came once training had started.
    """
    folder = run_folder(paths.runs, planned.plan.run)
    with EndingSignals() as signals, folder.locked():
        half_made = _half_made(planned, folder)
        started = half_made is not None and folder.progress().started
        if half_made is not None and half_made.fleet_request is not None:
            ends = half_made.plan.lease.ends.astimezone()
            reporter.note(f"going on with the launch that was cut off; its host ends at {ends:%H:%M on %a %d %b}")
        try:
            try:
                record = half_made or _begin(planned, folder)
                record, instances = _acquire(record, planned.account, folder, reporter)
                (instance,) = instances  # a fleet of one, all or nothing
                run = _handle(record, planned, profile, folder, reporter)
                with _provisioned(run, record, planned, instance, reporter) as host, interrupts_wait():
                    state = _start(host, record.plan, folder, reporter, alive_s=alive_s)
                    started = True
                    folder.note(start_answered=True)
                note_state(run, state)
                return Launched(record, tuple(instances), state)
            except BaseException as error:  # noqa: BLE001  (raised again below, once what was made is undone)
                cause = error
                signals.only_note(lambda: reporter.note("removing what was created; this takes a moment"))
        except KeyboardInterrupt as error:  # the one that could still come, between the two lines above
            cause = error
            signals.only_note(nobody)
        if not started:
            _undo_because(cause, planned.account, folder, reporter)
        raise cause


def _half_made(planned: Planned, folder: RunFolder) -> RunRecord | None:
    """What is stored of a launch that was cut off before its training started, where there is one."""
    name, plan = planned.plan.run, planned.plan
    in_use = tagged(planned.account, folder)
    refuse_name_in_use(folder, in_use, cloud=plan.cloud, region=planned.account.region)
    if not in_use:
        return None
    stored = folder.read()
    requested = stored.fleet_request is not None
    what = unlike(plan, planned.terms, stored.plan, stored.attempt)
    if what is not None and (requested or what in ("job", "command")):
        raise UsageError(
            f"the name {name} belongs to an unfinished launch of {stored.plan.job} with another {what}",
            f"run `gpuctl down {name}` first, or choose another --name",
        )
    return stored if requested else RunRecord(plan, attempt=min(stored.attempt, len(plan.attempts)))


def _begin(planned: Planned, folder: RunFolder) -> RunRecord:
    """A new record, and the run's keys."""
    name = planned.plan.run
    claim = folder.progress().claim if folder.exists() and not folder.progress().started else None
    folder.remove()
    caller, host = generate_key(f"gpuctl {name}"), generate_key(f"gpuctl host of {name}")
    for file, text in (("identity", caller.private), ("identity.pub", caller.public)):
        folder.write_file(file, text)
    for file, text in (("host_key", host.private), ("host_key.pub", host.public), ("known_hosts", "")):
        folder.write_file(file, text)
    record = RunRecord(planned.plan)
    folder.note(started=False, claim=claim)
    folder.write(record)
    return record


def _undo_because(cause: BaseException, account: Account, folder: RunFolder, reporter: Reporter) -> None:
    """Remove a run that never trained, from AWS and from this laptop. No signal ends it any more.

    Raises LeftBehind where something may be left, else Interrupted where that was why. With an embedded cloud that has
    gone, all that was in it is gone.
    """
    interrupted = isinstance(cause, KeyboardInterrupt)
    accounts = accounts_of(account, folder)
    if isinstance(cause, NameInUse):  # where the name is another's, nothing is touched
        mine = {one.region for one in folder.progress().made}
        accounts = [each for each in accounts if each.region in mine]
        if not accounts:
            folder.remove()
            return
    reporter.phase("undo", "removing everything that this launch created")
    why = f"launch of {folder.name} interrupted" if interrupted else f"launch of {folder.name} failed ({cause})"
    try:
        deadline = time.monotonic() + REMOVE_TIMEOUT_S
        remove_everywhere(accounts, folder.name, folder, deadline=deadline, reporter=reporter)
    except Exception as error:  # noqa: BLE001  (whatever kept it, a person must hear what is left)
        if not (isinstance(error, CloudGone) and account.profile.cloud_key):
            step = f"`gpuctl down {folder.name}` removes what is left; a host terminates itself when its lease ends"
            raise LeftBehind(f"{why}, {_left(accounts, folder)}: {error}", step) from cause
    folder.remove()
    if interrupted:
        raise Interrupted(why, "everything it had created is removed") from None


def _left(accounts: Sequence[Account], folder: RunFolder) -> str:
    """What of a run is left, as far as AWS tells."""
    left = []
    for account in accounts:
        with suppress(GpuctlError):
            left += known_resources(account, folder.name, folder)
    named = ", ".join(f"{one.kind} {one.id}" for one in left)
    return f"leaving {named}" if named else "and may have left something behind"


def _acquire(
    record: RunRecord, account: Account, folder: RunFolder, reporter: Reporter
) -> tuple[RunRecord, list[Instance]]:
    """One fleet call an attempt, in the plan's order, until one has capacity: the record then, and the instances."""
    while True:
        try:
            return _make_hosts(record, account.in_region(record.current.region), folder, reporter)
        except NoCapacity as error:
            if record.attempt == len(record.plan.attempts):
                raise
            record = RunRecord(record.plan, attempt=record.attempt + 1)
            reporter.note(f"{error.message}; trying {record.current.market} in {record.current.region}")
            folder.note(fleet_tries=0)
            folder.write(record)


def _make_hosts(
    record: RunRecord, account: Account, folder: RunFolder, reporter: Reporter
) -> tuple[RunRecord, list[Instance]]:
    """The record's current attempt, in its region's account."""
    attempt = record.current
    best = attempt.best
    reporter.phase("acquire", f"{best.instance_type} ({best.gpu}) in {attempt.region}, {attempt.market}")
    if record.fleet_request is None:
        record = _with_requests(record, account, folder)
        folder.write(record)
    assert record.template_request is not None
    assert record.fleet_request is not None
    with interrupts_wait():
        with _asking(folder, "launch-template", attempt.region) as made:
            made.append(create_template(account, record.template_request))
        with _asking(folder, "instance", attempt.region) as made:
            answer = create_fleet(
                account, record.fleet_request, tries=folder.progress().fleet_tries, on_try=partial(_note_try, folder)
            )
            made.extend(answer.instance_ids)
        folder.note(instance_ids=answer.instance_ids)
    reporter.note(f"{', '.join(answer.instance_ids)} is booting")
    deadline = time.monotonic() + CAPACITY_TIMEOUT_S
    return record, wait_until_running(account, answer.instance_ids, deadline=deadline)


def _with_requests(record: RunRecord, account: Account, folder: RunFolder) -> RunRecord:
    """The record with the very requests of this attempt: what is called now, and again where its answer is lost."""
    plan, attempt = record.plan, record.current
    if not attempt.vpc_id:
        raise UsageError(
            f"the launch of {plan.run} was started by an older gpuctl, and this one cannot continue it",
            f"`gpuctl down {plan.run}`, then launch again",
        )
    claim = folder.progress().claim or secrets.token_hex(8)
    folder.note(claim=claim)
    with interrupts_wait(), _asking(folder, "security-group", attempt.region) as made:
        group_id = claim_group(account, plan.tags, vpc=attempt.vpc_id, claim=claim)
        made.append(group_id)
    allow_ssh_from(account, group_id, plan.access.caller_cidr)
    keys = BootKeys(
        host_private=(folder.path / "host_key").read_text(),
        host_public=(folder.path / "host_key.pub").read_text(),
        caller_public=(folder.path / "identity.pub").read_text(),
    )
    text = user_data(run=plan.run, deadline=plan.lease.ends, keys=keys, login_user=attempt.image.login_user)
    template = template_request(plan, attempt, group_id=group_id, user_data=text)
    fleet = fleet_request(plan, attempt, template=template)
    return replace(record, template_request=template, fleet_request=fleet)


def _note_try(folder: RunFolder, number: int) -> None:
    if number != folder.progress().fleet_tries:
        folder.note(fleet_tries=number)


@contextmanager
def _asking(folder: RunFolder, kind: str, region: str) -> Iterator[list[str]]:
    """A call in a region that makes something of that kind; the block puts the ids into the list.

    They are known from then on, whoever looks for them by tag. Where no answer came, that stays written down: it may
    have been made.
    """
    made: list[str] = []
    folder.note(asked=kind, asked_at=time.time())
    try:
        yield made
    except NoAnswer:
        raise
    except GpuctlError:
        folder.note(asked=None)
        raise
    known = folder.progress().made
    folder.note(asked=None, made=tuple(dict.fromkeys([*known, *(Made(kind, id_, region) for id_ in made)])))


def _handle(record: RunRecord, planned: Planned, profile: Profile, folder: RunFolder, reporter: Reporter) -> RunHandle:
    account = planned.account.in_region(record.current.region)
    return RunHandle(record.plan.run, profile, account, folder, tell=reporter.note)


@contextmanager
def _provisioned(
    run: RunHandle, record: RunRecord, planned: Planned, instance: Instance, reporter: Reporter
) -> Iterator[Host]:
    """From a running instance to a host that has all that the training command needs."""
    reporter.phase("boot", f"{instance.instance_type} {instance.instance_id} in {instance.zone}")
    with wait_for_boot(run, instance) as host:
        host.put_payload(build_payload(shipped("provisioning")))
        if not _runs_already(host, run.folder):
            _provision(host, record.plan, planned, reporter)
        yield host


def _runs_already(host: Host, folder: RunFolder) -> bool:
    """Whether a launch that was cut off at its start has started training after all: it is not to start anew."""
    return folder.progress().started and training_state(host).training != "none"


def _start(host: Host, plan: Plan, folder: RunFolder, reporter: Reporter, *, alive_s: float) -> HostState:
    """Start the training command."""
    reporter.phase("start", " ".join(plan.workload.command))
    folder.note(started=True, start_answered=False)
    return start_training(host, alive_s=alive_s)


def _provision(host: Host, plan: Plan, planned: Planned, reporter: Reporter) -> None:
    """One round trip: the workspace goes up, the environment is made, the deadline is read back."""
    reporter.phase("provision", "the job's files, then what it needs")

    def on_event(event: Mapping[str, Any]) -> None:
        if event.get("event") == "phase":
            reporter.phase(f"provision: {event.get('phase')}", str(event.get("detail", "")))
        elif event.get("event") == "output" and worth_telling(str(event.get("text", ""))):
            reporter.note(str(event.get("text", "")))

    def on_missing(name: str) -> None:
        reporter.note(f"{readable(name)} was deleted or truncated in the meantime and is not uploaded")

    with workspace_tar(planned.content, on_missing=on_missing) as body:
        told = ToldReader(body, on_read=lambda sent, of: reporter.progress(f"{amount(sent)} of {amount(of)} sent"))
        request = _provision_request(plan, planned.environment)
        host.call("provision", request, body=told, on_event=on_event)


def _provision_request(plan: Plan, environment: Mapping[str, str]) -> dict[str, object]:
    work = plan.workload
    return {
        "run": plan.run,
        "attempt": _FIRST_ATTEMPT,
        "deadline": plan.lease.ends.timestamp(),
        "requirements": list(work.requirements),
        "requires_python": work.requires_python,
        "command": list(work.command),
        "env": dict(environment),
        "outputs": {
            "paths": None if work.outputs is None else list(work.outputs),
            "exclude": list(work.exclude),
            "checkpoints": list(work.checkpoints),
        },
        "gpu": True,
        "idle_s": plan.lease.idle_s,
        "discard": plan.lease.discard,
        "files": True,
    }


def worth_telling(line: str) -> bool:
    """Whether a line of pip's tells a person something: what comes down, not where it was looked for."""
    return bool(line.strip()) and not line.lstrip().startswith(_PIP_CHATTER)
