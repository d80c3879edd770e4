#!/bin/sh
# Makes a virtual environment that holds exactly the locked packages and finds the project in the current folder.
#   setup.sh ENVIRONMENT LOCK LOG             makes it, unless it is there already
#   setup.sh --lock ENVIRONMENT LOCK LOG      resolves LOCK anew from the .in file beside it, with a uv in an environment
#   setup.sh --python                         prints the Python that it would be made with
# PYTHON_BOOTSTRAP names the Python to use; without it, a suitable one is looked for.
# uv installs the packages: the one on the PATH, or else the pinned one. Where neither can, pip does, more slowly.
set -eu

# Of the user's environment only this counts: who the user is and where programs are, which Python is meant, and where and
# how to download and where to keep it. Anything else could change what is installed, or where. `env` drops also what no
# shell can: readonly variables, exported functions. Messages are in English, since some are looked for below.
if [ "${1:-}" != --clean ]; then
    set -f
    set -- LC_ALL=C NO_COLOR=1 UV_NO_CONFIG=1 UV_PYTHON_DOWNLOADS=never sh "$0" --clean "$@"
    for name in $(env | LC_ALL=C sed -n 's/^\([^=[:space:]]\{1,\}\)=.*/\1/p'); do
        case $name in
        PATH | HOME | USER | LOGNAME | TMPDIR | LD_LIBRARY_PATH | NIX_LD | NIX_LD_LIBRARY_PATH) ;;
        PYTHON_BOOTSTRAP | PYENV_* | ASDF_* | MISE_*) ;;
        http_proxy | https_proxy | all_proxy | no_proxy | HTTP_PROXY | HTTPS_PROXY | ALL_PROXY | NO_PROXY) ;;
        SSL_CERT_FILE | SSL_CERT_DIR | SSL_CLIENT_CERT | NIX_SSL_CERT_FILE | OPENSSL_CONF) ;;
        REQUESTS_CA_BUNDLE | CURL_CA_BUNDLE | NETRC) ;;
        DBUS_SESSION_BUS_ADDRESS | XDG_RUNTIME_DIR | PYTHON_KEYRING_BACKEND) ;; # where a keyring is
        XDG_CACHE_HOME | XDG_CONFIG_HOME | XDG_CONFIG_DIRS | PIP_CONFIG_FILE) ;; # where caches and pip's files are
        PIP_INDEX_URL | PIP_EXTRA_INDEX_URL | PIP_FIND_LINKS | PIP_NO_INDEX | PIP_TRUSTED_HOST) ;;
        PIP_CERT | PIP_CLIENT_CERT | PIP_PROXY | PIP_TIMEOUT | PIP_DEFAULT_TIMEOUT | PIP_RETRIES) ;;
        PIP_KEYRING_PROVIDER | PIP_CACHE_DIR | PIP_NO_CACHE_DIR) ;;
        UV_*INDEX* | UV_FIND_LINKS | UV_INSECURE_HOST | UV_KEYRING_PROVIDER) ;;
        UV_HTTP_* | UV_OFFLINE | UV_NATIVE_TLS | UV_SYSTEM_CERTS | UV_CACHE_DIR | UV_NO_CACHE | UV_CONCURRENT_*) ;;
        *) set -- -u "$name" "$@" ;;
        esac
    done
    exec env "$@"
fi
shift
trap 'exit 130' INT # of itself, not every shell ends when its uv or pip is interrupted

NEEDED_GB=4 # the packages, and what pip unpacks on the way
SCRIPTS=$(dirname "$0")

fail() {
    printf 'Set-up: %s\n' "$1" >&2
    exit 1
}

# Sets `python` and `version`, or ends with what was looked for.
find_python() {
    looked_for=''
    without_venv=''
    for python in "${PYTHON_BOOTSTRAP:-python3}" python3.13 python3.12 python3.11; do
        answer=$("$python" -I -c '
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
    "$python" -I -m venv --clear "$environment" >>"$log" 2>&1 ||
        fail "$python -m venv could not make $environment; is the folder writable and the disk not full? Its messages are in $log."
    mkdir "$environment/tmp"
}

# Of pip's settings only those on where and how to download count, for pip as for uv.
read_pip_settings() {
    settings=$("$environment/bin/python" -I "$SCRIPTS/pip_settings.py" 2>>"$log") ||
        fail "pip's settings cannot be read: $(tail -n 1 "$log"). Correct them (pip config debug tells where they are) and run make again."
    eval "$settings"
    export PIP_CONFIG_FILE=/dev/null
}

# pip unpacks beside the environment, not in a /tmp that may be small.
pip_install() {
    TMPDIR=$PWD/$environment/tmp "$environment/bin/python" -I -m pip install --require-hashes --only-binary :all: \
        --progress-bar off --disable-pip-version-check --no-input "$@" >>"$log" 2>&1
}

# Whether this program is uv 0.5 or later, which has all options used here.
is_uv() {
    "$1" --version 2>/dev/null |
        awk '$1 == "uv" { split($2, part, "."); new = part[1] > 0 || part[2] >= 5 } END { exit !new }'
}

# Sets `uv`, to one beside the environment's packages and not among them.
install_pinned_uv() {
    uv=$environment/uv/bin/uv
    pip_install --retries 1 --prefix "$environment/uv" --requirement "$SCRIPTS/requirements-uv.txt" && is_uv "$uv"
}

find_uv() {
    if uv=$(command -v uv) && is_uv "$uv"; then return; fi
    install_pinned_uv
}

# Sets an environment variable, unless it is set or there is nothing to set it to.
default() {
    if eval "[ -z \"\${$1:-}\" ]" && [ -n "$2" ]; then export "$1=$2"; fi
}

# Runs `uv pip` with an option for each place that pip is told of; in a subshell, so that nothing set here remains.
uv_pip() (
    # uv does not read pip's settings, so it is told them.
    default UV_DEFAULT_INDEX "${UV_INDEX_URL:-$PIP_INDEX_URL}"
    default UV_INDEX "${UV_EXTRA_INDEX_URL:-$PIP_EXTRA_INDEX_URL}"
    default UV_INSECURE_HOST "$PIP_TRUSTED_HOST"
    timeout=${PIP_TIMEOUT:-$PIP_DEFAULT_TIMEOUT}
    default UV_HTTP_TIMEOUT "${timeout%%.*}"
    default UV_HTTP_RETRIES "$PIP_RETRIES"
    default SSL_CERT_FILE "${PIP_CERT:-${REQUESTS_CA_BUNDLE:-${CURL_CA_BUNDLE:-}}}"
    default SSL_CLIENT_CERT "$PIP_CLIENT_CERT"
    if [ "$PIP_KEYRING_PROVIDER" = subprocess ]; then default UV_KEYRING_PROVIDER subprocess; fi
    if [ -n "$PIP_PROXY" ]; then export http_proxy="$PIP_PROXY" https_proxy="$PIP_PROXY" HTTPS_PROXY="$PIP_PROXY"; fi
    case $PIP_NO_INDEX in 1 | [Tt]* | [Yy]* | [Oo][Nn]) set -- "$@" --no-index ;; esac
    set -f
    for links in $PIP_FIND_LINKS; do set -- "$@" --find-links "$links"; done

    # uv's cache stays the user's, which makes a second clone quick, unless nothing can be kept there.
    cache=$("$uv" cache dir 2>/dev/null) && mkdir -p "$cache" 2>/dev/null && [ -w "$cache" ] ||
        export UV_CACHE_DIR="$PWD/$environment/tmp/uv"

    # Like pip it takes a package from whatever index has it: the hashes tell if it is the right one.
    "$uv" pip "$@" --index-strategy unsafe-best-match --color never
)

uv_sync() {
    uv_pip sync --python "$environment/bin/python" --require-hashes --only-binary :all: "$requirements" >>"$log" 2>&1
}

# Checks what was installed, with an import of each package that a file names, and finishes it. A package that is imported
# may write into the home: here into an empty one.
finish() {
    home=$PWD/$environment/tmp/home
    mkdir -p "$home" &&
    problem=$(HOME=$home XDG_CACHE_HOME=$home XDG_CONFIG_HOME=$home "$environment/bin/python" -I \
        "$SCRIPTS/check_environment.py" "$requirements" "$1" "$stamp" "$lock" 2>>"$log") || return
    rm -rf "$environment/tmp"
}

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
    case $(pwd -P) in
    *:*) fail "the path $(pwd -P) has a colon, with which no virtual environment can be made; rename that folder and run make again." ;;
    esac
    { mkdir -p "$(dirname "$log")" && true >"$log"; } 2>/dev/null ||
        fail "cannot write $log in $(pwd -P); make the folder writable, or copy the project to one that is, and run make again."
}

# What an environment says of itself still names the folder where it was made; nothing is installed.
move_environment() {
    echo "Set-up: this folder was moved or copied, so $environment is set to its new place."
    "$environment/bin/python" -I -m venv --without-pip "$environment" >>"$log" 2>&1 && finish /dev/null
}

if [ "${1:-}" = --python ]; then
    find_python
    command -v "$python"
    exit
fi
if [ "${1:-}" = --lock ]; then
    environment=$2
    requirements=$3
    log=$4
    find_python
    start_log
    make_environment
    read_pip_settings
    install_pinned_uv || explain_pip
    uv_pip compile --universal --generate-hashes --python-version 3.11 --custom-compile-command "make lock" --quiet \
        "${requirements%.txt}.in" --output-file "$requirements"
    exit
fi
environment=$1
requirements=$2
log=$3
stamp=$environment/.installed # written last: without it the environment counts as half made

lock=$(cksum <"$requirements")
if [ -x "$environment/bin/python" ] && [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$lock" ]; then
    if [ "$(tail -n +2 "$stamp")" = "$(pwd -P)" ]; then
        touch "$stamp" 2>/dev/null || true # where nothing can be written, nothing needs to be
        exit
    fi
    start_log
    if move_environment; then exit; fi
    echo "Set-up: ${problem:-that did not work, as $log tells}, so everything is installed anew."
fi

find_python
check_space
start_log

echo "Set-up: making $environment with Python $version and the packages of $requirements; this takes about half a minute on a fast network, and 3 GB."
rm -f "$stamp" 2>/dev/null || true
make_environment
read_pip_settings
if ! { find_uv && uv_sync; }; then
    stop_if_a_hash_is_wrong
    mv "$log" "$log.uv"
    echo "Set-up: uv could not install the packages ($log.uv tells why), so pip does; this takes about 2 minutes."
    if is_uv "$uv"; then make_environment; fi # it may have left half of the packages
    pip_install --requirement "$requirements" || explain_pip
fi
finish "${requirements%.txt}.in" || fail "${problem:-what was installed does not work}; run make again, and if that does not help, $log tells more."
echo "Set-up: done."
