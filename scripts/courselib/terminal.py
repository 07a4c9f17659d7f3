"""Types into a command that wants a terminal, waiting for its prompt each time, as a person does.

    python3 terminal.py JOB    JOB: {"command", "prompt", "typed", "timeout", "out"}, a JSON file

Into the file `out` goes a JSON list: what came before the first prompt, and after each typed line.
"""

import json
import os
import pty
import re
import select
import sys
import time


def clean(data):
    """What a terminal would show."""
    text = data.decode(errors="replace")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")


def until(fd, wanted, deadline):
    """Reads until the text ends with the prompt, or the terminal closes."""
    data = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(clean(data))
        if not select.select([fd], [], [], left)[0]:
            continue
        try:
            new = os.read(fd, 65536)
        except OSError:  # EIO: nobody has the other end any more
            new = b""
        data += new
        if b"\x1b[6n" in new:  # "where is the cursor?"
            os.write(fd, b"\x1b[1;1R")
        if not new or (wanted and clean(data).endswith(wanted)):
            return clean(data), not new


def main(job):
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "dumb"
        os.execvp("bash", ["bash", "-c", job["command"]])
    deadline = time.monotonic() + job["timeout"]
    heard = []
    try:
        text, over = until(fd, job["prompt"], deadline)
        heard.append(text[: -len(job["prompt"])] if not over else text)
        for index, line in enumerate(job["typed"]):
            if over:
                break
            os.write(fd, line.encode() + b"\n")
            last = index + 1 == len(job["typed"])
            text, over = until(fd, "" if last else job["prompt"], deadline)
            text = text.split("\n", 1)[1] if "\n" in text else ""  # the terminal's echo of what was typed
            heard.append(text if over else text[: -len(job["prompt"])])
    except TimeoutError as error:
        heard.append(f"{error}\n(no prompt and no end within {job['timeout']:g} s)")
        os.kill(pid, 9)
    _, status = os.waitpid(pid, 0)
    with open(job["out"], "w", encoding="utf-8") as out:
        json.dump(heard, out)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        sys.exit(main(json.load(file)))
