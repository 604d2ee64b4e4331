"""The kinds of AWS resource that a run may have, one row each: how they are listed, found by id and removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpuctl.aws.account import Account
from gpuctl.aws.errors import ErrorClass, classify, code_of

INSTANCE = "instance"
"""Listed and ended apart (`inventory.find_instances`, `removal`): many by one call, and only after a while gone."""


@dataclass(frozen=True)
class Kind:
    """One kind, by EC2's own word (as in a tag specification).

    `describe` lists it by pages, under `items`, each with `id_key` and `tags_key`; it takes ids as `ids_parameter`.
    `delete` removes one, named by `id_key`. `is_there` tells one that is only listed for a while after its end.
    `in_use` are codes that mean that something uses it yet, besides those that mean so everywhere.
    """

    name: str
    describe: str
    items: str
    id_key: str
    ids_parameter: str
    delete: str
    tags_key: str = "Tags"
    is_there: Callable[[Any], bool] = lambda item: True
    in_use: Sequence[str] = ()

    def remove(self, account: Account, id_: str) -> None:
        """One call. Raises what boto3 raises."""
        getattr(account.client("ec2"), self.delete)(**{self.id_key: id_})

    def is_known(self, account: Account, id_: str) -> bool:
        """Whether EC2 finds it by its id. Raises what boto3 raises."""
        ec2: Any = account.client("ec2")
        try:
            return bool(getattr(ec2, self.describe)(**{self.ids_parameter: [id_]})[self.items])
        except ec2.exceptions.ClientError as error:
            if classify(code_of(error)) is ErrorClass.GONE:
                return False
            raise

    def is_in_use(self, code: str) -> bool:
        """Whether this code of an error means that something uses it yet, or that AWS is too busy."""
        return classify(code) is ErrorClass.WAIT or code in self.in_use


KINDS = (
    Kind(
        "launch-template",
        describe="describe_launch_templates",
        items="LaunchTemplates",
        id_key="LaunchTemplateId",
        ids_parameter="LaunchTemplateIds",
        delete="delete_launch_template",
    ),
    Kind(
        "volume",
        describe="describe_volumes",
        items="Volumes",
        id_key="VolumeId",
        ids_parameter="VolumeIds",
        delete="delete_volume",
        is_there=lambda item: item.get("State") not in ("deleting", "deleted"),
    ),
    Kind(
        "network-interface",
        describe="describe_network_interfaces",
        items="NetworkInterfaces",
        id_key="NetworkInterfaceId",
        ids_parameter="NetworkInterfaceIds",
        delete="delete_network_interface",
        tags_key="TagSet",
        in_use=("InvalidParameterValue",),  # what DeleteNetworkInterface says of one that is still attached
    ),
    Kind(
        "security-group",
        describe="describe_security_groups",
        items="SecurityGroups",
        id_key="GroupId",
        ids_parameter="GroupIds",
        delete="delete_security_group",
    ),
)
"""In the order in which they are removed, after the instances that use them."""
