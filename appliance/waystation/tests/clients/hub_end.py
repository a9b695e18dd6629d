"""A daemon of A2AL as far as it meets another: hub_end.py ROLE HOST HUB_PORT TURN_PORT OWN OTHER SECRET.

ROLE is caller or callee. The callee registers OWN at the hub, says so, and waits to be called; the
caller waits to be told to, and calls OTHER. Both go into a room of the hub, say their credentials
and candidates there as they find them, connect, exchange messages that each verifies, and end when
their stdin does. STUN and TURN are asked for at the hub's host; the TURN user is made of SECRET, as
daemons do it.
"""

import asyncio
import base64
import hashlib
import hmac
import sys
import time

import cbor2
import websockets
from aioice import Candidate, Connection

from ice_end import answer, ask, say, told

SUBPROTOCOL = "a2al.ice.v1"
EXPIRY_S = 3600


def room_of(one: str, other: str) -> str:
    first, second = sorted((one, other))
    return hashlib.sha256(f"{first}\n{second}".encode()).hexdigest()[:32]


def credentials(secret: str) -> tuple[str, str]:
    user = f"{int(time.time()) + EXPIRY_S}:a2al"
    digest = hmac.new(secret.encode(), user.encode(), hashlib.sha1).digest()
    return user, base64.b64encode(digest).decode()


def open_socket(host: str, port: str, path: str) -> websockets.connect:
    uri = f"ws://{host}:{port}{path}"
    return websockets.connect(uri, subprotocols=[SUBPROTOCOL], proxy=None)


async def receive(socket: websockets.ClientConnection) -> dict:
    return cbor2.loads(await socket.recv())


async def send(socket: websockets.ClientConnection, **frame: object) -> None:
    await socket.send(cbor2.dumps(frame))


async def arrange(socket: websockets.ClientConnection, connection: Connection) -> None:
    """Tells the other side everything, and hears everything of it; then connects."""
    await connection.gather_candidates()
    await send(socket, t="cred", u=connection.local_username, p=connection.local_password)
    for candidate in connection.local_candidates:
        await send(socket, t="cand", c=candidate.to_sdp())
    await send(socket, t="eoc")
    while (frame := await receive(socket))["t"] != "eoc":
        if frame["t"] == "cred":
            connection.remote_username = frame["u"]
            connection.remote_password = frame["p"]
        elif frame["t"] == "cand":
            await connection.add_remote_candidate(Candidate.from_sdp(frame["c"]))
    await connection.add_remote_candidate(None)
    await connection.connect()


async def called(host: str, port: str, own: str) -> str:
    """Registers, and waits for a call; gives the path of its room."""
    async with open_socket(host, port, "/signal") as signal:
        await send(signal, t="reg", a=own)
        say(await receive(signal))
        frame = await receive(signal)
        say(frame)
        return f"/ice?room={frame['r']}"


async def main() -> None:
    role, host, hub_port, turn_port, own, other, secret = sys.argv[1:]
    user, password = credentials(secret)
    connection = Connection(
        ice_controlling=role == "caller",
        stun_server=(host, int(turn_port)),
        turn_server=(host, int(turn_port)),
        turn_username=user,
        turn_password=password,
    )
    if role == "caller":
        await told()
        path = f"/ice?room={room_of(own, other)}&target={other}&caller={own}"
    else:
        path = await called(host, hub_port, own)
    async with open_socket(host, hub_port, path) as room:
        await arrange(room, connection)
    pair = connection._nominated[1]
    kinds = {"local": pair.local_candidate.type, "remote": pair.remote_candidate.type}
    end = asyncio.ensure_future(told())
    if role == "caller":
        await ask(connection)
        say(kinds)
        await end
    else:
        await answer(connection, end)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
