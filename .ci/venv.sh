#!/bin/sh
# Makes a fresh virtual environment with the given requirements files.
#   .ci/venv.sh DIR OLDEST_PYTHON FILE...     .ci/venv.sh .venv 3.9 requirements.txt
# Uses $PYTHON if set, otherwise the first fitting Python on PATH.
set -eu

dir=$1 oldest=$2
shift 2

# True if command $1 starts a Python from version $2 to version $3.
fits() {
  "$1" - "$2" "$3" >/dev/null 2>&1 <<'PYTHON'
import sys
oldest, newest = (tuple(map(int, version.split("."))) for version in sys.argv[1:])
sys.exit(not oldest <= sys.version_info[:2] <= newest)
PYTHON
}

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    fits "$PYTHON" "$oldest" 3.99 && echo "$PYTHON"
    return
  fi
  for newest in 3.13 3.99; do # Spark 3.5 supports 3.13 at most: newer ones only as a last resort
    for python in python3 python3.13 python3.12 python3.11 python3.10 python3.9 python; do
      if fits "$python" "$oldest" "$newest"; then
        echo "$python"
        return
      fi
    done
  done
  return 1
}

if ! python=$(find_python); then
  echo "${PYTHON:-python3} is not a Python $oldest or newer: install one, or name one with make PYTHON=/path/to/python3" >&2
  exit 1
fi

echo "Setting up $dir with $("$python" --version) (once, needs a network)" >&2
if ! log=$("$python" -m venv --clear "$dir" 2>&1); then
  echo "$log" >&2
  echo "$python cannot make virtual environments: on Debian and Ubuntu, install the package python3-venv" >&2
  exit 1
fi

for file in "$@"; do
  set -- "$@" --requirement "$file"
  shift
done
PIP_USE_PEP517=1 "$dir/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
