"""A cloud is a profile: where its API is, with which credentials, how its hosts are reached, what its images bring.

Nothing asks which cloud it is: whatever differs is a field here.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Profile:
    """One cloud.

    `endpoint_url` and the credentials are None where boto3's own chain decides. `host_directory_url` answers
    `GET {url}/{instance_id}` with `{"address", "port"}` on a cloud whose hosts share an address; None where a host
    is its public address and port 22. `caller_address_url` answers with the caller's own address in plain text.
    `cloud_key` is what a cloud shares with its owner alone (`core.cloud_key`); None where it has none.
    `image_parameters` are SSM parameters by architecture (`x86_64`, `arm64`), `login_user` the images' default user.
    """

    name: str
    caller_address_url: str
    image_parameters: dict[str, str] = field(hash=False)
    login_user: str = "ubuntu"
    endpoint_url: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    default_region: str | None = None
    host_directory_url: str | None = None
    cloud_key: str | None = field(default=None, repr=False)
