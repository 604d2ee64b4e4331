"""Faults that a cloud is told to have, and the calls that it counts."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

_MOST_CALLS = 100_000


@dataclass(eq=False)
class Fault:
    """One way to misbehave when `operation` is called.

    `code` is the error that is answered, with HTTP `status`; None: no error, `delay_s` alone. `times` below 0: always.
    `drop` closes the connection once the operation has been carried out, so that its answer is lost. A `capacity`
    fault (one that names an instance type, zone or market is one) belongs to CreateFleet's pools instead: those that
    it matches have no more than `available` instances left, and `times` counts calls.
    """

    operation: str
    code: str | None = None
    status: int = 400
    times: int = 1
    delay_s: float = 0.0
    message: str | None = None
    drop: bool = False
    capacity: bool = False
    instance_type: str | None = None
    zone: str | None = None
    market: str | None = None
    available: int = 0

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
    if fault.capacity and fault.operation != "CreateFleet":
        raise ValueError("a capacity fault belongs to CreateFleet")
    return fault


class Faults:
    """The faults that are set. Each call uses one up: the first that is meant for its operation."""

    def __init__(self) -> None:
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

    def take(self, operation: str) -> Fault | None:
        """The fault that this call has, used up by it."""
        with self._lock:
            for fault in self._faults:
                if fault.operation == operation and not fault.capacity:
                    self._use(fault)
                    return fault
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
