"""A session's supervisor, as a program: `python supervisor.py CONFIG`, the stream as stdin and stdout.

What it does is in relay.py. This file is short because Python compiles it anew at every start: byte code is
kept for modules only. Nothing here runs model code.
"""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import confine
import processes
import relay


def main():
    config = json.loads(sys.argv[1])
    stream_in, stream_out = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    proc = processes.Processes(config["proc"])
    confine.settle_supervisor(config)
    session = relay.Supervisor(stream_in, stream_out, config, proc)
    try:
        session.serve()
    except OSError:
        pass  # the client is gone; so are we
    finally:
        session.end()


if __name__ == "__main__":
    main()
