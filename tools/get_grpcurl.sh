#!/bin/sh
# Puts grpcurl into .tools/bin, where the end-to-end tests look for it. Does nothing when it is there already.
set -eu
cd "$(dirname "$0")/.."
version=v1.9.3
if [ -x .tools/bin/grpcurl ] && .tools/bin/grpcurl --version 2>&1 | grep -q "$version"; then
    exit 0
fi
if ! command -v go >/dev/null; then
    echo "tools/get_grpcurl.sh: go is not installed, so the tests that call the sidecar with grpcurl are left out." >&2
    echo "  Install Go 1.24 or newer (Debian: apt-get install golang-go; others: https://go.dev/dl/), then run it again." >&2
    exit 0
fi
echo "building grpcurl $version (about a minute, once)"
GOBIN="$PWD/.tools/bin" go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$version"
