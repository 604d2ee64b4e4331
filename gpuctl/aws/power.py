"""Switching an instance on again that was stopped: by a person, or by AWS when it retires the machine below."""

from __future__ import annotations

import time
from collections.abc import Callable

from gpuctl.aws.account import Account
from gpuctl.aws.errors import ErrorClass, aws_errors, classify, code_of
from gpuctl.aws.instances import as_instance
from gpuctl.aws.parallel import NotReady, poll
from gpuctl.core.errors import CloudError
from gpuctl.core.hosts import Instance


def start_instance(
    account: Account, instance_id: str, *, deadline: float, sleep: Callable[[float], None] = time.sleep
) -> Instance:
    """The instance, once it runs; one that is still stopping is started when it has stopped.

    `deadline` is a time.monotonic(). Raises CloudError, NoCapacity or NotAllowed where EC2 does not start it.
    """
    ec2 = account.client("ec2")

    def look() -> Instance:
        held = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
        instance = as_instance(held[0]["Instances"][0])
        if instance.state == "running":
            return instance
        if instance.state in ("shutting-down", "terminated"):
            raise CloudError(f"{instance_id} has been terminated")
        if instance.state == "stopped":
            try:
                ec2.start_instances(InstanceIds=[instance_id])
            except ec2.exceptions.ClientError as error:
                if classify(code_of(error)) is not ErrorClass.WAIT:
                    raise
        raise NotReady(instance.state)

    try:
        with aws_errors(f"start the stopped instance {instance_id}"):
            return poll(look, deadline=deadline, sleep=sleep)
    except NotReady as state:
        raise CloudError(f"{instance_id} did not start in time: EC2 says {state}", "try again in a minute") from state
