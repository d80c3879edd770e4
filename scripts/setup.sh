#!/bin/sh
# Makes a virtual environment that holds exactly the locked packages and finds the project in the current folder.
#   setup.sh ENVIRONMENT REQUIREMENTS LOG    makes it, unless it is there already
#   setup.sh --python                        prints the Python that it would be made with
# PYTHON_BOOTSTRAP names the Python to use; without it, a suitable one is looked for.
set -eu

NEEDED_GB=4 # the packages, and what pip unpacks on the way

fail() {
    printf 'Set-up: %s\n' "$1" >&2
    exit 1
}

# Sets `python` and `version`, or ends with what was looked for.
find_python() {
    looked_for=''
    without_venv=''
    for python in "${PYTHON_BOOTSTRAP:-python3}" python3.13 python3.12 python3.11; do
        answer=$("$python" -c '
import sys
try:
    import ensurepip, venv
    able = "able"
except ImportError:
    able = "unable"
print("%d.%d %s" % (sys.version_info[0], sys.version_info[1], able))' 2>/dev/null) || answer='not found'
        version=${answer%% *able}
        case $answer in
        '3.11 able' | '3.12 able' | '3.13 able') return ;;
        '3.11 '* | '3.12 '* | '3.13 '*) without_venv=$python ;;
        esac
        looked_for="$looked_for${looked_for:+, }$python ($version)"
        if [ -n "${PYTHON_BOOTSTRAP:-}" ]; then break; fi
    done
    if [ -n "$without_venv" ]; then
        fail "$without_venv lacks the modules venv and ensurepip; install them (on Debian and Ubuntu: apt install python3-venv) and run make again."
    fi
    fail "Python 3.11, 3.12 or 3.13 is needed; looked for $looked_for. Install one, or name it: make PYTHON_BOOTSTRAP=/path/to/python3 …"
}

check_space() {
    free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
    old_kb=0
    if [ -d "$environment" ]; then old_kb=$(du -sk "$environment" | awk '{ print $1 }'); fi
    if [ $((free_kb + old_kb)) -lt $((NEEDED_GB * 1000000)) ]; then
        fail "the packages need about $NEEDED_GB GB of disk space, and $(((free_kb + old_kb) / 1000)) MB are free here; make room and run make again."
    fi
}

explain_pip() {
    if grep -q 'No space left on device' "$log"; then
        fail "the disk is full; make room (about $NEEDED_GB GB) and run make again. pip's messages are in $log."
    elif grep -q 'DO NOT MATCH THE HASHES' "$log"; then
        fail "a downloaded package is not the one that $requirements names by its hash, so nothing was installed; run make again. pip's messages are in $log."
    elif grep -qE 'Retrying \(|ConnectionError|Timeout|ProxyError|SSLError|name resolution' "$log"; then
        fail "the packages could not be downloaded: no connection to the package index. Check the network and run make again; pip's messages are in $log."
    fi
    reason=$(sed -n 's/^ERROR: //p' "$log" | tail -n 1)
    fail "pip could not install the packages${reason:+: $reason}. pip's messages are in $log."
}

if [ "${1:-}" = --python ]; then
    find_python
    command -v "$python"
    exit
fi
environment=$1
requirements=$2
log=$3
stamp=$environment/.installed # written last: without it the environment counts as half made

lock=$(cksum <"$requirements")
if [ -x "$environment/bin/python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$lock" ]; then
    touch "$stamp"
    exit
fi

find_python
check_space
mkdir -p "$(dirname "$log")"
: >"$log"

echo "Set-up: making $environment with Python $version and the packages of $requirements; this takes about 3 minutes and 3 GB."
rm -f "$stamp"
"$python" -m venv --clear "$environment" >>"$log" 2>&1 ||
    fail "$python -m venv could not make $environment; is the folder writable and the disk not full? Its messages are in $log."
# pip unpacks beside the environment, not in a /tmp that may be small.
mkdir "$environment/tmp"
TMPDIR=$PWD/$environment/tmp "$environment/bin/python" -m pip install --require-hashes --only-binary :all: \
    --requirement "$requirements" --progress-bar off --disable-pip-version-check --no-input >>"$log" 2>&1 || explain_pip
rmdir "$environment/tmp" 2>/dev/null || rm -rf "$environment/tmp"

# `import smallcnn` then works wherever a kernel runs. The path is relative, so it is plain ASCII whatever the folder is
# called: Python 3.11 reads .pth files in the locale's encoding.
"$environment/bin/python" -c '
import os, sysconfig
packages = sysconfig.get_path("purelib")
with open(os.path.join(packages, "smallcnn.pth"), "w", encoding="ascii") as file:
    print(os.path.relpath(os.getcwd(), packages), file=file)'
echo "$lock" >"$stamp"
echo "Set-up: done."
