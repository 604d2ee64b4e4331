"""Offers: the ways to get a host, which of them do, and which comes first."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from typing import Literal

from gpuctl.core.errors import NoCapacity, UsageError

Market = Literal["spot", "on-demand"]

COMPUTE_CAPABILITY = {
    "K80": Decimal("3.7"),
    "M60": Decimal("5.2"),
    "V100": Decimal("7.0"),
    "T4": Decimal("7.5"),
    "T4g": Decimal("7.5"),
    "A100": Decimal("8.0"),
    "A10G": Decimal("8.6"),
    "L4": Decimal("8.9"),
    "L40S": Decimal("8.9"),
    "H100": Decimal("9.0"),
    "H200": Decimal("9.0"),
    "B200": Decimal("10.0"),
    "GB200": Decimal("10.0"),
    "B300": Decimal("10.3"),
    "GB300": Decimal("10.3"),
    "RTX PRO 4500": Decimal("12.0"),
    "RTX PRO Server 6000": Decimal("12.0"),
}
"""By EC2's name of the GPU. https://developer.nvidia.com/cuda-gpus, older ones https://developer.nvidia.com/cuda-legacy-gpus."""

BF16_SINCE = Decimal("8.0")
"""NVIDIA's GPUs have bfloat16 in hardware from this compute capability on (CUDA C++ Programming Guide)."""

DRIVEN_SINCE = Decimal("7.5")
"""The images bring the open modules of NVIDIA's driver, which know Turing (T4) and newer GPUs alone.
https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/kernel-modules.html; the instances that the image is
for begin with G4dn (https://docs.aws.amazon.com/dlami/latest/devguide/, "Base OSS Nvidia Driver GPU AMI")."""

DEFAULT_GPU_MEMORY_GIB = Decimal(15)
"""What is sold as 16 GB shows as 15 to 16 GiB."""

ANY_GPU = "any"
"""As a wish: whichever GPU, however many of them."""

_ALIASES = {"a10": "A10G", "rtxpro6000": "RTX PRO Server 6000", "rtx6000": "RTX PRO Server 6000"}
_MARKET_ORDER = {"spot": 0, "on-demand": 1}


@dataclass(frozen=True)
class InstanceType:
    """What EC2 says of an instance type (DescribeInstanceTypes).

    `gpu` is the device's name (`A10G`), `gpus` how many, `gpu_memory_gib` the memory of one of them. A type without
    a GPU has `""`, 0 and 0.
    """

    name: str
    architecture: str
    gpu: str
    gpus: int
    gpu_memory_gib: Decimal

    @property
    def bf16(self) -> bool:
        """True where the GPU is known to have bfloat16 in hardware."""
        return COMPUTE_CAPABILITY.get(self.gpu, Decimal(0)) >= BF16_SINCE

    @property
    def driven(self) -> bool:
        """False where the GPU is known to be older than what the images' driver supports."""
        return COMPUTE_CAPABILITY.get(self.gpu, DRIVEN_SINCE) >= DRIVEN_SINCE


@dataclass(frozen=True)
class Subnet:
    """Where a host's network interface goes: a subnet of a VPC, in a zone of a region."""

    subnet_id: str
    vpc_id: str
    zone: str
    region: str


@dataclass(frozen=True)
class Offer:
    """One way to get a host: instance type × subnet (and so region and zone) × market, at a price."""

    instance_type: InstanceType
    subnet: Subnet
    market: Market
    price_usd_per_hour: Decimal

    @property
    def zone(self) -> str:
        """The availability zone."""
        return self.subnet.zone

    @property
    def region(self) -> str:
        """The region."""
        return self.subnet.region


@dataclass(frozen=True)
class Requirements:
    """What a launch asks of its hosts. None: no wish."""

    gpu: str | None = None
    instance_type: str | None = None
    max_price_usd_per_hour: Decimal | None = None
    on_demand: Literal["never", "fallback", "only"] = "never"

    @property
    def markets(self) -> tuple[Market, ...]:
        """The markets that will do, in the order in which they are tried."""
        orders: dict[str, tuple[Market, ...]] = {
            "never": ("spot",),
            "fallback": ("spot", "on-demand"),
            "only": ("on-demand",),
        }
        return orders[self.on_demand]


@dataclass(frozen=True)
class GpuSpec:
    """`--gpu` as read: a name, and where they were given, how many a host and how much memory each."""

    text: str
    name: str
    gpus: int | None = None
    memory_gib: int | None = None

    def matches(self, kind: InstanceType) -> bool:
        """True where the GPU is this one. Memory is compared as sold: 24 GB is 22.4 GiB on a data sheet's device."""
        if _plain(kind.gpu) != self.name:
            return False
        return self.memory_gib is None or abs(kind.gpu_memory_gib - self.memory_gib) <= Decimal(self.memory_gib) / 10


def parse_gpu(text: str) -> GpuSpec:
    """`NAME`, `NAME-80gb`, `NAME:COUNT`, in any case: `a10g`, `A100-80GB`, `nvidia l4:4`. Raises UsageError."""
    name, colon, count = text.partition(":")
    if not _plain(name) or (colon and not re.fullmatch(r"[1-9][0-9]{0,2}", count)):
        raise UsageError(f"--gpu {text!r} is not NAME or NAME:COUNT", "for example --gpu a10g, --gpu a100-80gb:8")
    memory = re.search(r"[-_ ](\d{1,4})gb?$", name.strip(), re.IGNORECASE)
    if memory:
        name = name[: memory.start()]
    plain = _plain(name)
    return GpuSpec(
        text=text,
        name=_plain(_ALIASES.get(plain, plain)),
        gpus=int(count) if colon else None,
        memory_gib=int(memory[1]) if memory else None,
    )


def suitable(kinds: Iterable[InstanceType], wanted: Requirements) -> list[InstanceType]:
    """The instance types that do, in the order given.

    Without a wish: one GPU of 16 GB or more with native bfloat16. A GPU by name without a count: as few as it comes in.
    `any`: whatever has a GPU. A GPU that the images cannot drive never does.
    Raises UsageError where what is wanted does not exist or cannot be driven, NoCapacity where it exists elsewhere.
    """
    kinds = list(kinds)
    if wanted.instance_type is not None:
        kinds = _named(kinds, wanted.instance_type)
        _require_driven(kinds)
    if wanted.gpu == ANY_GPU:
        driven = [kind for kind in kinds if kind.gpus and kind.driven]
        if not driven:
            raise NoCapacity("no GPU that the image's driver supports is offered here", "try another --region")
        return driven
    if wanted.gpu is not None:
        return _with_gpu(kinds, parse_gpu(wanted.gpu), wanted)
    if wanted.instance_type is not None:
        return kinds
    found = [kind for kind in kinds if kind.gpus == 1 and kind.bf16 and kind.gpu_memory_gib >= DEFAULT_GPU_MEMORY_GIB]
    if not found:
        raise NoCapacity(
            "no GPU with 16 GB and bfloat16 is offered here", "try another --region, or name one with --gpu"
        )
    return found


def rank(offers: Iterable[Offer], wanted: Requirements) -> list[Offer]:
    """The offers that do, cheapest first; with `on_demand="fallback"` spot stands before on-demand.

    Ties are broken by name and zone. Raises NoCapacity where nothing is left, with the cheapest that there was.
    """
    on_market = [offer for offer in offers if offer.market in wanted.markets]
    if not on_market:
        what = " or ".join(wanted.markets)
        raise NoCapacity(f"no suitable host is offered ({what})", "try another --region, --gpu or --on-demand")
    kinds = set(suitable({offer.instance_type: None for offer in on_market}, wanted))
    matching = sorted((offer for offer in on_market if offer.instance_type in kinds), key=_order)
    limit = wanted.max_price_usd_per_hour
    found = [offer for offer in matching if limit is None or offer.price_usd_per_hour <= limit]
    if not found:
        cheapest = min(matching, key=lambda offer: (offer.price_usd_per_hour, _order(offer)))
        raise NoCapacity(
            f"nothing costs ${limit:f} an hour or less; the cheapest is {cheapest.instance_type.name} "
            f"({cheapest.market}) in {cheapest.zone} at ${cheapest.price_usd_per_hour:f}",
            f"raise --max-price to {cheapest.price_usd_per_hour:f} or more",
        )
    return found


def _order(offer: Offer) -> tuple[int, Decimal, str, str]:
    return (_MARKET_ORDER[offer.market], offer.price_usd_per_hour, offer.instance_type.name, offer.zone)


def _plain(name: str) -> str:
    """A GPU's name without case, maker, spaces and hyphens."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia").removeprefix("tesla")


def _named(kinds: list[InstanceType], name: str) -> list[InstanceType]:
    found = [kind for kind in kinds if kind.name == name.strip().lower()]
    if not found:
        near = get_close_matches(name.strip().lower(), sorted(kind.name for kind in kinds), n=4, cutoff=0.6)
        hint = f"similar: {', '.join(near)}" if near else "`gpuctl offers` lists what is available"
        raise UsageError(f"no instance type {name!r} is offered here", hint)
    return found


def _require_driven(kinds: list[InstanceType]) -> None:
    old = next((kind for kind in kinds if not kind.driven), None)
    if old is not None:
        raise UsageError(
            f"the {old.gpu} of {old.name} is too old for the image's NVIDIA driver",
            "choose a T4 or newer: `gpuctl offers` lists them",
        )


def _with_gpu(kinds: list[InstanceType], wish: GpuSpec, wanted: Requirements) -> list[InstanceType]:
    found = [kind for kind in kinds if wish.matches(kind)]
    if not found:
        raise _no_such_gpu(kinds, wish, wanted)
    _require_driven(found)
    counts = sorted({kind.gpus for kind in found})
    count = counts[0] if wish.gpus is None else wish.gpus
    if count not in counts:
        gpu = found[0].gpu
        raise UsageError(f"no host with {count} × {gpu} is offered here", f"hosts have {_either(counts)}")
    return [kind for kind in found if kind.gpus == count]


def _no_such_gpu(kinds: list[InstanceType], wish: GpuSpec, wanted: Requirements) -> UsageError | NoCapacity:
    here = sorted({kind.gpu for kind in kinds if kind.gpus and kind.driven})
    if wanted.instance_type is not None:
        has = ", ".join(f"{kind.gpus} × {kind.gpu}" if kind.gpus else "no GPU" for kind in kinds)
        return UsageError(f"{wanted.instance_type} has {has}, not --gpu {wish.text}", "use only one of the two options")
    known = {_plain(name): name for name in COMPUTE_CAPABILITY}
    if wish.name in known and known[wish.name] not in here:
        there = f"this one has {', '.join(here)}" if here else "this one has no NVIDIA GPU at all"
        return NoCapacity(f"{known[wish.name]} is not offered in this region", f"try another --region; {there}")
    near = get_close_matches(wish.name, [_plain(name) for name in here], n=3, cutoff=0.5)
    names = [name for name in here if _plain(name) in near] or here
    what = "similar" if near else "available"
    return UsageError(f"no GPU {wish.text!r} is offered here", f"{what}: {', '.join(names) or 'none in this region'}")


def _either(counts: list[int]) -> str:
    return " or ".join(str(count) for count in counts)
