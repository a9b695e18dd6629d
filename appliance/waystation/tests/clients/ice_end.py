"""One end of an ICE connection: ice_end.py ROLE POLICY TRANSPORT HOST PORT USER PASSWORD.

ROLE is controlling or controlled, POLICY relay (no other candidates) or all, TRANSPORT that to the
server: udp or tcp. It says what it is and is told what the other end is, a line of JSON each;
connects; exchanges messages, each verified; says between which kinds of candidates that went, and
ends when its stdin does.
"""

import asyncio
import hashlib
import json
import sys

from aioice import Candidate, Connection, TransportPolicy

MESSAGES = 96
# Messages that are under way at a time; what is lost of them is sent again.
WINDOW = 16
ANSWER_S = 1.0
LENGTHS = (8, 100, 1200, 1200, 1200, 1200)


def message(number: int) -> bytes:
    head = number.to_bytes(4, "big")
    length = LENGTHS[number // WINDOW % len(LENGTHS)]
    return (head + hashlib.sha256(head).digest() * (length // 32 + 1))[:length]


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


async def told() -> str:
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def ask(connection: Connection) -> None:
    """Sends every message until it has come back as it was."""
    for first in range(0, MESSAGES, WINDOW):
        missing = set(range(first, first + WINDOW))
        while missing:
            for number in sorted(missing):
                await connection.send(message(number))
            try:
                async with asyncio.timeout(ANSWER_S):
                    while missing:
                        answer = await connection.recv()
                        number = int.from_bytes(answer[:4], "big")
                        if answer != message(number):
                            raise ValueError(f"message {number} came back as another")
                        missing.discard(number)
            except TimeoutError:
                continue


async def answer(connection: Connection, until: asyncio.Task) -> None:
    """Sends back what comes until it is told to end; says when it has seen every message."""
    seen = set()
    while True:
        receiving = asyncio.ensure_future(connection.recv())
        await asyncio.wait((receiving, until), return_when=asyncio.FIRST_COMPLETED)
        if not receiving.done():
            receiving.cancel()
            return
        received = receiving.result()
        number = int.from_bytes(received[:4], "big")
        if received != message(number):
            raise ValueError(f"message {number} came as another")
        if number not in seen:
            seen.add(number)
            if len(seen) == MESSAGES:
                say({"messages": len(seen)})
        await connection.send(received)


async def main() -> None:
    role, policy, transport, host, port, user, password = sys.argv[1:]
    connection = Connection(
        ice_controlling=role == "controlling",
        turn_server=(host, int(port)),
        turn_username=user,
        turn_password=password,
        turn_transport=transport,
        transport_policy=TransportPolicy[policy.upper()],
    )
    await connection.gather_candidates()
    say({
        "username": connection.local_username,
        "password": connection.local_password,
        "candidates": [candidate.to_sdp() for candidate in connection.local_candidates],
    })
    other = json.loads(await told())
    connection.remote_username = other["username"]
    connection.remote_password = other["password"]
    for candidate in other["candidates"]:
        await connection.add_remote_candidate(Candidate.from_sdp(candidate))
    await connection.add_remote_candidate(None)
    await connection.connect()
    end = asyncio.ensure_future(told())
    if role == "controlling":
        pair = connection._nominated[1]
        await ask(connection)
        say({"local": pair.local_candidate.type, "remote": pair.remote_candidate.type})
        await end
    else:
        await answer(connection, end)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
