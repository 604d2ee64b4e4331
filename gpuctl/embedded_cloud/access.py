"""Who may connect to a host: security groups' rules, as they are at the moment of asking."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

SSH_PORT = 22
_TCP = ("tcp", "6", "-1")


@dataclass(frozen=True)
class Rule:
    """One ingress rule: a protocol, a range of ports (None: all), and where from: a CIDR or a group's members."""

    protocol: str
    from_port: int | None
    to_port: int | None
    cidr: str | None = None
    group_id: str | None = None


@dataclass(frozen=True)
class Member:
    """An instance that has an address and is in some groups."""

    instance_id: str
    address: str
    group_ids: frozenset[str]


def allows_ssh(rules: Iterable[Rule], address: str, *, others: Iterable[Member] = (), port: int = SSH_PORT) -> bool:
    """Whether one of the rules lets `address` connect to the TCP port. What is not an address is never admitted.

    `others` are the other instances, for rules that name a group. Here they all have the address 127.0.0.1, as has
    the laptop: a rule for a group with another member admits both.
    """
    try:
        source = _address(address)
    except ValueError:
        return False
    members = list(others)
    return any(_serves(rule, port) and _comes_from(rule, source, members) for rule in rules)


def _serves(rule: Rule, port: int) -> bool:
    if rule.protocol not in _TCP:
        return False
    if rule.protocol == "-1" or rule.from_port is None or rule.to_port is None:
        return True
    return rule.from_port <= port <= rule.to_port


def _comes_from(rule: Rule, source: ipaddress.IPv4Address | ipaddress.IPv6Address, members: list[Member]) -> bool:
    if rule.cidr is not None:
        try:
            return source in ipaddress.ip_network(rule.cidr, strict=False)
        except ValueError:
            return False
    return any(rule.group_id in member.group_ids and source == _address(member.address) for member in members)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address; of an IPv4 one that came in IPv6's clothes, the IPv4 one."""
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address
