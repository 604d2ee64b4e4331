"""What EC2 refuses and moto by itself does not: what is in use, what is not there, what cannot be.

The codes are those of https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html.
"""

from __future__ import annotations

from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses import EC2Response


class Refusals(EC2Response):
    """moto's EC2, which refuses these too. The caller holds the lock around moto."""

    def delete_network_interface(self) -> ActionResult:
        interface_id = self._get_param("NetworkInterfaceId")
        interface = self.ec2_backend.enis.get(interface_id)
        held_by = getattr(interface, "instance", None)
        if held_by is not None and not held_by.gone:
            raise EC2ClientError("InvalidParameterValue", f"Network interface '{interface_id}' is currently in use.")
        return super().delete_network_interface()

    def create_network_interface(self) -> ActionResult:
        for group_id in self._get_param("Groups", []):
            if self.ec2_backend.get_security_group_from_id(group_id) is None:
                raise EC2ClientError("InvalidGroup.NotFound", f"The security group '{group_id}' does not exist")
        return super().create_network_interface()

    def create_security_group(self) -> ActionResult:
        vpc_id = self._get_param("VpcId")
        if vpc_id:
            self.ec2_backend.get_vpc(vpc_id)
        return super().create_security_group()

    def delete_security_group(self) -> ActionResult:
        backend = self.ec2_backend
        group_id, name = self._get_param("GroupId"), self._get_param("GroupName")
        group = backend.get_security_group_from_id(group_id) if group_id else backend.get_security_group_from_name(name)
        if group is not None:
            self._require_unused(group)
        answer = super().delete_security_group()
        if group is not None:
            backend.tags.pop(group.id, None)
        return answer

    def _require_unused(self, group: Any) -> None:
        backend = self.ec2_backend
        held = any(
            group.id in {other.id for other in instance.security_groups}
            for instance in backend.all_instances()
            if not instance.gone
        )
        held = held or any(group.id in {other.id for other in eni.group_set} for eni in backend.enis.values())
        referred = any(
            rule.source_group.get("GroupId") == group.id
            for groups in backend.groups.values()
            for other in groups.values()
            if other.id != group.id
            for rule in [*other.ingress_rules, *other.egress_rules]
        )
        if held or referred:
            raise EC2ClientError("DependencyViolation", f"resource {group.id} has a dependent object")

    def associate_route_table(self) -> ActionResult:
        self.ec2_backend.get_route_table(self._get_param("RouteTableId"))
        return super().associate_route_table()

    def create_volume(self) -> ActionResult:
        zone = self._get_param("AvailabilityZone")
        if zone and zone not in self._zones():
            raise EC2ClientError("InvalidZone.NotFound", f"The zone '{zone}' does not exist.")
        return super().create_volume()

    def describe_availability_zones(self) -> ActionResult:
        for zone in self._get_param("ZoneNames", []):
            if zone not in self._zones():
                raise EC2ClientError("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
        return super().describe_availability_zones()

    def _zones(self) -> set[str]:
        return {zone.name for zone in self.ec2_backend.describe_availability_zones()}

    def import_key_pair(self) -> ActionResult:
        try:
            return super().import_key_pair()
        except UnsupportedAlgorithm as error:
            raise EC2ClientError("InvalidKey.Format", "Key is not in valid OpenSSH public key format") from error
