#!/usr/bin/env bash
# Fails when the contracts would break a client of the last release. The last release's contracts are kept as an image beside this script, so
# that the check needs no tags and no history; `tools/check_breaking.sh --release` records today's contracts as released.
set -euo pipefail
cd "$(dirname "$0")/.."
image=tools/released_contracts.binpb.gz
if [ "${1:-}" = --release ]; then
  buf build proto --exclude-source-info -o "$image"
  exit 0
fi
buf breaking proto --against "$image"
