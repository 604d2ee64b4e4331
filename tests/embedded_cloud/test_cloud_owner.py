"""The cloud is its owner's alone: other users of the machine may reach its port, and may listen on it after a crash."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from cloud_fixtures import REGION, Cloud, answered, ids, run_cloud
from real_hosts import launch_host

from gpuctl.aws.account import Account
from gpuctl.aws.answers import NotAnAnswer
from gpuctl.core.cloud_key import PROOF_HEADER, prove, request_words
from gpuctl.core.errors import CloudGone
from gpuctl.state.paths import Paths
from gpuctl.state.runs import run_folder
from gpuctl.workflows.clouds import EmbeddedCloud, embedded_if_running, embedded_profile
from gpuctl.workflows.removal import remove_run
from tests.reporters import Silent

NO_VPCS = b'<DescribeVpcsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><vpcSet/></DescribeVpcsResponse>'


@pytest.mark.parametrize("access_key_id", ["embedded", "test"])
@pytest.mark.parametrize("service, operation", [("ec2", "describe_vpcs"), ("sts", "get_caller_identity")])
def test_calls_that_the_owner_did_not_sign_are_refused(
    cloud: Cloud, service: str, operation: str, access_key_id: str
) -> None:
    """In EC2's own form, whatever the access key id; and nothing of the call is carried out or counted."""
    cloud.ask("/gpuctl/calls", method="DELETE")
    stranger = boto3.client(
        service,
        region_name=REGION,
        endpoint_url=cloud.endpoint,
        aws_access_key_id=access_key_id,
        aws_secret_access_key="embedded",
        config=Config(retries={"total_max_attempts": 1}),
    )
    with pytest.raises(ClientError) as refused:
        getattr(stranger, operation)()
    assert refused.value.response["Error"]["Code"] == "AuthFailure"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert json.loads(cloud.ask("/gpuctl/calls")[1]) == {"calls": []}


def test_what_the_cloud_answers_of_its_own_is_its_owners(cloud: Cloud) -> None:
    """No path but the one that asks for a proof: nobody learns where a host is, or makes anything go wrong."""
    (instance_id,) = ids(cloud.fleet(cloud.template(f"t-{uuid.uuid4()}")))
    host = f"/gpuctl/hosts/{instance_id}"
    mine = prove(cloud.key, *request_words("GET", "/gpuctl/calls"))
    for method, path, proof in (
        ("GET", "/gpuctl/calls", ""),
        ("DELETE", "/gpuctl/calls", mine),
        ("GET", "/gpuctl/calls?more", mine),
        ("POST", "/gpuctl/faults", ""),
        ("GET", "/gpuctl/caller-address", ""),
        ("GET", host, mine),
        ("POST", f"{host}/reclaim", ""),
        ("GET", f"{host}/admits?address=127.0.0.1&token=x", ""),
        ("GET", f"{host}/admits?address=127.0.0.1", "é"),
    ):
        status, text = asked(cloud.endpoint + path, method, {PROOF_HEADER: proof})
        assert (status, "only the owner" in text) == (403, True), path


def test_a_hosts_metadata_is_its_own(cloud: Cloud) -> None:
    """User-data holds the host's key: who was not given the address has nothing of it, another host neither."""
    first, second = ids(cloud.fleet(cloud.template(f"t-{uuid.uuid4()}"), count=2))
    token = "latest/api/token"
    other = cloud.metadata(second).replace(second, first)
    for path in (f"/imds/{first}/{token}", f"/imds/{first}", f"{other.removesuffix('latest')}{token}", "/imds/"):
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        assert asked(cloud.endpoint + path, "PUT", headers)[0] == 403, path


def test_strangers_learn_that_it_is_a_cloud_and_no_more(cloud: Cloud) -> None:
    """Its process, its folder and its Pythons are told to who has the key."""
    path = "/gpuctl/health?nonce=1"
    assert set(json.loads(asked(cloud.endpoint + path, "GET", {})[1])) == {"cloud", "proof"}
    assert {"pid", "state", "pythons", "instances"} < set(json.loads(cloud.ask(path)[1]))


def test_a_request_that_none_may_send_costs_little(cloud: Cloud) -> None:
    """A body of any size is not read before its signature is known to be right; what is no path is no request."""
    signed = (
        f"Host: 127.0.0.1\r\nAuthorization: AWS4-HMAC-SHA256 Credential=embedded/20260101/{REGION}/ec2/aws4_request, "
        f"SignedHeaders=host, Signature={'0' * 64}\r\n"
    ).replace("Host: 127.0.0.1", f"Host: {cloud.endpoint.removeprefix('http://')}")
    for line, more, status in (
        ("POST / HTTP/1.1", "Content-Length: 99999999999\r\n", 413),
        ("POST @[x HTTP/1.1", "Content-Length: 0\r\n", 400),
        ("POST http://[x HTTP/1.1", "Content-Length: 0\r\n", 400),
        ("POST / HTTP/1.1", "Content-Length: 0\r\n", 403),
    ):
        answer = said(cloud, f"{line}\r\n{signed}{more}\r\n")
        assert answer.split()[1] == str(status), (line, answer)
        assert PROOF_HEADER not in answer


def test_a_proof_is_of_one_call(cloud: Cloud) -> None:
    """An answer that was the cloud's to one call is not its answer to another."""
    proofs = []
    account = Account(embedded_profile(EmbeddedCloud(cloud.endpoint, cloud.pid, cloud.key)))
    ec2 = account.client("ec2")
    for zone in ("1", "2"):
        answer = ec2.describe_vpcs(Filters=[{"Name": "tag:zone", "Values": [zone]}])
        proofs.append(answer["ResponseMetadata"]["HTTPHeaders"][PROOF_HEADER.lower()])
    assert proofs[0] != proofs[1]
    ec2.meta.events.register_last("before-send", lambda **_: Replayed(proofs[0]))
    with pytest.raises(CloudGone):
        ec2.describe_vpcs()


class Replayed:
    """An older answer, as botocore sees one."""

    status_code = 200
    content = NO_VPCS

    def __init__(self, proof: str) -> None:
        self.headers = {PROOF_HEADER: proof}


@dataclass
class Impostor:
    """What listens on a dead cloud's port, says what the cloud said, and remembers all that it is told."""

    endpoint: str
    health: dict[str, Any] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    with impersonated() as one:
        yield one


@contextmanager
def impersonated() -> Iterator[Impostor]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            one.heard.append(f"{self.path}\n{self.headers}")
            self.answer(json.dumps(one.health).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            one.heard.append(f"{self.path}\n{self.headers}\n{body.decode()}")
            self.answer(NO_VPCS)

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        one = Impostor(f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        try:
            yield one
        finally:
            server.shutdown()


@pytest.mark.parametrize("key", ["k" * 43, None], ids=["key", "an older version's"])
def test_who_listens_on_a_dead_clouds_port_is_not_the_cloud(state: Path, impostor: Impostor, key: str | None) -> None:
    """Whatever it says of itself, gpuctl starts a cloud of its own elsewhere, and tells it nothing of the key."""
    state.mkdir(mode=0o700)
    record = {"endpoint": impostor.endpoint, "pid": os.getpid(), "started": 1.0, "state": str(state)}
    (state / "cloud.json").write_text(json.dumps(record if key is None else {**record, "key": key}))
    impostor.health = {"pid": os.getpid(), "state": str(state), "instances": 0, "pythons": [], "proof": "\ud800"}
    assert json.loads(run_cloud("status", state).stdout)["running"] is False
    paths = Paths(state=state.parent, cache=state.parent)
    assert paths.cloud == state and embedded_if_running(paths) is None
    assert not any("k" * 43 in words for words in impostor.heard)
    cloud = Cloud.start(state, "--no-hosts")
    assert cloud.endpoint != impostor.endpoint
    found = embedded_if_running(paths)
    assert found is not None and (found.endpoint, found.key) == (cloud.endpoint, cloud.key)


def test_an_answer_that_the_cloud_has_not_proven_is_none(cloud: Cloud, impostor: Impostor) -> None:
    """A cloud may die while gpuctl runs: what takes its port cannot say that nothing is there, nor learns the key."""
    real = EmbeddedCloud(cloud.endpoint, cloud.pid, cloud.key)
    assert Account(embedded_profile(real)).client("ec2").describe_vpcs()["Vpcs"]
    fake = EmbeddedCloud(impostor.endpoint, cloud.pid, cloud.key)
    with pytest.raises(NotAnAnswer):
        Account(embedded_profile(fake)).client("ec2").describe_vpcs()
    assert impostor.heard and not any(cloud.key in words for words in impostor.heard)


def test_a_cloud_that_was_started_again_is_another(state: Path, tmp_path: Path) -> None:
    """Whoever holds the key of the one before is told at once that it has gone with all that was in it."""
    first = Cloud.start(state, "--no-hosts")
    account = Account(embedded_profile(EmbeddedCloud(first.endpoint, first.pid, first.key)))
    assert account.owner()
    assert run_cloud("stop", state).returncode == 0
    assert Cloud.start(state, "--no-hosts").endpoint == first.endpoint
    began = time.monotonic()
    with pytest.raises(CloudGone, match="and its hosts with it"):
        account.owner()
    with pytest.raises(CloudGone):
        remove_run(account, "r", run_folder(tmp_path, "r"), deadline=began + 600, reporter=Silent())
    assert time.monotonic() - began < 10


def test_nothing_of_a_cloud_is_readable_by_others(state: Path) -> None:
    """Folders 0700, files 0600 (programs 0700), though the umask is the usual one and the folder was there before.

    The key is in one file and in nothing that is printed or given to a host.
    """
    state.mkdir(mode=0o755)
    before = os.umask(0o022)
    try:
        cloud = Cloud.start(state, "--cache", str(state / "cache"))
    finally:
        os.umask(before)
    host = launch_host(cloud)
    assert host.run("umask") == "0022"
    found = [state, *(path for path in state.rglob("*") if host.home not in path.parents)]
    assert {"cloud.json", "cloud.log", "port", "host.log", "sshd.log"} <= {path.name for path in found}
    wide = {str(path): oct(path.stat().st_mode) for path in found if stat.S_IMODE(path.stat().st_mode) & 0o077}
    assert wide == {}
    told = run_cloud("start", state, "--cache", str(state / "cache")).stdout + run_cloud("status", state).stdout
    holders = [path.name for path in state.rglob("*") if path.is_file() and cloud.key.encode() in path.read_bytes()]
    assert holders == ["cloud.json"] and cloud.key not in told


def said(cloud: Cloud, request: str) -> str:
    """What is answered to a request as it stands."""
    host, _, port = cloud.endpoint.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request.encode())
        return connection.recv(65536).decode()


def asked(url: str, method: str, headers: dict[str, str]) -> tuple[int, str]:
    """What a stranger is answered."""
    request = urllib.request.Request(url, data=b"" if method in ("POST", "PUT") else None, method=method)
    for name, value in headers.items():
        request.add_header(name, value)
    return answered(request)
