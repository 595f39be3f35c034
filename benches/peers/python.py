"""The servers of the benches on Debian's python3-network: python.py TASK ADDRESS."""

import os
import sys

import network

# As in benches/suite/load.rs.
BLOCK = 8192000
CHUNK = 65536

task, address = sys.argv[1:3]
chunk = b'x' * CHUNK


def connected(socket):
    seen = 0

    def passes(more):
        nonlocal seen
        before = seen // BLOCK
        seen += more
        return seen // BLOCK > before

    def data(data):
        if task == 'echo':
            socket.send(data)
        elif task == 'out':
            for _ in range(BLOCK // CHUNK if data else 0):
                socket.send(chunk)
        elif passes(len(data)):
            socket.send(b'.')

    def line(line):
        if task == 'replies':
            socket.sendline('ok')
        elif passes(len(line) + 1):
            socket.send(b'.')

    # Without one the end of a connection is an error that ends the program.
    socket.disconnect_cb(lambda socket, data: b'')
    if task in ('text', 'replies'):
        socket.readlines(line)
    else:
        socket.read(data, maxsize=CHUNK)


def blocking(socket):
    socket.disconnect_cb(lambda socket, data: b'')
    while data := socket.recv(CHUNK):
        socket.send(data)


if task == 'blocking':
    connected = blocking
if address == 'tcp':
    server = network.Server(0, connected, address='127.0.0.1', backlog=1024)
    port = server._socket.getsockname()[1]
else:
    server = network.Server(address, connected, backlog=1024)
    port = 0
print(port, os.getpid(), flush=True)
network.fgloop()
