#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A person at a terminal: terminal.py RUNSC... drives `runsc do -- bash -i` and prints a FAIL line for what is wrong."""
import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time


class Terminal:
    def __init__(self, argv):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "dumb"
            os.execvp(argv[0], argv)
        self.resize(40, 100)
        self.output = ""

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.fd, text.encode())

    def expect(self, what, pattern, retype="", seconds=10):
        """Reads on until the pattern is there, and takes everything up to its end. Types `retype` now and then."""
        end = time.time() + seconds
        while not (found := re.search(pattern, self.output)):
            ready = select.select([self.fd], [], [], 0.5)[0]
            try:
                more = os.read(self.fd, 4096) if ready else b""
                if not ready and retype:
                    self.type(retype)
            except OSError:
                end = 0
            if not more and time.time() >= end:
                print(f'FAIL: terminal: {what}: "{pattern}" is not in {self.output!r}')
                os.kill(self.pid, 9)
                sys.exit(1)
            self.output += more.decode(errors="replace").replace("\r", "")
        self.output = self.output[found.end():]

    def run(self, what, command, pattern):
        self.type(command + "\n")
        self.expect(what, pattern + r"\n(?s:.*)\$ ")


t = Terminal(sys.argv[1:] + ["do", "--env", "PS1=$ ", "--", "bash", "--norc", "--noediting", "-i"])
t.expect("prompt", r"\$ ")
t.run("name", "tty", "\n/dev/pts/0")
t.run("same device", 'stat -Lc %t:%T:%i /dev/stdin $(tty) /dev/console | uniq -c', r"\n +3 88:0:\d+")
t.run("controlling terminal", "ps -o tty= -p $$; tty < /dev/tty; echo through > /dev/tty", "\npts/0 *\n/dev/tty\nthrough")
t.run("size", "stty size", "\n40 100")
t.type("sh -c 'echo started; exec sleep 1000'\n")
t.expect("foreground", "\nstarted\n")
t.type("\x1a")
t.expect("stop", r"Stopped +sh -c.*\n\$ ")
t.run("background", "bg; jobs", r"(?s:.*)Running +sh -c.*")
t.type("fg\n")
t.expect("fg", "\nsh -c .*\n")
# bash names the job before it hands the terminal over.
t.type("\x03")
t.expect("interrupt", r"\$ ", retype="\x03")
t.run("status after ^C", "echo status $?", "\nstatus 130")
t.run("background read", "cat & wait %1; jobs", r"(?s:.*)Stopped +cat")
t.run("kill", "kill -9 %1; wait; echo killed", r"(?s:.*)\nkilled")
t.run("trap", "trap 'echo resized; stty size' WINCH; echo set", "\nset")
t.resize(30, 90)
t.expect("SIGWINCH", r"resized\n30 90\n", retype="\n")
t.type("exit 7\n")
status = os.waitpid(t.pid, 0)[1]
if os.waitstatus_to_exitcode(status) != 7:
    print(f"FAIL: terminal: exit status {status:#x}")
    sys.exit(1)
