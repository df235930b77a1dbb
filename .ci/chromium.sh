#!/bin/sh
# Prints the path of Chromium or Chrome; as root on Debian or Ubuntu installs Chromium if there is neither.
#   .ci/chromium.sh
set -eu

find_chromium() {
  for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
    command -v "$name" && return 0
  done
  mac="/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
  [ ! -x "$mac" ] || echo "$mac"
  [ -x "$mac" ]
}

find_chromium && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "No Chromium here: installing the package chromium" >&2
  export DEBIAN_FRONTEND=noninteractive
  if apt-get update -qq >&2 && apt-get install -y -qq --no-install-recommends chromium >&2; then
    find_chromium && exit 0
  fi
fi
echo "The tests of the dashboard need Chromium or Chrome: install one (on Debian: apt-get install chromium)" >&2
exit 1
