"""The machine images that the embedded cloud has, and the public SSM parameters that name them.

The parameters' names are AWS's and Canonical's own:
https://docs.aws.amazon.com/dlami/latest/devguide/find-dlami-id.html,
https://documentation.ubuntu.com/aws/aws-how-to/instances/find-ubuntu-images/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from moto.ec2.models.amis import Ami as MotoAmi

from gpuctl.embedded_cloud.pythons import Python

ROOT_DEVICE = "/dev/sda1"
_CREATED = datetime(2025, 10, 15, 6, 0, tzinfo=timezone.utc)
_DEEP_LEARNING = "/aws/service/deeplearning/ami/{}/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
_UBUNTU = "/aws/service/canonical/ubuntu/server/22.04/stable/current"


@dataclass(frozen=True)
class Image:
    """An image that AWS or Canonical publishes in every region. `snapshot_gib` is the least size of a root volume.

    `python` is what its hosts have as `python3`; None: the first that the cloud was given.
    """

    parameters: tuple[str, ...]
    name: str
    description: str
    architecture: str
    owner_id: str
    snapshot_gib: int
    python: Python | None = None

    def image_id(self, region: str) -> str:
        """Its id in a region, always the same."""
        return "ami-" + hashlib.sha256(f"{region} {self.name}".encode()).hexdigest()[:17]


def _deep_learning(architecture: str, called: str, *, snapshot_gib: int) -> Image:
    return Image(
        parameters=(_DEEP_LEARNING.format(architecture),),
        name=f"Deep Learning {called} OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20251015",
        description="Embedded: no GPU, no NVIDIA driver",
        architecture=architecture,
        owner_id="898082745236",
        snapshot_gib=snapshot_gib,
    )


def _ubuntu(architecture: str, called: str) -> Image:
    return Image(
        parameters=tuple(f"{_UBUNTU}/{called}/hvm/ebs-{disk}/ami-id" for disk in ("gp3", "gp2")),
        name=f"ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-{called}-server-20251015",
        description=f"Canonical, Ubuntu, 22.04, {called} jammy image, embedded",
        architecture=architecture,
        owner_id="099720109477",
        snapshot_gib=8,
    )


IMAGES = (
    _deep_learning("x86_64", "Base", snapshot_gib=75),
    _deep_learning("arm64", "ARM64 Base", snapshot_gib=60),
    _ubuntu("x86_64", "amd64"),
    _ubuntu("arm64", "arm64"),
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


class Catalogue:
    """The images of a cloud with these Pythons: the first is in all that are published, each other has its own."""

    def __init__(self, pythons: Sequence[Python]) -> None:
        self._pythons = list(pythons)
        self._images = list(_with_pythons(pythons))

    def add_images(self, backend: Any) -> None:
        """Gives one region of moto's EC2 the images, once."""
        for image in self._images:
            image_id = image.image_id(backend.region_name)
            if image_id in backend.amis:
                return
            backend.amis[image_id] = _ami(backend, image)

    def parameter(self, name: str, *, region: str) -> dict[str, Any] | None:
        """A public parameter as SSM tells it; None where it names none of the images."""
        for image in self._images:
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

    def parameters_below(self, path: str, *, region: str) -> list[dict[str, Any]]:
        """The public parameters below a path, in order."""
        below = path.rstrip("/") + "/"
        names = sorted(name for image in self._images for name in image.parameters if name.startswith(below))
        return [found for name in names if (found := self.parameter(name, region=region))]

    def python_of(self, image_id: str, *, region: str) -> Python:
        """What the hosts of an image have as `python3`."""
        for image in self._images:
            if image.python and image.image_id(region) == image_id:
                return image.python
        return self._pythons[0]

    def told(self) -> list[dict[str, Any]]:
        """Each Python, and the parameter by which its image is found for each architecture."""
        return [
            {
                "path": python.path,
                "version": python.version,
                "image_parameters": {image.architecture: own_parameter(python, image) for image in _BASES},
            }
            for python in self._pythons
        ]


_BASES = IMAGES[:2]


def own_parameter(python: Python, image: Image) -> str:
    """The parameter that names the image with this Python, for the architecture of `image`."""
    return f"/gpuctl/python{python.minor}/{image.architecture}/ami-id"


def _with_pythons(pythons: Sequence[Python]) -> Iterator[Image]:
    first, *others = pythons
    for image in IMAGES:
        own = (own_parameter(first, image),) if image in _BASES else ()
        yield replace(image, parameters=(*image.parameters, *own), python=first)
    for python in others:
        for image in _BASES:
            name = f"{image.name} Python {python.minor}"
            yield replace(image, parameters=(own_parameter(python, image),), name=name, python=python)


def _ami(backend: Any, image: Image) -> Ami:
    python = f"; Python {image.python.version}" if image.python else ""
    ami = Ami(
        backend,
        image.image_id(backend.region_name),
        name=image.name,
        description=image.description + python,
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
    return ami
