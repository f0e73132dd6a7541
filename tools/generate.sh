#!/usr/bin/env bash
# Regenerates gen/ from proto/: messages, type stubs and TypeScript through buf, gRPC stubs through grpcio-tools.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -d tools/ts/node_modules ] || npm --prefix tools/ts ci --no-audit --no-fund --loglevel error || {
  echo "npm could not install the packages of tools/ts (see above)." >&2
  exit 1
}
buf generate
buf generate --template buf.gen.errors.yaml
mapfile -t services < <(find proto -name '*_service.proto' | sort)
python -m grpc_tools.protoc -Iproto -Ithird_party/googleapis -Ithird_party/protovalidate \
  --grpc_python_out=gen/python "${services[@]}"
