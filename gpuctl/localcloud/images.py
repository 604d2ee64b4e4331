"""The machine images that the embedded cloud has, and the public SSM parameters that name them.

The parameters' names are AWS's and Canonical's own:
https://docs.aws.amazon.com/dlami/latest/devguide/find-dlami-id.html,
https://documentation.ubuntu.com/aws/aws-how-to/instances/find-ubuntu-images/.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from moto.ec2.models.amis import Ami as MotoAmi

ROOT_DEVICE = "/dev/sda1"
_CREATED = datetime(2025, 10, 15, 6, 0, tzinfo=timezone.utc)
_UBUNTU = "/aws/service/canonical/ubuntu/server/22.04/stable/current"


@dataclass(frozen=True)
class Image:
    """An image that AWS or Canonical publishes in every region. `snapshot_gib` is the least size of a root volume."""

    parameters: tuple[str, ...]
    name: str
    description: str
    architecture: str
    owner_id: str
    snapshot_gib: int

    def image_id(self, region: str) -> str:
        """Its id in a region, always the same."""
        return "ami-" + hashlib.sha256(f"{region} {self.name}".encode()).hexdigest()[:17]


IMAGES = (
    Image(
        parameters=("/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id",),
        name="Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20251015",
        description="Embedded: no GPU, no NVIDIA driver",
        architecture="x86_64",
        owner_id="898082745236",
        snapshot_gib=75,
    ),
    Image(
        parameters=("/aws/service/deeplearning/ami/arm64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id",),
        name="Deep Learning ARM64 Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20251015",
        description="Embedded: no GPU, no NVIDIA driver",
        architecture="arm64",
        owner_id="898082745236",
        snapshot_gib=60,
    ),
    Image(
        parameters=(f"{_UBUNTU}/amd64/hvm/ebs-gp3/ami-id", f"{_UBUNTU}/amd64/hvm/ebs-gp2/ami-id"),
        name="ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-20251015",
        description="Canonical, Ubuntu, 22.04, amd64 jammy image, embedded",
        architecture="x86_64",
        owner_id="099720109477",
        snapshot_gib=8,
    ),
    Image(
        parameters=(f"{_UBUNTU}/arm64/hvm/ebs-gp3/ami-id", f"{_UBUNTU}/arm64/hvm/ebs-gp2/ami-id"),
        name="ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-arm64-server-20251015",
        description="Canonical, Ubuntu, 22.04, arm64 jammy image, embedded",
        architecture="arm64",
        owner_id="099720109477",
        snapshot_gib=8,
    ),
)


class Ami(MotoAmi):
    """moto's image, with the root volume that it really has: moto writes 15 GiB for all."""

    __module__ = "moto.ec2.cloud"

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        return [
            {
                "DeviceName": self.root_device_name,
                "Ebs": {
                    "SnapshotId": self.ebs_snapshot.id,
                    "VolumeSize": self.ebs_snapshot.volume.size,
                    "DeleteOnTermination": True,
                    "VolumeType": "gp3",
                    "Encrypted": False,
                },
            }
        ]


def add_images(backend: Any) -> None:
    """Gives one region of moto's EC2 the images, once."""
    for image in IMAGES:
        image_id = image.image_id(backend.region_name)
        if image_id in backend.amis:
            return
        ami = Ami(
            backend,
            image_id,
            name=image.name,
            description=image.description,
            owner_id=image.owner_id,
            owner_alias="amazon",
            public=True,
            virtualization_type="hvm",
            architecture=image.architecture,
            creation_date=_CREATED,
            hypervisor="xen",
            image_location=f"amazon/{image.name}",
            root_device_type="ebs",
            root_device_name=ROOT_DEVICE,
            region_name=f"{backend.region_name}a",
            boot_mode="uefi-preferred",
        )
        ami.ebs_snapshot.volume.size = image.snapshot_gib
        backend.amis[image_id] = ami


def parameter(name: str, *, region: str) -> dict[str, Any] | None:
    """A public parameter as SSM tells it; None where it names none of the images."""
    for image in IMAGES:
        if name in image.parameters:
            return {
                "Name": name,
                "Type": "String",
                "Value": image.image_id(region),
                "Version": 1,
                "LastModifiedDate": _CREATED,
                "ARN": f"arn:aws:ssm:{region}::parameter{name}",
                "DataType": "text",
            }
    return None


def parameters_below(path: str, *, region: str) -> list[dict[str, Any]]:
    """The public parameters below a path, in order."""
    names = sorted(name for image in IMAGES for name in image.parameters if name.startswith(path.rstrip("/") + "/"))
    return [found for name in names if (found := parameter(name, region=region))]
