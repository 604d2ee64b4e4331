"""Faults that a cloud is told to have, and the calls that it counts."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from gpuctl.embedded_cloud.unseen import Unseen

_MOST_CALLS = 100_000
_CREATIONS = ("CreateFleet", "RunInstances", "CreateLaunchTemplate", "CreateSecurityGroup")
_PAGE = (
    "<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title><meta charset=utf-8></head>\n"
    "<body><center><h1>502 Bad Gateway</h1></center><hr></body></html>\n"
)
_XHTML = (
    '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>Sign in</title></head><body><p>Sign in</p></body></html>'
)
BODIES = ("page", "xhtml", "cut", "short", "empty")


@dataclass(eq=False)
class Fault:
    """One way to misbehave when `operation` is called; with `region`, there alone.

    `code` is the error that is answered, with HTTP `status` (400); None: no error, `delay_s` alone. `times` below 0:
    always. `drop` closes the connection once the operation has been carried out, so that its answer is lost.

    `body` puts something else in the place of the answer, with HTTP `status` (200), as something in between would:
    `page` (a proxy's, no XML), `xhtml` (a page that is well-formed XML), `cut` (the answer's first half), `short` (the
    connection ends within it), `empty`. The operation has been carried out all the same, unless `lost` says that the
    request did not get through.

    The operation `CallerAddress` is no call of AWS's: where a caller asks for its own address, `message` is the answer.

    `ends` belongs to CreateFleet: what it makes ends at once, with this StateReason (`Client.InternalError: Client
    error on launch`).

    `unseen_s` belongs to an operation that creates: what it makes is not seen for so long (module `unseen`).

    A `capacity` fault (one that names an instance type, zone or market is one) belongs to CreateFleet's pools instead:
    those that it matches have no more than `available` instances left, and `times` counts calls.
    """

    operation: str
    code: str | None = None
    status: int | None = None
    times: int = 1
    delay_s: float = 0.0
    message: str | None = None
    drop: bool = False
    body: str | None = None
    lost: bool = False
    unseen_s: float = 0.0
    ends: str | None = None
    capacity: bool = False
    instance_type: str | None = None
    zone: str | None = None
    market: str | None = None
    available: int = 0
    region: str | None = None

    @property
    def words(self) -> str:
        """The message of the error."""
        return self.message or f"The embedded cloud was told to answer {self.code}"

    def matches_pool(self, *, instance_type: str, zone: str, market: str) -> bool:
        """Whether a pool of CreateFleet is meant."""
        pairs = ((self.instance_type, instance_type), (self.zone, zone), (self.market, market))
        return all(wanted is None or wanted == actual for wanted, actual in pairs)


def fault_from_json(values: object) -> Fault:
    """A fault as it was posted. Raises ValueError, naming what is wrong."""
    if not isinstance(values, Mapping):
        raise ValueError("a fault is a JSON object")
    known = {field.name for field in fields(Fault)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; a fault has {', '.join(sorted(known))}")
    if not isinstance(values.get("operation"), str):
        raise ValueError("a fault names its operation, such as CreateFleet")
    fault = Fault(**values)
    if fault.instance_type or fault.zone or fault.market:
        fault.capacity = True
    if fault.unseen_s and fault.operation not in _CREATIONS:
        raise ValueError(f"only what {', '.join(_CREATIONS)} make can be unseen")
    if fault.body not in (None, *BODIES):
        raise ValueError(f"a body is one of {', '.join(BODIES)}")
    if (fault.capacity or fault.ends) and fault.operation != "CreateFleet":
        raise ValueError("a capacity fault and `ends` belong to CreateFleet")
    return fault


def in_place_of(body: str, answer: bytes) -> bytes:
    """What arrives in the place of an answer."""
    return {
        "page": _PAGE.encode(),
        "xhtml": _XHTML.encode(),
        "cut": answer[: len(answer) // 2],
        "short": answer[: len(answer) // 2],
        "empty": b"",
    }[body]


class Faults:
    """The faults that are set. Each call uses one up: the first that is meant for its operation.

    `unseen` is what was made a moment ago and is not seen yet.
    """

    def __init__(self) -> None:
        self.unseen = Unseen()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """One more fault, after those that are set."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """No more faults."""
        with self._lock:
            self._faults.clear()
        self.unseen.clear()

    def take(self, operation: str, region: str | None = None) -> Fault | None:
        """The fault that this call has, used up by it; some calls are of no region."""
        with self._lock:
            for fault in self._faults:
                here = fault.operation == operation and fault.region in (None, region)
                if here and not (fault.capacity or fault.unseen_s or fault.ends):
                    self._use(fault)
                    return fault
        return None

    def made(self, operation: str, ids: Iterable[str]) -> None:
        """What an operation has made, which may have to wait before it is seen."""
        with self._lock:
            for fault in self._faults:
                if fault.operation == operation and fault.unseen_s:
                    self.unseen.hide(ids, fault.unseen_s)
                    self._use(fault)
                    return

    def ending(self) -> str | None:
        """The StateReason with which what a CreateFleet has made ends at once."""
        with self._lock:
            for fault in self._faults:
                if fault.ends:
                    self._use(fault)
                    return fault.ends
        return None

    def capacity(self) -> list[Fault]:
        """The capacity faults that a CreateFleet meets."""
        with self._lock:
            return [fault for fault in self._faults if fault.capacity]

    def use(self, fault: Fault) -> None:
        """Counts a capacity fault that a CreateFleet met."""
        with self._lock:
            if fault in self._faults:
                self._use(fault)

    def _use(self, fault: Fault) -> None:
        if fault.times > 0:
            fault.times -= 1
        if fault.times == 0:
            self._faults.remove(fault)


class Calls:
    """Every AWS call that was made, newest last, for whoever counts them."""

    def __init__(self) -> None:
        self._calls: deque[dict[str, Any]] = deque(maxlen=_MOST_CALLS)

    def note(self, service: str, operation: str) -> None:
        """One more call."""
        self._calls.append({"service": service, "operation": operation, "time": time.time()})

    def list(self) -> list[dict[str, Any]]:
        """The calls so far."""
        return list(self._calls)

    def clear(self) -> None:
        """Counts from here."""
        self._calls.clear()
