"""A grpc.aio server without any interceptor that answers bytes with the same bytes; prints its port.

It takes the name of one rpc of the contracts, so that the edge has a route to it, and serves what the edge itself asks
for: the key set given as hexadecimal bytes on the command line, and the standard health check.
"""

from __future__ import annotations

import asyncio
import sys

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


async def main(jwks: bytes) -> None:
    async def echo(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return request

    async def get_jwks(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return jwks

    server = grpc.aio.server()
    for service, rpc, answer in (
        ("reeltune.auth.v1.UserService", "GetMe", echo),
        ("reeltune.auth.v1.AuthService", "GetJwks", get_jwks),
    ):
        handler = grpc.unary_unary_rpc_method_handler(answer)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {rpc: handler}),))
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(bytes.fromhex(sys.argv[1])))
