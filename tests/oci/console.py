#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Who holds the master of a container's terminal, as containerd does: console.py SOCKET waits for it, resizes it at once,
talks to the shell behind it and prints a FAIL line for what is wrong."""
import array
import fcntl
import os
import re
import select
import socket
import struct
import sys
import termios
import time

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(1)
listener.settimeout(20)
print("listening", flush=True)
connection = listener.accept()[0]
ancillary = connection.recvmsg(4096, socket.CMSG_SPACE(4))[1]
master = array.array("i", ancillary[0][2][:4])[0]
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
output = ""


def expect(what, pattern, seconds=10):
    global output
    end = time.time() + seconds
    while not (found := re.search(pattern, output)):
        try:
            more = os.read(master, 4096) if select.select([master], [], [], max(0, end - time.time()))[0] else b""
        except OSError:
            more = b""
        if not more:
            print(f'FAIL: console: {what}: "{pattern}" is not in {output!r}')
            sys.exit(1)
        output += more.decode(errors="replace").replace("\r", "")
    output = output[found.end():]


def type_in(text):
    os.write(master, text.encode())


expect("prompt", r"[#$] ")
type_in("stty size\n")
expect("echoed once, size", r"^stty size\n33 101\n")
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
expect("prompt", r"[#$] ")
time.sleep(0.3)  # the new size takes its way through the host
type_in("stty size\n")
expect("new size", r"\n24 80\n")
type_in("sleep 1000; echo status $?\n")
time.sleep(0.3)
type_in("\x03")
expect("interrupt", r"\^C(.|\n)*[#$] ")
type_in("exit 4\n")
