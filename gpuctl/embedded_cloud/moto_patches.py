"""moto, made to hand out loopback addresses and nothing else: by itself it names real machines on the internet.

`install` replaces what moto's EC2 makes addresses with, in this process, and gives each default network its way out.
"""

from __future__ import annotations

from typing import Any

from moto.ec2.models import (
    elastic_block_store,
    elastic_ip_addresses,
    elastic_network_interfaces,
    instances,
    nat_gateways,
    subnets,
    vpcs,
)

from gpuctl.embedded_cloud.sockets import LOOPBACK


class Instance(instances.Instance):
    """moto's instance, whose addresses and names are the loopback's and end with it."""

    # moto's bookkeeping of classes reads the service from the module's name
    __module__ = "moto.ec2.cloud"

    spot_instance_request_id: str | None = None
    spot_type = "one-time"

    @property
    def gone(self) -> bool:
        """True once it has ended for good."""
        return bool(self.state == "terminated")

    @property
    def network_interfaces(self) -> list[Any]:
        return [] if self.gone else list(self.nics.values())

    @property
    def private_ip(self) -> str | None:
        return None if self.gone else LOOPBACK

    private_ip_address = private_ip

    @property
    def public_ip(self) -> str | None:
        has_one = self.state in ("pending", "running") and 0 in self.nics and self.nics[0].public_ip
        return LOOPBACK if has_one else None

    public_ip_address = public_ip

    @property
    def private_dns_name(self) -> str:
        return "" if self.gone else "localhost"

    @property
    def public_dns_name(self) -> str | None:
        return "localhost" if self.public_ip else None


def _address(*_: Any, **options: Any) -> str:
    return "::1" if options.get("ipv6") else LOOPBACK


def _name(*_: Any, **__: Any) -> str:
    return "localhost"


_make_default_vpc = vpcs.VPCBackend.create_default_vpc


def _default_vpc(backend: Any) -> Any:
    """A default VPC comes with an internet gateway, and a route to it in its main route table.

    https://docs.aws.amazon.com/vpc/latest/userguide/default-vpc-components.html
    """
    vpc = _make_default_vpc(backend)
    gateway = backend.create_internet_gateway()
    backend.attach_internet_gateway(gateway.id, vpc.id)
    (table,) = backend.describe_route_tables(filters={"vpc-id": vpc.id})
    backend.create_route(table.id, "0.0.0.0/0", gateway_id=gateway.id)
    return vpc


class VolumeAttachment(elastic_block_store.VolumeAttachment):
    """moto's attachment, which tells whether the volume ends with its instance."""

    __module__ = "moto.ec2.cloud"

    @property
    def delete_on_termination(self) -> bool:
        device = self.instance.block_device_mapping.get(self.device)
        return bool(device and device.delete_on_termination)


def install() -> None:
    """Makes every address that moto's EC2 gives out the loopback's, and default networks whole."""
    _put(elastic_block_store, "VolumeAttachment", VolumeAttachment)
    _put(instances, "Instance", Instance)
    _put(subnets.Subnet, "get_available_subnet_ip", _address)
    _put(subnets.Subnet, "request_ip", _address)
    _put(elastic_ip_addresses, "random_ip", _address)
    _put(elastic_network_interfaces, "random_public_ip", _address)
    _put(elastic_network_interfaces, "generate_dns_from_ip", _name)
    _put(vpcs.VPCBackend, "create_default_vpc", _default_vpc)
    for module in (instances, elastic_network_interfaces, nat_gateways, vpcs):
        _put(module, "random_private_ip", _address)


def _put(owner: Any, name: str, value: Any) -> None:
    """Raises AttributeError where moto has no such name any more, and so makes its addresses in another way."""
    getattr(owner, name)
    setattr(owner, name, value)
