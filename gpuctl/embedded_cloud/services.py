"""The services beside EC2: SSM's public parameters, STS's caller identity, and the price list."""

from __future__ import annotations

import json
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ssm.responses import SimpleSystemManagerResponse
from moto.sts.responses import TokenResponse

from gpuctl.embedded_cloud import prices, run_instances
from gpuctl.embedded_cloud.images import Catalogue

USER_NAME = "gpuctl"
USER_ID = "AIDAGPUCTLEMBEDDED001"


class SSM(SimpleSystemManagerResponse):
    """moto's parameter store, which has the images' public parameters too."""

    def __init__(self, *, images: Catalogue) -> None:
        super().__init__()
        self._images = images

    def get_parameter(self) -> ActionResult:
        found = self._images.parameter(self._get_param("Name"), region=self.region)
        return ActionResult({"Parameter": found}) if found else super().get_parameter()

    def get_parameters(self) -> ActionResult:
        names = self._get_param("Names")
        public = {name: found for name in names if (found := self._images.parameter(name, region=self.region))}
        own = self.ssm_backend.get_parameters([name for name in names if name not in public])
        decrypt = self._get_param("WithDecryption")
        parameters = [*public.values(), *(one.response_object(decrypt, self.region) for one in own.values())]
        unknown = [name for name in names if name not in public and name not in own]
        return ActionResult({"Parameters": parameters, "InvalidParameters": unknown})

    def get_parameters_by_path(self) -> ActionResult:
        found = self._images.parameters_below(self._get_param("Path"), region=self.region)
        return ActionResult({"Parameters": found}) if found else super().get_parameters_by_path()


class STS(TokenResponse):
    """moto's STS, to which everybody is one user, always the same."""

    def get_caller_identity(self) -> ActionResult:
        account = self.current_account
        return ActionResult(
            {
                "UserId": USER_ID,
                "Account": account,
                "Arn": f"arn:{self.partition}:iam::{account}:user/{USER_NAME}",
            }
        )


def get_products(request: dict[str, Any]) -> dict[str, Any]:
    """The price list's GetProducts for EC2: on-demand Linux instances, by type and region.

    https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_pricing_GetProducts.html. Filters on what
    all products share are passed over.
    """
    filters = {entry.get("Field"): entry.get("Value") for entry in request.get("Filters") or []}
    region = filters.get("regionCode") or "us-east-1"
    asked = filters.get("instanceType")
    types = [asked] if asked else prices.priced_types()
    if request.get("ServiceCode") != "AmazonEC2" or filters.get("operatingSystem", "Linux") != "Linux":
        types = []
    products = [json.dumps(_product(name, region=region)) for name in types if name in INSTANCE_TYPES]
    return {"FormatVersion": "aws_v1", "PriceList": products}


def _product(instance_type: str, *, region: str) -> dict[str, Any]:
    vcpus = run_instances.vcpus(instance_type)
    sku = f"GPUCTL{instance_type.upper().replace('.', '')}"
    dimension = {
        "unit": "Hrs",
        "pricePerUnit": {"USD": str(prices.on_demand(instance_type, region=region, vcpus=vcpus))},
        "description": f"On Demand Linux {instance_type} Instance Hour, embedded",
    }
    return {
        "product": {
            "productFamily": "Compute Instance",
            "attributes": {
                "instanceType": instance_type,
                "regionCode": region,
                "operatingSystem": "Linux",
                "tenancy": "Shared",
                "preInstalledSw": "NA",
                "capacitystatus": "Used",
                "vcpu": str(vcpus),
            },
            "sku": sku,
        },
        "serviceCode": "AmazonEC2",
        "terms": {"OnDemand": {f"{sku}.T": {"priceDimensions": {f"{sku}.T.D": dimension}, "sku": sku}}},
    }
