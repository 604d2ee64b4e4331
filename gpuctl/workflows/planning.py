"""From what a person asks to a plan: jobs, prices, images, the caller's address, all asked for side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from gpuctl.aws.access import caller_cidr
from gpuctl.aws.account import Account
from gpuctl.aws.images import find_image
from gpuctl.aws.offers import find_offers
from gpuctl.aws.parallel import gather
from gpuctl.core.answers import OfferRow
from gpuctl.core.errors import UsageError
from gpuctl.core.job import merge_command
from gpuctl.core.lease import Lease, check_then, lease_ends, lease_hours
from gpuctl.core.offers import ANY_GPU, Requirements, parse_gpu, rank
from gpuctl.core.plan import Access, Plan, Terms, Upload, Workload, images_wanted, most_usd_per_hour, plan_attempts
from gpuctl.core.profile import Profile
from gpuctl.core.python_version import refuse_python
from gpuctl.core.run_names import check_run_name, new_run_name
from gpuctl.core.uploads import UploadContent
from gpuctl.state.paths import Paths
from gpuctl.state.runs import run_folder
from gpuctl.workflows.commands import check_command
from gpuctl.workflows.job_options import check_words
from gpuctl.workflows.jobs import LoadedJob, find_job, put_uploads, with_requirements
from gpuctl.workflows.names import refuse_name_in_use
from gpuctl.workflows.removal import tagged
from gpuctl.workflows.uploads import collect


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
    requirement: tuple[str, ...] = ()
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
    content: UploadContent
    run: str


@dataclass(frozen=True)
class Planned:
    """A plan, the terms it was made for, what the host alone gets (environment values, files), and the account."""

    plan: Plan
    terms: Terms
    environment: dict[str, str]
    content: UploadContent
    account: Account


def read_request(request: Request) -> Asked:
    """Check a request before any cloud is asked. Raises UsageError kinds, and NotFound for a job that is none."""
    loaded = with_requirements(find_job(request.job), request.requirement)
    command = merge_command(loaded.job.command, request.words)
    check_words(loaded, request.words)
    environment = chosen_environment(request.env, os.environ)
    put = put_uploads(request.put)
    lease_hours(request.max_hours)
    if request.gpu is not None and request.gpu != ANY_GPU:
        parse_gpu(request.gpu)
    run = new_run_name(loaded.job.name) if request.name is None else check_run_name(request.name)
    content = collect(loaded.uploads, put, root=loaded.root)
    check_command(command, content)
    return Asked(request, loaded, command, environment, (*loaded.uploads, *put), content, run)


def plan_launch(asked: Asked, *, profile: Profile, paths: Paths, now: datetime) -> Planned:
    """Decide everything. Raises what is wrong in the order: credentials, region, names, prices."""
    request, loaded, run = asked.request, asked.job, asked.run
    account = Account(profile, request.region)
    folder = run_folder(paths.runs, run)
    wanted = Requirements(request.gpu, request.instance_type, request.max_price_usd_per_hour, request.on_demand)
    questions: list[Callable[[], Any]] = [
        account.owner,
        lambda: refuse_name_in_use(folder, tagged(account, folder), cloud=profile.name, region=account.region),
        lambda: find_offers(account, wanted),
        lambda: caller_cidr(profile),
    ]
    owner, _, offers, cidr = gather(questions)
    ranked = rank(offers, wanted)
    images = {wish: find_image(account.in_region(wish[0]), wish[1]) for wish in images_wanted(ranked)}
    for image in images.values():
        refuse_python(loaded.job.name, loaded.requires_python, image.python, where=f"image {image.name} has")
    attempts = plan_attempts(ranked, images, max_price_usd_per_hour=request.max_price_usd_per_hour)
    ends = lease_ends(
        now,
        max_hours=request.max_hours,
        budget_usd=request.budget_usd,
        price_usd_per_hour=most_usd_per_hour(attempts),
    )
    check_then(request.then_s, ends - now)
    plan = Plan(
        run=run,
        job=loaded.job.name,
        cloud=profile.name,
        owner=owner,
        region_source=account.region_source,
        workload=_workload(asked),
        attempts=attempts,
        access=Access(caller_cidr=cidr),
        lease=Lease(ends, request.then_s, request.discard),
    )
    kinds = frozenset((one.region, one.market, one.instance_type.name) for one in offers)
    terms = Terms(now, request.max_hours, request.budget_usd, kinds)
    return Planned(plan, terms, asked.environment, asked.content, account)


def _workload(asked: Asked) -> Workload:
    job = asked.job.job
    return Workload(
        command=asked.command,
        requirements=asked.job.requirements,
        requires_python=asked.job.requires_python,
        uploads=asked.uploads,
        environment_names=tuple(sorted(asked.environment)),
        outputs=job.outputs,
        exclude=job.exclude,
        checkpoints=job.checkpoints,
        pattern=job.pattern,
        unread=asked.job.unread,
        content=asked.content.summary,
    )


def chosen_environment(words: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """`--env K=V`, or `--env K` for this shell's own value."""
    chosen = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name.isidentifier():
            raise UsageError(
                f"--env {word!r}: {name!r} is not a valid variable name", "write --env NAME=VALUE or --env NAME"
            )
        if not equals and name not in environment:
            raise UsageError(f"--env {name}: {name} is not set in this shell", f"write --env {name}=VALUE")
        chosen[name] = value if equals else environment[name]
    return chosen


def list_offers(
    profile: Profile,
    *,
    region: str | None,
    gpu: str | None,
    instance_type: str | None,
    on_demand: Literal["never", "fallback", "only"],
) -> list[OfferRow]:
    """What there is now, in the order in which a launch would try it."""
    wanted = Requirements(gpu=gpu, instance_type=instance_type, on_demand=on_demand)
    ranked = rank(find_offers(Account(profile, region), wanted), wanted)
    return [
        OfferRow(
            instance_type=offer.instance_type.name,
            gpu=offer.instance_type.gpu,
            gpus=offer.instance_type.gpus,
            zone=offer.zone,
            market=offer.market,
            price_usd_per_hour=offer.price_usd_per_hour,
        )
        for offer in ranked
    ]
