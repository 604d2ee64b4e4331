"""The entry point, `python3 host.pyz VERB`. It reads on any Python 3, so that an old one is told in one line."""

import json
import sys

OLDEST = (3, 9)


def main() -> int:
    """Run the verb in `sys.argv` and answer its exit code."""
    found = sys.version_info[:2]
    if found < OLDEST:
        message = f"python3 on this host is {found[0]}.{found[1]}; gpuctl needs 3.9 or newer"
        print(json.dumps({"event": "error", "message": message, "next": "launch from a newer image"}))
        return 1
    from provisioning.verbs import dispatch

    return dispatch(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
