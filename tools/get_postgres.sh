#!/bin/sh
# Installs PostgreSQL's server, which tests of the shared usage log start and stop by themselves. Does nothing when it is there already.
set -eu
if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing PostgreSQL (170 MB, once)"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql; } >/dev/null && exit 0
fi
echo "tools/get_postgres.sh: PostgreSQL is not installed, so the tests of the shared usage log are left out." >&2
echo "  Debian: apt-get install postgresql; macOS: brew install postgresql. Then run it again." >&2
[ "${CI:-}" != true ]  # where everything must hold, nothing is left out
