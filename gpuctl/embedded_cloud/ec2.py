"""EC2's API: moto's, with what it leaves out put back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS

from gpuctl.embedded_cloud import create_fleet, filtering, operations, paging, prices, run_instances, unseen
from gpuctl.embedded_cloud.create_fleet import FleetRecord
from gpuctl.embedded_cloud.faults import Faults
from gpuctl.embedded_cloud.images import Catalogue
from gpuctl.embedded_cloud.instances import Instances
from gpuctl.embedded_cloud.refusals import Refusals

_ALL = 10**9


class Memory:
    """What EC2 remembers beside moto: fleets, and the answers that client tokens have had."""

    def __init__(self) -> None:
        self.fleets: dict[tuple[str, str], dict[str, FleetRecord]] = {}
        self.answers: dict[tuple[str, ...], tuple[str, ActionResult]] = {}


class EC2(Refusals):
    """One request to EC2. The caller holds the lock around moto."""

    def __init__(self, *, instances: Instances, faults: Faults, memory: Memory, images: Catalogue) -> None:
        super().__init__()
        self._images = images
        self._instances = instances
        self._faults = faults
        self._memory = memory
        self._page: dict[str, Any] | None = None

    @property
    def ec2_backend(self) -> Any:
        backend = super().ec2_backend
        self._images.add_images(backend)
        return backend

    @property
    def _fleets(self) -> dict[str, FleetRecord]:
        return self._memory.fleets.setdefault((self.current_account, self.region), {})

    def call_action(self) -> Any:
        """Carries out the request, without what it does not see yet."""
        operation = self._get_action()
        if operations.paged(operation):
            self._page = {"token": self.params.pop("NextToken", None), "most": self.params.pop("MaxResults", None)}
            self.params["MaxResults"] = _ALL
        with unseen.hidden(self.ec2_backend, self._faults.unseen.ids(), operation):
            return super().call_action()

    def serialized(self, action_result: ActionResult) -> Any:
        """The answer on its way out: one page of it, where it comes in pages."""
        if self._page and isinstance(action_result.result, Mapping):
            action_result = ActionResult(paging.page(self._get_action(), action_result.result, **self._page))
        return super().serialized(action_result)

    def _once(self, make: Callable[[], ActionResult]) -> ActionResult:
        """The answer that this request's client token has had, else a new one: EC2's idempotency."""
        params = dict(self._get_params())
        token = params.pop("ClientToken", None)
        if not token:
            return make()
        key = (self.current_account, self.region, self._get_action(), str(token))
        digest = hashlib.sha256(json.dumps(params, sort_keys=True, default=str).encode()).hexdigest()
        before = self._memory.answers.get(key)
        if before is None:
            answer = make()
            self._memory.answers[key] = (digest, answer)
            return answer
        if before[0] != digest:
            raise EC2ClientError(
                "IdempotentParameterMismatch",
                f"The request that used the client token {token} had other parameters than this one.",
            )
        return before[1]

    # Fleets

    def create_fleet(self) -> ActionResult:
        return self._once(self._create_fleet)

    def _create_fleet(self) -> ActionResult:
        record, made = create_fleet.create_fleet(self.ec2_backend, self._get_params(), self._faults)
        self._fleets[record.fleet_id] = record
        for instance in made:
            self._instances.launched(instance)
        if made:
            self._faults.made("CreateFleet", [id_ for instance in made for id_ in unseen.with_parts(instance)])
            self._end_at_once(made)
        return ActionResult({"FleetId": record.fleet_id, "Instances": record.instances, "Errors": record.errors})

    def _end_at_once(self, made: Iterable[Any]) -> None:
        reason = self._faults.ending()
        if reason is not None:
            for instance in made:
                self._instances.terminate(instance, (reason.partition(":")[0], reason))

    def describe_fleets(self) -> ActionResult:
        wanted = self._get_param("FleetIds", [])
        self._require_fleets(wanted)
        found = [self._fleets[fleet_id] for fleet_id in wanted or self._fleets]
        return ActionResult({"Fleets": self._filtered(record.described() for record in found)})

    def _filtered(self, items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return filtering.select(self._get_action(), items, self._filters_from_querystring())

    def describe_fleet_instances(self) -> ActionResult:
        fleet_id = self._get_param("FleetId")
        self._require_fleets([fleet_id])
        active = []
        for entry in self._fleets[fleet_id].instances:
            for instance_id in entry["InstanceIds"]:
                life = self._instances.life(instance_id)
                if life and life.instance.state in ("pending", "running"):
                    health = {"InstanceId": instance_id, "InstanceHealth": "healthy"}
                    request_id = life.instance.spot_instance_request_id
                    active.append(
                        {**health, "InstanceType": entry["InstanceType"], "SpotInstanceRequestId": request_id}
                    )
        return ActionResult({"FleetId": fleet_id, "ActiveInstances": self._filtered(active)})

    def delete_fleets(self) -> ActionResult:
        if not self._get_bool_param("TerminateInstances"):
            raise EC2ClientError("InvalidParameterValue", "An instant fleet is deleted with its instances")
        wanted = self._get_param("FleetIds", [])
        self._require_fleets(wanted)
        deleted = []
        for fleet_id in wanted:
            record = self._fleets[fleet_id]
            states = {"CurrentFleetState": "deleted_terminating", "PreviousFleetState": record.state}
            record.state = "deleted_terminating"
            for instance_id in record.instance_ids:
                life = self._instances.life(instance_id)
                if life:
                    self._instances.terminate(life.instance)
            deleted.append({**states, "FleetId": fleet_id})
        return ActionResult({"SuccessfulFleetDeletions": deleted, "UnsuccessfulFleetDeletions": []})

    def _require_fleets(self, wanted: list[str]) -> None:
        unknown = [fleet_id for fleet_id in wanted if fleet_id not in self._fleets]
        if unknown:
            raise EC2ClientError("InvalidFleetId.NotFound", f"The fleet ID '{unknown[0]}' does not exist")

    # Instances

    def run_instances(self) -> ActionResult:
        return self._once(self._run_instances)

    def _run_instances(self) -> ActionResult:
        asked = {key: value for key, value in self._get_params().items() if value not in (None, [], {})}
        data: dict[str, Any] = {}
        tags = {}
        if "LaunchTemplate" in asked:
            version = create_fleet.template_version(self.ec2_backend, asked["LaunchTemplate"])
            data = dict(version.data)
            tags = {
                "aws:ec2launchtemplate:id": version.template.id,
                "aws:ec2launchtemplate:version": str(version.number),
            }
        data.update(asked)
        market = data.get("InstanceMarketOptions") or {}
        request = run_instances.Request(
            data=data,
            instance_type=data.get("InstanceType") or "m1.small",
            subnet_id=self._subnet_of(data),
            market="spot" if market.get("MarketType") == "spot" else "on-demand",
            spot_type=(market.get("SpotOptions") or {}).get("SpotInstanceType") or "one-time",
            count=run_instances.count(asked),
            tags=tags,
            client_token=asked.get("ClientToken"),
        )
        reservation = run_instances.launch(self.ec2_backend, request)
        for instance in reservation.instances:
            self._instances.launched(instance)
            self._faults.made("RunInstances", unseen.with_parts(instance))
        return ActionResult(reservation)

    def _subnet_of(self, data: Mapping[str, Any]) -> str:
        asked = run_instances.subnet_asked(data)
        if asked:
            return asked
        zone = (data.get("Placement") or {}).get("AvailabilityZone") or min(self.ec2_backend.get_default_subnets())
        return str(create_fleet.default_subnet(self.ec2_backend, zone).id)

    def describe_instances(self) -> ActionResult:
        self._instances.forget_old()
        return super().describe_instances()

    def terminate_instances(self) -> ActionResult:
        for instance in self._asked_instances():
            if instance.disable_api_termination is True:
                raise EC2ClientError(
                    "OperationNotPermitted",
                    f"The instance '{instance.id}' may not be terminated. Modify its 'disableApiTermination' instance "
                    "attribute and try again.",
                )
        return self._change("TerminatingInstances", self._instances.terminate)

    def stop_instances(self) -> ActionResult:
        for instance in self._asked_instances():
            if instance.lifecycle == "spot" and instance.spot_type != "persistent":
                raise EC2ClientError(
                    "UnsupportedOperation",
                    f"You can't stop the Spot Instance '{instance.id}' because it is associated with a one-time Spot "
                    "Instance request. You can only stop Spot Instances associated with persistent Spot Instance "
                    "requests.",
                )
        self._require_state("stopped", "running", "stopping", "stopped")
        return self._change("StoppingInstances", self._instances.stop)

    def start_instances(self) -> ActionResult:
        self._require_state("started", "stopped", "pending", "running")
        return self._change("StartingInstances", self._instances.start)

    def reboot_instances(self) -> ActionResult:
        self._require_state("rebooted", "pending", "running", "shutting-down", "terminated")
        self._change("", self._instances.reboot)
        return EmptyResult()

    def _require_state(self, done: str, *states: str) -> None:
        for instance in self._asked_instances():
            if instance.state not in states:
                raise EC2ClientError(
                    "IncorrectInstanceState",
                    f"The instance '{instance.id}' is not in a state from which it can be {done}.",
                )

    def _asked_instances(self) -> list[Any]:
        found: list[Any] = self.ec2_backend.get_multi_instances_by_id(self._get_param("InstanceIds", []))
        return found

    def _change(self, key: str, change: Callable[[Any], None]) -> ActionResult:
        changed = []
        for instance in self._asked_instances():
            before = {"Code": instance.state_code, "Name": instance.state}
            change(instance)
            after = {"Code": instance.state_code, "Name": instance.state}
            changed.append({"InstanceId": instance.id, "PreviousState": before, "CurrentState": after})
        return ActionResult({key: changed})

    def describe_spot_instance_requests(self) -> ActionResult:
        wanted = self._get_param("SpotInstanceRequestIds", [])
        requests = [
            _spot_request(instance)
            for instance in self.ec2_backend.all_instances()
            if instance.spot_instance_request_id and (not wanted or instance.spot_instance_request_id in wanted)
        ]
        missing = sorted(set(wanted) - {request["SpotInstanceRequestId"] for request in requests})
        if missing:
            raise EC2ClientError(
                "InvalidSpotInstanceRequestID.NotFound", f"The spot instance request ID '{missing[0]}' does not exist"
            )
        return ActionResult({"SpotInstanceRequests": self._filtered(requests)})

    # Prices

    def describe_spot_price_history(self) -> ActionResult:
        request = prices.PriceRequest(
            instance_types=self._get_param("InstanceTypes", []),
            products=self._get_param("ProductDescriptions", []),
            zone=self._get_param("AvailabilityZone"),
            start=self._get_param("StartTime"),
            end=self._get_param("EndTime"),
            filters=self._filters_from_querystring(),
        )
        records = prices.history(request, offered=self._offered(), now=datetime.now(timezone.utc))
        return ActionResult({"SpotPriceHistory": records})

    def _offered(self) -> list[tuple[str, str, int]]:
        """The pools that have a price: those of the types asked for, else of the price table's."""
        asked, listed = self._get_param("InstanceTypes", []), prices.priced_types()
        # A type that the table lacks has a made-up price: only for whoever asks for that one and no other.
        types = set(asked) if len(asked) == 1 else set(asked or listed) & set(listed)
        return [
            (entry["InstanceType"], entry["Location"], run_instances.vcpus(entry["InstanceType"]))
            for entry in INSTANCE_TYPE_OFFERINGS["availability-zone"].get(self.region, [])
            if entry["InstanceType"] in types
        ]

    # Security groups and launch templates

    def create_security_group(self) -> ActionResult:
        before = {id_ for groups in self.ec2_backend.groups.values() for id_ in groups}
        answer = super().create_security_group()
        after = {id_ for groups in self.ec2_backend.groups.values() for id_ in groups}
        self._faults.made("CreateSecurityGroup", after - before)
        return answer

    def create_launch_template(self) -> ActionResult:
        return self._once(self._create_launch_template)

    def _create_launch_template(self) -> ActionResult:
        before = set(self.ec2_backend.launch_templates)
        answer = super().create_launch_template()
        self._faults.made("CreateLaunchTemplate", set(self.ec2_backend.launch_templates) - before)
        return answer

    def create_launch_template_version(self) -> ActionResult:
        source = self._get_param("SourceVersion")
        data = self._get_param("LaunchTemplateData", {})
        if source:
            name_or_id = {key: self._get_param(key) for key in ("LaunchTemplateId", "LaunchTemplateName")}
            version = create_fleet.template_version(self.ec2_backend, {**name_or_id, "Version": source})
            data = {**version.data, **data}
        if data.get("UserData") is not None:
            data["UserData"] = run_instances.user_data(data)
        self.params["LaunchTemplateData"] = data
        return super().create_launch_template_version()

    def describe_launch_templates(self) -> ActionResult:
        for template_id in self._get_param("LaunchTemplateIds", []):
            self.ec2_backend.get_launch_template(template_id)
        return super().describe_launch_templates()

    def delete_launch_template(self) -> ActionResult:
        template_id, name = self._get_param("LaunchTemplateId"), self._get_param("LaunchTemplateName")
        template_id = template_id or self.ec2_backend.launch_template_name_to_ids.get(name)
        if template_id is None:
            raise EC2ClientError(
                "InvalidLaunchTemplateName.NotFoundException",
                "At least one of the launch templates specified in the request does not exist.",
            )
        self.ec2_backend.get_launch_template(template_id)
        answer = super().delete_launch_template()
        self.ec2_backend.tags.pop(template_id, None)
        return answer


def _spot_request(instance: Any) -> dict[str, Any]:
    active = instance.state in ("pending", "running")
    stopped = instance.state in ("stopping", "stopped")
    code = "fulfilled" if active else "instance-stopped-by-user" if stopped else "instance-terminated-by-user"
    return {
        "CreateTime": instance.launch_time,
        "InstanceId": instance.id,
        "InstanceInterruptionBehavior": "terminate",
        "LaunchedAvailabilityZone": instance.placement.zone,
        "ProductDescription": "Linux/UNIX",
        "SpotInstanceRequestId": instance.spot_instance_request_id,
        "State": "active" if active else "disabled" if stopped else "closed",
        "Status": {"Code": code, "UpdateTime": instance.launch_time},
        "Type": instance.spot_type,
    }
