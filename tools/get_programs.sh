#!/bin/sh
# Gets the browser and the nginx of tests/e2e, Redis (Valkey comes as a wheel), and valgrind, where it can: from Debian's packages, as root.
# Elsewhere what needs them says that it was left out.
set -eu
missing=""
command -v chromium >/dev/null || missing="$missing chromium"
command -v nginx >/dev/null || missing="$missing nginx-light"
command -v redis-server >/dev/null || missing="$missing redis-server"
command -v valgrind >/dev/null || missing="$missing valgrind"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "get_programs: installing$missing (up to 450 MB, once)"
  # shellcheck disable=SC2086  # two words are two packages
  { apt-get update -qq && apt-get install -qq --yes --no-install-recommends $missing >/dev/null; } && exit 0
fi
echo "get_programs: no$missing, and it could not be installed (Debian: apt-get install$missing): the tests that need it are left out" >&2
