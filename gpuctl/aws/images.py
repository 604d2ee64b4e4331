"""The image that hosts boot from: which one, by AWS's public SSM parameter, and what its root disk is."""

from __future__ import annotations

from gpuctl.aws.account import Account
from gpuctl.aws.errors import ErrorClass, aws_errors, classify, code_of
from gpuctl.core.errors import CloudError, UsageError
from gpuctl.core.plan import Image
from gpuctl.core.python_version import python_of_image


def find_image(account: Account, architecture: str) -> Image:
    """The cloud's image for `x86_64` or `arm64`. Raises UsageError where it has none, CloudError where it is gone."""
    parameter = account.profile.image_parameters.get(architecture)
    if parameter is None:
        known = ", ".join(sorted(account.profile.image_parameters))
        raise UsageError(f"there is no image for {architecture}", f"choose an instance type with {known}")
    ssm = account.client("ssm")
    with aws_errors("look up the image"):
        try:
            image_id = ssm.get_parameter(Name=parameter)["Parameter"]["Value"]
        except ssm.exceptions.ClientError as error:
            if classify(code_of(error)) is not ErrorClass.GONE:
                raise
            raise CloudError(f"{account.region} has no image {parameter}", "try another --region") from error
    return _described(account, image_id)


def _described(account: Account, image_id: str) -> Image:
    with aws_errors(f"check the image {image_id}"):
        found = account.client("ec2").describe_images(ImageIds=[image_id])["Images"]
        if not found:
            raise CloudError(f"the image {image_id} is not in {account.region}", "try another --region")
        image = found[0]
        root = image.get("RootDeviceName", "")
        sizes = [
            mapping["Ebs"].get("VolumeSize", 0)
            for mapping in image.get("BlockDeviceMappings", [])
            if mapping.get("DeviceName") == root and "Ebs" in mapping
        ]
        if not sizes:
            raise CloudError(f"the image {image_id} has no root disk that can be encrypted", "try another --region")
        name = image.get("Name", image_id)
        return Image(
            image_id=image_id,
            name=name,
            architecture=image.get("Architecture", ""),
            login_user=account.profile.login_user,
            root_device=root,
            root_gib=sizes[0],
            python=python_of_image(name, image.get("Description", "")),
        )
