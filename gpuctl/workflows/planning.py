"""From what a person asks to a plan: jobs, prices, images, the caller's address, all asked for side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from gpuctl.aws.access import caller_cidr
from gpuctl.aws.account import Account
from gpuctl.aws.images import find_image
from gpuctl.aws.inventory import find_resources
from gpuctl.aws.offers import find_offers
from gpuctl.core.errors import UsageError
from gpuctl.core.job import merge_command, run_name_ok
from gpuctl.core.offers import ANY_GPU, Wanted, parse_gpu, rank
from gpuctl.core.plan import Plan, Upload, check_then, lease_ends, lease_hours, new_run_name, shortlist
from gpuctl.core.profile import Profile
from gpuctl.core.python_version import refuse_python
from gpuctl.state.places import Places
from gpuctl.state.runs import run_folder
from gpuctl.workflows.job_options import check_words
from gpuctl.workflows.jobs import LoadedJob, find_job, put_uploads
from gpuctl.workflows.names import refuse_name_in_use

ROOM_GIB = 25
LEAST_VOLUME_GIB = 100


@dataclass(frozen=True)
class Request:
    """What a person asks `launch` for."""

    job: str
    words: tuple[str, ...] = ()
    gpu: str | None = None
    instance_type: str | None = None
    region: str | None = None
    max_price_usd_per_hour: Decimal | None = None
    budget_usd: Decimal | None = None
    max_hours: Decimal | None = None
    on_demand: Literal["never", "fallback", "only"] = "never"
    env: tuple[str, ...] = ()
    put: tuple[str, ...] = ()
    name: str | None = None
    then_s: int | None = None
    discard: bool = False


@dataclass(frozen=True)
class Asked:
    """A request that makes sense, as far as this machine alone can tell: its job is read, its words are checked."""

    request: Request
    job: LoadedJob
    command: tuple[str, ...]
    environment: dict[str, str]
    uploads: tuple[Upload, ...]
    run: str


@dataclass(frozen=True)
class Planned:
    """A plan, the job that it is for, and what is told to the host alone: the environment's values."""

    plan: Plan
    job: LoadedJob
    environment: dict[str, str]
    account: Account


def read_request(request: Request) -> Asked:
    """Check a request before any cloud is asked. Raises UsageError kinds, and NotFound for a job that is none."""
    loaded = find_job(request.job)
    command = merge_command(loaded.job.command, request.words)
    check_words(loaded, request.words)
    environment = chosen_environment(request.env, os.environ)
    uploads = (*loaded.uploads, *put_uploads(request.put))
    lease_hours(request.max_hours)
    if request.gpu is not None and request.gpu != ANY_GPU:
        parse_gpu(request.gpu)
    run = new_run_name(loaded.job.name) if request.name is None else request.name
    if not run_name_ok(run):
        raise UsageError(f"--name {run!r} will not do", "use a-z, 0-9 and -, at most 63 of them")
    return Asked(request, loaded, command, environment, uploads, run)


def plan_launch(asked: Asked, *, profile: Profile, places: Places, now: datetime) -> Planned:
    """Decide everything. Raises what is wrong in the order: credentials, region, names, prices."""
    request, loaded, run = asked.request, asked.job, asked.run
    account = Account(profile, request.region)
    folder = run_folder(places.runs, run)
    wanted = Wanted(request.gpu, request.instance_type, request.max_price_usd_per_hour, request.on_demand)
    owner, _, offers, cidr = _side_by_side(
        account.owner,
        lambda: refuse_name_in_use(folder, find_resources(account, run=run), region=account.region),
        lambda: find_offers(account, wanted),
        lambda: caller_cidr(profile),
    )
    ranked = rank(offers, wanted)
    image = find_image(account, ranked[0].instance_type.architecture)
    refuse_python(loaded.job.name, loaded.requires_python, image.python, where=f"that of {image.name}")
    choices = shortlist(ranked)
    ends = lease_ends(
        now,
        max_hours=request.max_hours,
        budget_usd=request.budget_usd,
        price_usd_per_hour=max(c.price_usd_per_hour for c in choices),
    )
    check_then(request.then_s, ends - now)
    plan = Plan(
        run=run,
        job=loaded.job.name,
        cloud=profile.name,
        region=account.region,
        region_source=account.region_source,
        owner=owner,
        command=asked.command,
        requirements=loaded.requirements,
        uploads=asked.uploads,
        environment_names=tuple(sorted(asked.environment)),
        outputs=loaded.job.outputs,
        checkpoints=loaded.job.checkpoints,
        pattern=loaded.job.pattern,
        choices=choices,
        image_id=image.image_id,
        image_name=image.name,
        login_user=profile.login_user,
        root_device=image.root_device,
        volume_gib=max(LEAST_VOLUME_GIB, image.root_gib + ROOM_GIB),
        caller_cidr=cidr,
        max_price_usd_per_hour=request.max_price_usd_per_hour,
        lease_ends=ends,
        then_s=request.then_s,
        discard=request.discard,
        requires_python=loaded.requires_python,
    )
    return Planned(plan, loaded, asked.environment, account)


def chosen_environment(words: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """`--env K=V`, or `--env K` for this shell's own value."""
    chosen = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name.isidentifier():
            raise UsageError(
                f"--env {word!r}: {name!r} is not a variable's name", "write --env NAME=VALUE or --env NAME"
            )
        if not equals and name not in environment:
            raise UsageError(f"--env {name}: this shell has no such variable", f"write --env {name}=VALUE")
        chosen[name] = value if equals else environment[name]
    return chosen


def _side_by_side(*questions: Callable[[], Any]) -> list[Any]:
    """Ask all at once; the answers in order, so that the first question's error is the one that is told."""
    with ThreadPoolExecutor(max_workers=len(questions), thread_name_prefix="plan") as pool:
        futures = [pool.submit(question) for question in questions]
        return [future.result() for future in futures]


def list_offers(
    profile: Profile,
    *,
    region: str | None,
    gpu: str | None,
    instance_type: str | None,
    on_demand: Literal["never", "fallback", "only"],
) -> list[dict[str, Any]]:
    """What there is now, as `offers --json` has it, in the order in which a launch would try it."""
    wanted = Wanted(gpu=gpu, instance_type=instance_type, on_demand=on_demand)
    ranked = rank(find_offers(Account(profile, region), wanted), wanted)
    return [
        {
            "instance_type": offer.instance_type.name,
            "gpu": offer.instance_type.gpu,
            "gpus": offer.instance_type.gpus,
            "zone": offer.zone,
            "market": offer.market,
            "price_usd_per_hour": float(offer.price_usd_per_hour),
        }
        for offer in ranked
    ]
