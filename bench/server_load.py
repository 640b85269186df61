"""A bounded closed-loop load on one keep-alive connection per client: raw sockets, so that the client's own cost stays small.

Runs in a process of its own. Prints one JSON object: requests, seconds, and latencies in seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time


async def client(address: tuple[str, int], request: bytes, until: float, latencies: list[float]) -> None:
    """Send, read the whole answer, again, until the time is over. Raises RuntimeError for any answer but 200."""
    reader, writer = await asyncio.open_connection(*address)
    while (began := time.perf_counter()) < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        latencies.append(time.perf_counter() - began)
    writer.close()


async def load(address: tuple[str, int], request: bytes, clients: int, seconds: float) -> list[float]:
    """Latencies of `clients` concurrent connections over `seconds`."""
    latencies: list[float] = []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(client(address, request, until, latencies) for _ in range(clients)))
    return latencies


def infer_request(host: str, path: str, rows: int, features: int) -> bytes:
    """A complete HTTP/1.1 request with `rows` rows of plausible numbers with 7 digits each, as clients send float32."""
    data = [round((17 * index % 97) / 6.0, 6) for index in range(rows * features)]
    tensor = {"name": "input", "shape": [rows, features], "datatype": "FP32", "data": data}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def main() -> None:
    """Arguments, as JSON: port, path, rows, features, clients, seconds."""
    given = json.loads(sys.argv[1])
    request = infer_request("127.0.0.1", given["path"], given["rows"], given["features"])
    address = ("127.0.0.1", given["port"])
    began = time.perf_counter()
    latencies = asyncio.run(load(address, request, given["clients"], given["seconds"]))
    json.dump({"seconds": time.perf_counter() - began, "latencies": latencies}, sys.stdout)


if __name__ == "__main__":
    main()
