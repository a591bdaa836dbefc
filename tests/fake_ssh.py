"""An ssh client and the far host in one, for tests: the command runs here, in a session and an environment of its own.

As with sshd, what runs there is no child of the client in any way that matters: it gets none of the client's variables, and
when the client is killed it only sees its standard input end.
"""

import os
import subprocess
import sys
import threading

REFUSED = 255
VALUED = ("-o", "-F", "-p", "-i", "-l", "--log")


def main(words: list[str]) -> int:
    """`fake_ssh.py [--log FILE] [options] HOST COMMAND`; the host `refused` takes no connection. FILE: which hosts were reached."""
    log = None
    while words[0].startswith("-"):
        log = words[1] if words[0] == "--log" else log
        words = words[2:] if words[0] in VALUED else words[1:]
    host, *command = words
    if log is not None:
        with open(log, "a") as file:
            file.write(f"{host}\n")
    if host == "refused":
        print(f"ssh: connect to host {host} port 22: Connection refused", file=sys.stderr)
        return REFUSED
    env = {"HOME": os.environ.get("HOME", "/"), "PATH": "/usr/bin:/bin", "FAKE_HOST": host, "LANG": "C.UTF-8"}
    far = subprocess.Popen(["/bin/sh", "-c", " ".join(command)], stdin=subprocess.PIPE, env=env, start_new_session=True)
    threading.Thread(target=carry, args=(far,), daemon=True).start()
    code = far.wait()
    return code if code >= 0 else REFUSED


def carry(far: "subprocess.Popen[bytes]") -> None:
    assert far.stdin is not None
    while data := os.read(0, 4096):
        far.stdin.write(data)
        far.stdin.flush()
    far.stdin.close()


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
