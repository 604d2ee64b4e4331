"""The payload's fixtures: `host`, as the payload sees one, and the archive it runs from."""

from payload_host import host as host
from payload_host import host_pyz as host_pyz
