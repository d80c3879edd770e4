"""Surroundings that would change, empty or break a book: other programs' variables and files, all set to nonsense.

They are what the packages of `requirements.txt`, Python and the C libraries below them read from the environment, from
a home and from folders of the system. A file that is read shows it: the time of its last access changes.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

NEVER = "/nonexistent"
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
FAILS = "raise SystemExit('a file outside the project was executed')\n"


XDG = {"config": ".config", "data": ".local/share", "cache": ".cache", "state": ".local/state"}


@dataclass(frozen=True)
class Variable:
    """An environment variable; `{home}` in its value stands for the hostile home."""

    name: str
    value: str
    library: str
    effect: str


@dataclass(frozen=True)
class File:
    """A file below `place`: a home, one of its XDG folders ("config", "data", "cache", "state"), or "/"."""

    place: str
    path: str
    content: str
    library: str
    effect: str


VARIABLES = (
    # Python; it reads most of these before any program begins, so `make` does not pass them on
    Variable("PYTHONHOME", NEVER, "python", "Python does not start"),
    Variable("PYTHONPLATLIBDIR", "nonsense", "python", "Python does not start"),
    Variable("PYTHONPYCACHEPREFIX", "{home}/pycache", "python", "writes compiled code there"),
    Variable("PYTHONVERBOSE", "1", "python", "a line for every import"),
    Variable("PYTHONSTARTUP", "{home}/.pythonrc.py", "python", "executed before a prompt"),
    Variable("PYTHONPATH", "{home}/modules", "python", "other packages, and code at every start"),
    Variable("PYTHONSAFEPATH", "1", "python", "no modules of the folder that it starts in"),
    Variable("PYTHONINSPECT", "1", "python", "a prompt after the program: the build never ends"),
    Variable("PYTHONOPTIMIZE", "2", "python", "no assertions, no docstrings"),
    Variable("PYTHONWARNINGS", "error", "python", "every warning of a library is an error"),
    Variable("PYTHONHASHSEED", "1", "python", "another order of sets"),
    Variable("PYTHONDEVMODE", "1", "python", "warnings of every library, slow memory"),
    Variable("PYTHONMALLOC", "debug", "python", "slow memory"),
    Variable("PYTHONTRACEMALLOC", "25", "python", "slow memory"),
    Variable("PYTHONPROFILEIMPORTTIME", "1", "python", "a line for every import"),
    Variable("PYTHONIOENCODING", "ascii:strict", "python", "no umlaut, dash or × in any output"),
    Variable("PYTHONDONTWRITEBYTECODE", "1", "python", "slow imports"),
    Variable("PYTHONUSERBASE", "{home}/.local", "python", "packages of the home"),
    Variable("PYTHONBREAKPOINT", "nonsense.function", "python", "what breakpoint() calls"),
    Variable("PYTHONEXECUTABLE", NEVER, "python", "none of the packages of the environment"),
    Variable("PYTHONINTMAXSTRDIGITS", "640", "python", "no long whole numbers as text"),
    Variable("PYTHONASYNCIODEBUG", "1", "asyncio", "slow, and remarks on slow callbacks"),
    Variable("PYTHONFAULTHANDLER", "1", "python", "traces of signals"),
    Variable("PYTHONUNBUFFERED", "1", "python", "printed text in other pieces"),
    Variable("PYTHONNODEBUGRANGES", "1", "python", "tracebacks without marks"),
    Variable("PYTHON_COLORS", "1", "python", "coloured tracebacks"),
    Variable("PYTHONCOERCECLOCALE", "warn", "python", "a remark for every process in the C locale"),
    Variable("VIRTUAL_ENV", "{home}/venv", "ipython", "a kernel puts that environment's packages first"),
    Variable("CONDA_PREFIX", "{home}/venv", "jupyter_core", "which folders of Jupyter come first"),
    Variable("CONDA_DEFAULT_ENV", "nonsense", "jupyter_core", "which folders of Jupyter come first"),
    Variable("SETUPTOOLS_USE_DISTUTILS", "stdlib", "setuptools", "a module that Python 3.12 has no more"),
    Variable("DISTUTILS_DEBUG", "1", "setuptools", "traces"),
    # The C library, its allocator and its loader
    Variable("LD_PRELOAD", NEVER, "ld.so", "other code in every process"),
    Variable("LD_BIND_NOW", "1", "ld.so", "slow starts"),
    Variable("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=4096", "glibc", "slow memory"),
    Variable("MALLOC_PERTURB_", "85", "glibc", "memory full of rubbish"),
    Variable("MALLOC_ARENA_MAX", "1", "glibc", "threads wait for memory"),
    Variable("MALLOC_MMAP_THRESHOLD_", "4096", "glibc", "slow memory"),
    # OpenMP, BLAS, NumPy, SciPy, pandas
    Variable("OMP_NUM_THREADS", "3", "openmp", "another order of sums"),
    Variable("OMP_DYNAMIC", "true", "openmp", "as many threads as it likes"),
    Variable("OMP_PROC_BIND", "spread", "openmp", "threads bound to cores"),
    Variable("GOMP_CPU_AFFINITY", "0", "libgomp", "everything on one core"),
    Variable("KMP_AFFINITY", "disabled", "libiomp", "threads not bound"),
    Variable("MKL_NUM_THREADS", "3", "mkl", "another order of sums"),
    Variable("MKL_CBWR", "COMPATIBLE", "mkl", "other kernels, other last digits"),
    Variable("OPENBLAS_NUM_THREADS", "3", "openblas", "another order of sums"),
    Variable("GOTO_NUM_THREADS", "3", "openblas", "another order of sums"),
    Variable("OPENBLAS_CORETYPE", "Prescott", "openblas", "kernels of another processor, other last digits"),
    Variable("OPENBLAS_L2_SIZE", "1024", "openblas", "other blocks, other last digits"),
    Variable("OPENBLAS_BLOCK_FACTOR", "3", "openblas", "other blocks, other last digits"),
    Variable("OPENBLAS_THREAD_TIMEOUT", "4", "openblas", "threads sleep at once"),
    Variable("OPENBLAS_VERBOSE", "5", "openblas", "remarks on the processor"),
    Variable("NPY_DISABLE_CPU_FEATURES", "AVX2 FMA3 AVX512F AVX512_SKX", "numpy", "other last digits, or no import"),
    Variable("NPY_ENABLE_CPU_FEATURES", "nonsense", "numpy", "no import"),
    Variable("NPY_PROMOTION_STATE", "legacy", "numpy", "a warning at import"),
    Variable("NUMPY_MADVISE_HUGEPAGE", "0", "numpy", "slow memory"),
    Variable("NUMPY_EXPERIMENTAL_DTYPE_API", "1", "numpy", "an experiment"),
    Variable("SCIPY_ARRAY_API", "1", "scipy", "other types from functions"),
    Variable("PANDAS_COPY_ON_WRITE", "warn", "pandas", "a warning for every write"),
    Variable("PANDAS_FUTURE_INFER_STRING", "0", "pandas", "texts as objects"),
    # Figures
    Variable("MPLBACKEND", "Agg", "matplotlib", "a notebook shows no figure"),
    Variable("MPLCONFIGDIR", "{home}/mpl", "matplotlib", "another style; writes its cache there"),
    Variable("MATPLOTLIBRC", "{home}/mpl/matplotlibrc", "matplotlib", "another style"),
    Variable("MPL_IGNORE_SYSTEM_FONTS", "1", "matplotlib", "other fonts"),
    Variable("FONTCONFIG_FILE", "{home}/mpl/fonts.conf", "fontconfig", "no fonts"),
    Variable("FONTCONFIG_PATH", "{home}/mpl", "fontconfig", "no fonts"),
    Variable("TEXINPUTS", "{home}/mpl", "tex", "other styles of TeX"),
    Variable("TEXMFOUTPUT", NEVER, "pybtex", "where bibliographies are written"),
    Variable("SOURCE_DATE_EPOCH", "0", "matplotlib, sphinx, docutils", "pages of the year 1970"),
    Variable("QT_API", "nonsense", "matplotlib, ipykernel", "no event loop"),
    Variable("DISPLAY", ":99", "matplotlib, pillow", "a screen that is not there"),
    Variable("WAYLAND_DISPLAY", "nonsense", "matplotlib, pillow", "a screen that is not there"),
    Variable("PILLOW_BLOCK_SIZE", "3", "pillow", "a warning at import"),
    Variable("IMAGEIO_FORMAT_ORDER", "nonsense", "imageio", "no format is found"),
    Variable("IMAGEIO_USERDIR", "{home}/imageio", "imageio", "writes there"),
    Variable("BOKEH_LOG_LEVEL", "nonsense", "bokeh", "no import"),
    Variable("BOKEH_PY_LOG_LEVEL", "nonsense", "bokeh", "no import"),
    Variable("BOKEH_RESOURCES", "nonsense", "bokeh", "no dashboard"),
    # TensorFlow, Keras
    Variable("TF_ENABLE_ONEDNN_OPTS", "0", "tensorflow", "other kernels, other last digits"),
    Variable("TF_USE_LEGACY_KERAS", "0", "tensorflow", "Keras 3 in the place of tf_keras"),
    Variable("TF_CPP_MIN_LOG_LEVEL", "0", "tensorflow", "a dozen remarks in every process"),
    Variable("TF_CPP_MAX_VLOG_LEVEL", "1", "tensorflow", "thousands of remarks"),
    Variable("TF_CPP_VMODULE", "executor=1", "tensorflow", "thousands of remarks"),
    Variable("TF_XLA_FLAGS", "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit", "tensorflow", "compiles all, other digits"),
    Variable("XLA_FLAGS", "--xla_nonsense=1", "xla", "ends the process"),
    Variable("TF_NUM_INTRAOP_THREADS", "3", "tensorflow", "another order of sums"),
    Variable("TF_NUM_INTEROP_THREADS", "3", "tensorflow", "another order of operations"),
    Variable("TF_OVERRIDE_GLOBAL_THREADPOOL", "1", "tensorflow", "other threads"),
    Variable("TF_SET_ONEDNN_FPMATH_MODE", "BF16", "tensorflow", "products of eight bits"),
    Variable("TF_DETERMINISTIC_OPS", "0", "tensorflow", "sums in any order"),
    Variable("TF_FUNCTION_JIT_COMPILE_DEFAULT", "1", "tensorflow", "compiles every function, other last digits"),
    Variable("TF_CONFIG", '{{"cluster": {{"worker": ["127.0.0.1:1"]}}}}', "tensorflow", "waits for a cluster"),
    Variable("TF_DUMP_GRAPH_PREFIX", "{home}/graphs", "tensorflow", "writes graphs there"),
    Variable("TF_USE_EIGEN_PARALLEL_FOR_IN_WORK_SHARDER", "1", "tensorflow", "another order of sums"),
    Variable("TF_USE_DEEP_CONV2D", "1", "tensorflow", "another convolution"),
    Variable("TF_DISABLE_RZ_CHECK", "1", "tensorflow", "no check of rounding"),
    Variable("TF_ENABLE_MAXPOOL_NANPROP", "1", "tensorflow", "another pooling"),
    Variable("AUTOGRAPH_VERBOSITY", "10", "tensorflow", "thousands of remarks"),
    Variable("AUTOGRAPH_STRICT_CONVERSION", "1", "tensorflow", "errors for what it cannot convert"),
    Variable("ONEDNN_VERBOSE", "2", "onednn", "a line for every operation, in a cell's output"),
    Variable("ONEDNN_MAX_CPU_ISA", "SSE41", "onednn", "kernels of another processor, other last digits"),
    Variable("ONEDNN_DEFAULT_FPMATH_MODE", "ANY", "onednn", "products of eight bits"),
    Variable("ONEDNN_JIT_DUMP", "1", "onednn", "writes its code where it stands"),
    Variable("DNNL_MAX_CPU_ISA", "SSE41", "onednn", "kernels of another processor, other last digits"),
    Variable("TEST_TMPDIR", "{home}/test", "absl, tensorflow", "writes there"),
    Variable("TEST_RANDOM_SEED", "7", "absl", "another seed"),
    Variable("KERAS_HOME", "{home}/.keras", "keras, tf_keras", "another precision and order of axes"),
    Variable("KERAS_BACKEND", "nonsense", "keras", "no import"),
    Variable("KERAS_MAX_EPOCHS", "1", "keras", "training ends after an epoch"),
    Variable("KERAS_MAX_STEPS_PER_EPOCH", "1", "keras", "training ends after a step"),
    Variable("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "nonsense", "protobuf", "no import"),
    Variable("GRPC_VERBOSITY", "debug", "grpc", "remarks"),
    Variable("GRPC_TRACE", "all", "grpc", "thousands of remarks"),
    Variable("HDF5_DISABLE_VERSION_CHECK", "0", "h5py", "ends the process if versions differ"),
    Variable("HDF5_PLUGIN_PATH", "{home}/modules", "h5py", "other code"),
    Variable("HDF5_DRIVER", "nonsense", "h5py", "no file opens"),
    Variable("WRAPT_DISABLE_EXTENSIONS", "1", "wrapt", "slow calls"),
    # Halide; HL_NUM_THREADS is the one that README names
    Variable("HL_TARGET", "nonsense", "halide", "ends the process"),
    Variable("HL_JIT_TARGET", "x86-64-linux", "halide", "code for the oldest processor, other last digits"),
    Variable("HL_NUMTHREADS", "1", "halide", "slow: one core"),
    Variable("HL_DEBUG_CODEGEN", "2", "halide", "thousands of lines"),
    Variable("HL_LLVM_ARGS", "-nonsense", "halide", "ends the process"),
    Variable("HL_COMPILER_STACK_SIZE", "1", "halide", "ends the process"),
    Variable("HL_EXTRA_OUTPUTS", "assembly", "halide", "writes where it stands"),
    Variable("HL_TRACE_FILE", "{home}/trace", "halide", "writes there"),
    # Jupyter, IPython, notebooks
    Variable("IPYTHONDIR", "{home}/.ipython", "ipython", "another profile, with start-up files"),
    Variable("IPYTHON_SUPPRESS_CONFIG_ERRORS", "nonsense", "ipython", "no import"),
    Variable("JUPYTER_CONFIG_DIR", "{home}/.jupyter", "jupyter_core", "another configuration"),
    Variable("JUPYTER_CONFIG_PATH", "{home}/.jupyter", "jupyter_core", "another configuration"),
    Variable("JUPYTER_PATH", "{home}/.local/share/jupyter", "jupyter_core", "another kernel named python3"),
    Variable("JUPYTER_DATA_DIR", "{home}/.local/share/jupyter", "jupyter_core", "another kernel named python3"),
    Variable("JUPYTER_RUNTIME_DIR", "{home}/runtime", "jupyter_core", "writes there"),
    Variable("JUPYTER_PREFER_ENV_PATH", "0", "jupyter_core", "the home's kernels go first"),
    Variable("JUPYTER_PLATFORM_DIRS", "1", "jupyter_core", "other folders"),
    Variable("JUPYTER_ALLOW_INSECURE_WRITES", "1", "jupyter_core", "a warning"),
    Variable("JUPYTERCACHE", "{home}/jupyter-cache", "jupyter_cache", "where executed notebooks are kept"),
    Variable("JUPYTERLAB_DIR", NEVER, "jupyterlab", "no application"),
    Variable("JUPYTERLAB_SETTINGS_DIR", "{home}/.jupyter/lab/user-settings", "jupyterlab", "other settings"),
    Variable("JUPYTERLAB_WORKSPACES_DIR", "{home}/.jupyter/lab/workspaces", "jupyterlab", "other workspaces"),
    Variable("JUPYTER_TOKEN", "nonsense", "jupyter_server", "another password"),
    Variable("JUPYTER_GATEWAY_URL", "http://127.0.0.1:1", "jupyter_server", "kernels of another machine"),
    Variable("KERNEL_LAUNCH_TIMEOUT", "0", "jupyter_server", "no kernel starts in time"),
    Variable("JPY_PARENT_PID", "1", "ipykernel", "whose end ends a kernel"),
    Variable("JPY_SESSION_NAME", NEVER, "ipykernel", "another notebook's name"),
    Variable("TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR", "1", "traitlets", "a faulty configuration is an error"),
    Variable("NBFORMAT_VALIDATOR", "nonsense", "nbformat", "no notebook is read"),
    Variable("NBCONVERT_DISABLE_CONFIG_EXPORTERS", "1", "nbconvert", "fewer formats"),
    Variable("PYZMQ_BACKEND", "nonsense", "pyzmq", "no kernel"),
    Variable("PYDEVD_USE_FRAME_EVAL", "YES", "debugpy", "slow kernels"),
    Variable("DEBUGPY_LOG_DIR", "{home}/debugpy", "debugpy", "writes there"),
    Variable("PAGER", "false", "ipython", "what shows long texts"),
    Variable("EDITOR", "false", "ipython, git", "what edits"),
    Variable("TQDM_DISABLE", "1", "tqdm", "no progress"),
    Variable("TQDM_NCOLS", "nonsense", "tqdm", "no import"),
    # Dask; DASK_SCHEDULER_ADDRESS is the one that README names
    Variable("DASK_CONFIG", "{home}/.config/dask", "dask", "other settings"),
    Variable("DASK_ROOT_CONFIG", "{home}/.config/dask", "dask", "other settings"),
    Variable("DASK_INTERNAL_INHERIT_CONFIG", "nonsense", "dask", "no import"),
    Variable("DASK_TEMPORARY_DIRECTORY", NEVER, "dask", "no worker starts"),
    Variable("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "0s", "distributed", "no worker is reached"),
    Variable("DASK_DISTRIBUTED__COMM__DEFAULT_SCHEME", "nonsense", "distributed", "no worker is reached"),
    Variable("DASK_DISTRIBUTED__COMM__COMPRESSION", "nonsense", "distributed", "no message is sent"),
    Variable("DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE", "0.01", "distributed", "workers are killed"),
    Variable("DASK_DISTRIBUTED__WORKER__PRELOAD", "{home}/preload.py", "distributed", "executed by workers"),
    Variable("DASK_DISTRIBUTED__SCHEDULER__PRELOAD", "{home}/preload.py", "distributed", "executed by the scheduler"),
    Variable("DASK_DISTRIBUTED__NANNY__PRELOAD", "{home}/preload.py", "distributed", "executed by nannies"),
    Variable("DASK_DISTRIBUTED__SCHEDULER__IDLE_TIMEOUT", "1s", "distributed", "the scheduler ends"),
    Variable("DISABLE_IPV6", "1", "distributed", "other addresses"),
    Variable("PROMETHEUS_MULTIPROC_DIR", NEVER, "prometheus_client", "no import"),
    Variable("FSSPEC_CONFIG_DIR", "{home}/.config/fsspec", "fsspec", "other file systems"),
    Variable("FSSPEC_FILE", "nonsense", "fsspec", "other file systems"),
    Variable("MSGPACK_PUREPYTHON", "1", "msgpack", "slow messages"),
    Variable("PSUTIL_DEBUG", "1", "psutil", "remarks"),
    # Sphinx and what it uses
    Variable("DOCUTILSCONFIG", "{home}/.docutils", "docutils", "other pages"),
    Variable("SPHINXOPTS", "-E --nonsense", "sphinx", "other options"),
    Variable("SPHINX_READONLY_TESTDIR", "1", "sphinx", "another folder"),
    Variable("READTHEDOCS", "True", "themes of Sphinx", "other pages"),
    Variable("LESS", "-nonsense", "click", "what shows long texts"),
    Variable("FORCE_COLOR", "1", "sphinx, pytest", "colours in output that is read by a program"),
    Variable("COLUMNS", "20", "pandas, click", "tables cut off"),
    Variable("LINES", "3", "pandas, click", "tables cut off"),
    Variable("PYPARSINGENABLEALLWARNINGS", "1", "pyparsing", "remarks"),
    Variable("NETRC", "{home}/.netrc", "requests", "other passwords"),
    Variable("SSLKEYLOGFILE", "{home}/keys", "urllib3", "writes keys there"),
    # Git and npm
    Variable("GIT_DIR", NEVER, "git", "another repository"),
    Variable("GIT_WORK_TREE", NEVER, "git", "another working tree"),
    Variable("GIT_INDEX_FILE", NEVER, "git", "another index"),
    Variable("GIT_CONFIG_GLOBAL", "{home}/.gitconfig", "git", "another configuration"),
    Variable("GIT_EXTERNAL_DIFF", "false", "git", "no differences"),
    Variable("NODE_OPTIONS", "--require=/nonexistent", "node", "no npm, no browser"),
    Variable("npm_config_json", "true", "npm", "other output"),
    Variable("npm_config_loglevel", "silly", "npm", "thousands of remarks"),
    # What tests use
    Variable("PYTEST_ADDOPTS", "--nonsense", "pytest", "no test runs"),
    Variable("PYTEST_PLUGINS", "nonsense", "pytest", "no test runs"),
    Variable("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1", "pytest", "no processes, no properties"),
    Variable("PYTEST_DEBUG_TEMPROOT", NEVER, "pytest", "no temporary folders"),
    Variable("PYTEST_XDIST_AUTO_NUM_WORKERS", "nonsense", "pytest-xdist", "no test runs"),
    Variable("HYPOTHESIS_STORAGE_DIRECTORY", "{home}/hypothesis", "hypothesis", "writes there"),
    Variable("HYPOTHESIS_NO_PLUGINS", "1", "hypothesis", "other strategies"),
    Variable("CI", "true", "hypothesis, matplotlib", "other examples"),
    Variable("PLAYWRIGHT_BROWSERS_PATH", NEVER, "playwright", "no browser"),
    Variable("PLAYWRIGHT_NODEJS_PATH", NEVER, "playwright", "no browser"),
    Variable("PWDEBUG", "1", "playwright", "a window that waits"),
    Variable("DEBUG", "*", "playwright", "thousands of remarks"),
    Variable("MYPYPATH", "{home}/modules", "mypy", "other types"),
    Variable("MYPY_CACHE_DIR", "{home}/mypy", "mypy", "writes there"),
    Variable("RUFF_CONFIG", "{home}/.config/ruff/ruff.toml", "ruff", "other rules"),
    Variable("RUFF_CACHE_DIR", "{home}/ruff", "ruff", "writes there"),
    Variable("SKIP", "ruff", "pre-commit", "no check before a commit"),
)

IPYTHON = """\
c = get_config()
c.InteractiveShell.ast_node_interactivity = "last_expr_or_assign"
c.InteractiveShell.cache_size = 3
c.InteractiveShell.colors = "nonsense"
c.InteractiveShellApp.exec_lines = ["import matplotlib; matplotlib.rcParams['font.size'] = 30", "raise ValueError"]
c.InteractiveShellApp.extensions = ["nonsense"]
c.InteractiveShellApp.matplotlib = "nonsense"
c.InlineBackend.figure_formats = {"jpeg"}
c.IPKernelApp.capture_fd_output = True
c.PlainTextFormatter.float_precision = "%.1f"
c.DisplayFormatter.active_types = ["text/plain"]
"""
START_UP = """\
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

plt.style.use("dark_background")
np.set_printoptions(precision=1)
np.random.seed(7)
pd.set_option("display.max_rows", 2, "display.precision", 1)
print("a start-up file was executed")
"""
JUPYTER = """\
c = get_config()
c.KernelManager.transport = "tcp"
c.KernelManager.kernel_cmd = ["false"]
c.KernelSpecManager.allowed_kernelspecs = {"nonsense"}
c.MultiKernelManager.default_kernel_name = "nonsense"
c.Session.key = b"nonsense"
c.ExecutePreprocessor.timeout = 1
c.NbConvertBase.display_data_priority = ["text/plain"]
c.ServerApp.ip = "nonsense"
raise ValueError("a file outside the project was executed")
"""
KERNEL = '{"argv": ["false", "{connection_file}"], "display_name": "nonsense", "language": "nonsense"}\n'
MATPLOTLIB = """\
backend: nonsense
text.usetex: True
font.family: nonsense
font.size: 30
axes.facecolor: black
axes.prop_cycle: cycler("color", ["red"])
savefig.dpi: 3
svg.fonttype: none
svg.hashsalt: nonsense
figure.figsize: 1, 1
path.simplify_threshold: 1
timezone: Pacific/Kiritimati
"""
DASK = """\
temporary-directory: /nonexistent
distributed:
  nanny: {pre-spawn-environ: {OMP_NUM_THREADS: 7, TF_ENABLE_ONEDNN_OPTS: 0}, preload: [/nonexistent]}
  scheduler: {allowed-failures: 0, idle-timeout: 1s, preload: [/nonexistent]}
  worker: {memory: {terminate: 0.01, pause: 0.01}, preload: [/nonexistent], use-file-locking: false}
  comm: {compression: nonsense, default-scheme: nonsense, require-encryption: true, timeouts: {connect: 0s}}
  dashboard: {link: "nonsense {nonsense}"}
"""
DOCUTILS = """\
[general]
halt_level: 1
report_level: 1
toc_backlinks: entry
strip_comments: yes
smart_quotes: alt
language_code: de
file_insertion_enabled: no
math_output: LaTeX
"""
KERAS = '{"floatx": "float64", "epsilon": 0.1, "backend": "jax", "image_data_format": "channels_first"}\n'
GIT = "[core]\nhooksPath = /nonexistent\nautocrlf = true\nquotePath = true\n[color]\nui = always\n"
FONTS = '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig><reset-dirs/></fontconfig>\n'
FONT_LIST = '{"_version": "3.11.0", "_FontManager__default_weight": "bold", "default_size": 30, "defaultFamily": '
FONT_LIST += '{"ttf": "nonsense", "afm": "nonsense"}, "afmlist": [], "ttflist": [], "__class__": "FontManager"}\n'

FILES = (
    # Python
    File("home", ".pythonrc.py", FAILS, "python", "executed before a prompt"),
    File("home", f".local/lib/{PYTHON}/site-packages/usercustomize.py", FAILS, "python", "executed at every start"),
    File(
        "home", f".local/lib/{PYTHON}/site-packages/nonsense.pth", f"import os; {FAILS}", "python", "executed at start"
    ),
    File("home", f".local/lib/{PYTHON}/site-packages/numpy.py", FAILS, "python", "another NumPy"),
    File("home", f"venv/lib/{PYTHON}/site-packages/matplotlib.py", FAILS, "ipython", "another Matplotlib"),
    File("home", "preload.py", FAILS, "distributed", "executed by Dask's processes"),
    File("home", "modules/numpy.py", FAILS, "python", "another NumPy"),
    File("home", "modules/IPython.py", FAILS, "python", "another IPython"),
    File("home", "modules/usercustomize.py", FAILS, "python", "executed at every start"),
    File("home", ".pydistutils.cfg", "[nonsense]\nnonsense = 1\n", "setuptools", "other settings"),
    # Jupyter, IPython
    File("home", ".ipython/profile_default/ipython_config.py", IPYTHON, "ipython", "every assignment is shown"),
    File("home", ".ipython/profile_default/ipython_kernel_config.py", IPYTHON, "ipykernel", "other pages"),
    File("home", ".ipython/profile_default/startup/00-style.py", START_UP, "ipython", "figures on black"),
    File("home", ".ipython/profile_default/startup/10-style.ipy", "%matplotlib qt\n", "ipython", "no figures"),
    File("config", "ipython/profile_default/ipython_config.py", IPYTHON, "ipython", "every assignment is shown"),
    File("/", "etc/ipython/ipython_config.py", IPYTHON, "ipython", "every assignment is shown"),
    File("/", "etc/ipython/ipython_kernel_config.py", IPYTHON, "ipykernel", "other pages"),
    File("/", "usr/local/etc/ipython/ipython_config.py", IPYTHON, "ipython", "every assignment is shown"),
    File("/", "etc/ipython/startup/00-style.py", START_UP, "ipython", "figures on black"),
    File("home", ".jupyter/jupyter_config.py", JUPYTER, "jupyter_core", "no kernel"),
    File(
        "home", ".jupyter/jupyter_config.json", '{"KernelManager": {"kernel_cmd": ["false"]}}\n', "jupyter", "no kernel"
    ),
    File("home", ".jupyter/jupyter_server_config.py", JUPYTER, "jupyter_server", "no server"),
    File("home", ".jupyter/jupyter_lab_config.py", JUPYTER, "jupyterlab", "no server"),
    File("home", ".jupyter/jupyter_nbconvert_config.py", JUPYTER, "nbconvert", "no outputs"),
    File("home", ".jupyter/custom/custom.css", "* { display: none }\n", "jupyterlab", "nothing is seen"),
    File("home", ".jupyter/lab/user-settings/overrides.json", "nonsense", "jupyterlab", "no settings"),
    File("home", ".local/share/jupyter/kernels/python3/kernel.json", KERNEL, "jupyter_client", "another kernel"),
    File("home", ".local/share/jupyter/nbconvert/templates/classic/conf.json", "nonsense", "nbconvert", "no pages"),
    File("data", "jupyter/kernels/python3/kernel.json", KERNEL, "jupyter_client", "another kernel"),
    File("config", "jupyter/jupyter_config.py", JUPYTER, "jupyter_core", "no kernel"),
    File("/", "etc/jupyter/jupyter_config.py", JUPYTER, "jupyter_core", "no kernel"),
    File("/", "usr/local/etc/jupyter/jupyter_config.py", JUPYTER, "jupyter_core", "no kernel"),
    File("/", "usr/share/jupyter/kernels/python3/kernel.json", KERNEL, "jupyter_client", "another kernel"),
    File("/", "usr/local/share/jupyter/kernels/python3/kernel.json", KERNEL, "jupyter_client", "another kernel"),
    # Figures
    File("config", "matplotlib/matplotlibrc", MATPLOTLIB, "matplotlib", "another style"),
    File("config", "matplotlib/stylelib/default.mplstyle", MATPLOTLIB, "matplotlib", "another style"),
    File("cache", "matplotlib/fontlist-v3.11.0.json", FONT_LIST, "matplotlib", "no fonts"),
    File("home", ".matplotlib/matplotlibrc", MATPLOTLIB, "matplotlib", "another style, on macOS"),
    File("home", "mpl/matplotlibrc", MATPLOTLIB, "matplotlib", "another style"),
    File("home", "mpl/fonts.conf", FONTS, "fontconfig", "no fonts"),
    File("home", "mpl/fontlist-v3.11.0.json", FONT_LIST, "matplotlib", "no fonts"),
    File("home", ".fonts/DejaVuSans.ttf", "nonsense", "matplotlib, fontconfig", "a font that is none"),
    File("config", "fontconfig/fonts.conf", FONTS, "fontconfig", "no fonts"),
    File("data", "fonts/DejaVuSans.ttf", "nonsense", "matplotlib, fontconfig", "a font that is none"),
    File("home", ".bokeh/bokeh.yaml", "log_level: nonsense\nresources: nonsense\n", "bokeh", "no dashboard"),
    # TensorFlow, Keras
    File("home", ".keras/keras.json", KERAS, "keras, tf_keras", "another precision and order of axes"),
    File("home", ".keras/datasets/mnist.npz", "nonsense", "keras", "another MNIST"),
    # Dask
    File("home", ".config/dask/nonsense.yaml", DASK, "dask", "no worker lives"),
    File("/", "etc/dask/nonsense.yaml", DASK, "dask", "no worker lives"),
    File("home", ".config/fsspec/conf.json", '{"file": {"nonsense": 1}}\n', "fsspec", "other file systems"),
    # Sphinx and what it uses
    File("home", ".docutils", DOCUTILS, "docutils", "other pages"),
    File("/", "etc/docutils.conf", DOCUTILS, "docutils", "other pages"),
    File("home", ".netrc", "nonsense\n", "requests", "other passwords"),
    # Git and npm: what does not forbid the fetch
    File("home", ".gitconfig", GIT, "git", "other output"),
    File("config", "git/config", GIT, "git", "other output"),
    File("config", "git/ignore", "*\n", "git", "ignores every file"),
    File("home", ".npmrc", "json=true\nloglevel=silly\ncolor=always\nunicode=false\n", "npm", "other output"),
    # What tests use
    File("home", ".mypy.ini", "[mypy]\nignore_errors = True\n", "mypy", "no error is found"),
    File("config", "mypy/config", "[mypy]\nignore_errors = True\n", "mypy", "no error is found"),
    File("config", "ruff/ruff.toml", "line-length = 40\n", "ruff", "other rules"),
)


class Home:
    """A home full of `FILES`, with XDG folders at their usual places and again at others, and a system's folders.

    Args:
        folder: what to make it in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.system = folder / "home", folder / "system"
        for file in FILES:
            for path in self._places(file):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(file.content, "utf-8")
                os.utime(path, (0, path.stat().st_mtime))  # a file system notes the first access since, if not all
        self._names = self._listed()

    def _places(self, file: File) -> list[Path]:
        if file.place == "/":
            return [self.system / file.path]
        if file.place == "home":
            return [self.folder / file.path]
        return [self.folder / folder / file.path for folder in (f"xdg/{file.place}", XDG[file.place])]

    def environment(self) -> dict[str, str]:
        """`VARIABLES`, with this home."""
        folders = {f"XDG_{name.upper()}_HOME": str(self.folder / "xdg" / name) for name in XDG}
        values = {variable.name: variable.value.format(home=self.folder) for variable in VARIABLES}
        return {"HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self.folder / "xdg" / "runtime"), **folders, **values}

    def _listed(self) -> set[str]:
        return {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")}

    def read(self) -> set[str]:
        """The files that were read since they were written, where the file system notes that."""
        return {name for name in self._names if (path := self.folder / name).is_file() and path.stat().st_atime != 0}

    def written(self) -> set[str]:
        """What is there now and was not, or was and is not."""
        return self._listed() ^ self._names
