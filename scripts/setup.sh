#!/bin/sh
# Makes a virtual environment that holds exactly the locked packages and finds the project in the current folder.
#   setup.sh ENVIRONMENT REQUIREMENTS LOG    makes it, unless it is there already
#   setup.sh --uv ENVIRONMENT LOG            makes one with nothing but the pinned uv, and prints where that is
#   setup.sh --python                        prints the Python that it would be made with
# PYTHON_BOOTSTRAP names the Python to use; without it, a suitable one is looked for.
# uv installs the packages: the one on the PATH, or else the pinned one. Where neither can, pip does, more slowly.
set -eu
trap 'exit 130' INT # of itself, not every shell ends when its uv or pip is interrupted

NEEDED_GB=4 # the packages, and what pip unpacks on the way
PINNED_UV=$(dirname "$0")/requirements-uv.txt

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

# `python -m venv` puts a pip in it: to install uv or all the packages, and for what a user may add to them by hand.
make_environment() {
    "$python" -m venv --clear "$environment" >>"$log" 2>&1 ||
        fail "$python -m venv could not make $environment; is the folder writable and the disk not full? Its messages are in $log."
}

# pip unpacks beside the environment, not in a /tmp that may be small.
pip_install() {
    mkdir -p "$environment/tmp"
    TMPDIR=$PWD/$environment/tmp "$environment/bin/python" -m pip install --require-hashes --only-binary :all: \
        --progress-bar off --disable-pip-version-check --no-input "$@" >>"$log" 2>&1 || return
    rmdir "$environment/tmp" 2>/dev/null || rm -rf "$environment/tmp"
}

# Whether this program is uv 0.5 or later, which has all options used here.
is_uv() {
    "$1" --version 2>/dev/null |
        awk '$1 == "uv" { split($2, part, "."); new = part[1] > 0 || part[2] >= 5 } END { exit !new }'
}

# Sets `uv`, to one beside the environment's packages and not among them.
install_pinned_uv() {
    uv=$environment/uv/bin/uv
    pip_install --retries 1 --prefix "$environment/uv" --requirement "$PINNED_UV" && is_uv "$uv"
}

find_uv() {
    if uv=$(command -v uv) && is_uv "$uv"; then return; fi
    install_pinned_uv
}

# Prints what pip is told for an option, by the environment or else by its files.
pip_setting() {
    for section in :env: install global; do
        value=$(printf '%s\n' "$pip_settings" | sed -n "s/^$section\.$1='\(.*\)'\$/\1/p" | sed 's/\\n/ /g')
        if [ -n "$value" ]; then break; fi
    done
    printf '%s' "$value"
}

# In a subshell, so that nothing set here remains.
uv_sync() (
    exec >>"$log" 2>&1
    # Of the user's settings of uv, only those on where to download from and where to keep it count. uv.toml does not.
    for name in $(env | sed -n 's/^\(UV_[A-Z0-9_]*\)=.*/\1/p'); do
        case $name in
        UV_*INDEX* | UV_FIND_LINKS | UV_INSECURE_HOST | UV_KEYRING_PROVIDER) ;;
        UV_HTTP_* | UV_OFFLINE | UV_NATIVE_TLS | UV_SYSTEM_CERTS | UV_CACHE_DIR | UV_NO_CACHE | UV_CONCURRENT_*) ;;
        *) unset "$name" ;;
        esac
    done
    export UV_NO_CONFIG=1 UV_PYTHON_DOWNLOADS=never

    # uv does not read pip's settings, so it is told them.
    pip_settings=$("$environment/bin/python" -m pip config list 2>/dev/null)
    export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-$(pip_setting index-url)}}"
    export UV_INDEX="${UV_INDEX:-${UV_EXTRA_INDEX_URL:-$(pip_setting extra-index-url)}}"
    export UV_INSECURE_HOST="${UV_INSECURE_HOST:-$(pip_setting trusted-host)}"
    certificates=$(pip_setting cert)
    certificates=${SSL_CERT_FILE:-${certificates:-${REQUESTS_CA_BUNDLE:-${CURL_CA_BUNDLE:-}}}}
    if [ -n "$certificates" ]; then export SSL_CERT_FILE="$certificates"; fi
    proxy=$(pip_setting proxy)
    if [ -n "$proxy" ]; then export http_proxy="$proxy" https_proxy="$proxy" HTTPS_PROXY="$proxy"; fi
    set -- --python "$environment/bin/python"
    case $(pip_setting no-index) in 1 | [Tt]* | [Yy]* | [Oo][Nn]) set -- "$@" --no-index ;; esac
    for links in $(pip_setting find-links); do set -- "$@" --find-links "$links"; done

    # Like pip it takes a package from whatever index has it: the hashes tell if it is the right one.
    set -- "$@" --index-strategy unsafe-best-match
    # A module is compiled when it is first imported, which is quicker than to compile all of them here; but if Python is
    # told to keep no bytecode, that would be at every import.
    if [ -n "${PYTHONDONTWRITEBYTECODE:-}" ]; then set -- "$@" --compile-bytecode; fi
    "$uv" pip sync "$@" --require-hashes --only-binary :all: --color never "$requirements" || exit 1
)

stop_if_a_hash_is_wrong() {
    if grep -qE 'DO NOT MATCH THE HASHES|Hash mismatch' "$log"; then
        fail "a downloaded package is not the one that the lock names by its hash, so nothing was installed; run make again. More is in $log."
    fi
}

explain_pip() {
    stop_if_a_hash_is_wrong
    if grep -qE 'No space left on device|Disk quota exceeded' "$log"; then
        fail "the disk is full; make room (about $NEEDED_GB GB) and run make again. pip's messages are in $log."
    elif grep -qE 'Retrying \(|ConnectionError|Timeout|ProxyError|SSLError|name resolution' "$log"; then
        fail "the packages could not be downloaded: no connection to the package index. Check the network and run make again; pip's messages are in $log."
    fi
    reason=$(sed -n 's/^ERROR: //p' "$log" | tail -n 1)
    fail "pip could not install the packages${reason:+: $reason}. pip's messages are in $log."
}

start_log() {
    mkdir -p "$(dirname "$log")"
    : >"$log"
}

if [ "${1:-}" = --python ]; then
    find_python
    command -v "$python"
    exit
fi
if [ "${1:-}" = --uv ]; then
    environment=$2
    log=$3
    find_python
    start_log
    make_environment
    install_pinned_uv || explain_pip
    printf '%s\n' "$uv"
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
start_log

echo "Set-up: making $environment with Python $version and the packages of $requirements; this takes about half a minute on a fast network, and 3 GB."
rm -f "$stamp"
make_environment
if ! { find_uv && uv_sync; }; then
    stop_if_a_hash_is_wrong
    mv "$log" "$log.uv"
    echo "Set-up: uv could not install the packages ($log.uv tells why), so pip does; this takes about 2 minutes."
    if is_uv "$uv"; then make_environment; fi # it may have left half of the packages
    pip_install --requirement "$requirements" || explain_pip
fi

# `import smallcnn` then works wherever a kernel runs. The path is relative, so it is plain ASCII whatever the folder is
# called: Python 3.11 reads .pth files in the locale's encoding.
"$environment/bin/python" -c '
import os, sysconfig
packages = sysconfig.get_path("purelib")
with open(os.path.join(packages, "smallcnn.pth"), "w", encoding="ascii") as file:
    print(os.path.relpath(os.getcwd(), packages), file=file)'
echo "$lock" >"$stamp"
echo "Set-up: done."
