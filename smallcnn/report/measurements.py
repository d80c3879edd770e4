"""The generated parts of the pages on computing, from recorded measurements and recorded runs.

Their rows are what was recorded, whatever chapters there are today: a benchmark names its approaches, and
`engines.json` and `sweep.json` name the runs in `runs/` that a page shows. To record those two anew, after changes to
the published networks or to an engine's recipe:

    python -m smallcnn.report.measurements record-engines
    python -m smallcnn.report.measurements record-sweep
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smallcnn import commands, paths
from smallcnn.commands import CommandError, say
from smallcnn.config import ENGINES, Report, TrainingConfig, TrainingRun
from smallcnn.files import write_json
from smallcnn.report.tables import difference, difference_table, percent, spread, table, to_markdown
from smallcnn.report.uncertainty import paired_difference
from smallcnn.runs.records import DamagedRun, load_run
from smallcnn.study import APPROACHES

EPOCHS = 40
EXAMPLE = "approach 2"  # the network of figures that show one network; stand-ins take after its first run
SWEEP = ("approach_2", "learning_rate=0.001,0.003,0.01,0.03 seeds=0..4", "epochs=10 engine=halide")
MANY_RUNS = 10_000
COMPARED_SEEDS = [0, 1, 2]  # of both engines
# Of earlier versions of the Halide engine, which kept the first block's maps.
EARLIER_BENCHMARKS = ("benchmark_epyc_avx2.json", "benchmark_xeon_avx512.json")
BY_APPROACH = ("seconds_per_epoch", "operations_per_epoch", "ratios", "halide")  # parts of a benchmark
WAY_NAMES = {
    "article": "the article's way, all cores",
    "tensorflow_one_core": "TensorFlow, one core",
    "torch_one_core": "PyTorch, one core",
    "torch_all_cores": "PyTorch, all cores",
    "halide_one_core": "Halide, one core",
    "halide_all_cores": "Halide, all cores, one run",
    "pool_all_cores": "Halide, all cores, a run on each",
    "ceiling_one_core": "the arithmetic alone, one core",
}
RATIO_NAMES = {
    "tensorflow_over_halide_one_core": "Halide against TensorFlow, one core each",
    "torch_over_halide_one_core": "Halide against PyTorch, one core each",
    "halide_one_core_over_all_cores": "Halide on all cores against one, a single run",
    "article_over_halide_all_cores": "Halide on all cores, a single run, against the article's way",
    "article_over_pool": "a Halide run on each core against the article's way",
}
MAIN_RATIOS = {
    "TensorFlow": "tensorflow_over_halide_one_core",
    "PyTorch": "torch_over_halide_one_core",
    "a second core": "halide_one_core_over_all_cores",
    "the article's way": "article_over_pool",
}


def measured_parts() -> dict[str, bytes]:
    """Makes the generated parts of the pages on computing, by file name.

    Raises:
        CommandError: if a recorded run that a page shows is missing or damaged.
    """
    from smallcnn.report import figures  # here: matplotlib takes a second

    benchmark = read_benchmark("benchmark.json")
    runs = runs_of_both_engines()
    pairs = {
        label: {engine: [run.best_test_accuracy for run in trained] for engine, trained in by_engine.items()}
        for label, by_engine in runs.items()
    }
    parts: dict[str, str | bytes] = {
        "engines.md": engines_table(pairs),
        "engines.svg": figures.paired_accuracies(pairs).to_svg(),
        "engines_provenance.md": provenance_summary(
            run for by_engine in runs.values() for trained in by_engine.values() for run in trained
        ),
        "machine.md": machine_sentence(benchmark),
        "ways.md": ways_table(benchmark),
        "ratios.md": ratios_table(benchmark),
        "halide.md": halide_table(benchmark),
        "pool.md": pool_table(benchmark),
        "earlier_machines.md": machines_table(map(read_benchmark, EARLIER_BENCHMARKS)),
        "ways.svg": figures.seconds_of_ways(benchmark["seconds_per_epoch"], WAY_NAMES).to_svg(),
        "stages.svg": figures.seconds_of_stages(*stages(benchmark, EXAMPLE)).to_svg(),
        "lanes.svg": figures.lanes().to_svg(),
        "faults.md": table(("fault", "what happened"), read_measurement("faults.json")["outcomes"].items(), left=2),
        **sweep_parts(),
        **scaling_parts(read_measurement("scaling.json"), benchmark),
    }
    return {name: part.encode() if isinstance(part, str) else part for name, part in parts.items()}


def read_measurement(name: str) -> dict[str, Any]:
    """What a file in `measurements/` holds."""
    content: dict[str, Any] = json.loads((paths.MEASUREMENTS / name).read_text(encoding="utf-8"))
    return content


def read_benchmark(name: str) -> dict[str, Any]:
    """A recorded benchmark, its parts by the labels of the networks instead of their chapters.

    The first ones name chapters only, whose labels have a space for the underscore.
    """
    benchmark = read_measurement(name)
    labels = benchmark.get("labels", {})
    return benchmark | {
        part: {labels.get(chapter) or chapter.replace("_", " "): value for chapter, value in benchmark[part].items()}
        for part in BY_APPROACH
    }


# --- Recorded runs that pages show ---


def recorded_run(key: str) -> TrainingRun:
    """The project's record of a run, which a page shows and nothing trains again.

    It is that in `runs/`, also in a preview or a book that was trained afresh.

    Raises:
        CommandError: if it is missing or damaged.
    """
    folder = paths.PUBLISHED_RUNS / key
    if not folder.exists():
        raise CommandError(f"runs/{key} is missing; a page shows it: git checkout runs brings it back")
    try:
        return load_run(folder)
    except DamagedRun as error:
        raise CommandError(f"{error}; a page shows it: git checkout runs/{key} brings it back") from error


def runs_of_both_engines() -> dict[str, dict[str, list[TrainingRun]]]:
    """The recorded runs that `engines.json` names, by label and engine, in the order of its seeds."""
    return {
        label: {engine: list(map(recorded_run, keys)) for engine, keys in by_engine.items()}
        for label, by_engine in read_measurement("engines.json")["runs"].items()
    }


def example_key() -> str:
    """The key of the recorded run that the scaling's stand-ins take after: the Halide engine's, with the first seed."""
    return str(read_measurement("engines.json")["runs"][EXAMPLE]["halide"][0])


def record_engines(chapters: Sequence[str] | None = None, report: Report = say) -> Path:
    """Writes `engines.json`, and trains into `runs/` what is missing there of the runs that it names.

    Args:
        chapters: those whose networks the page compares; by default all approaches.
        report: called with lines of text.

    Raises:
        CommandError: if a chapter types no network that can be compared.
    """
    from smallcnn.report.chapter import training_configs
    from smallcnn.report.notebook import read_network
    from smallcnn.report.parameters import published_values

    labels = {approach.name: approach.label for approach in APPROACHES}
    configs: dict[str, dict[str, list[TrainingConfig]]] = {}
    for chapter in chapters or labels:
        values = published_values(chapter) | {"seeds": COMPARED_SEEDS}
        if chapter not in labels or (architecture := read_network(chapter, values)) is None:
            raise CommandError(f"{chapter} types no network that can be compared")
        configs[labels[chapter]] = {
            engine: training_configs(architecture, values | {"engine": engine}) for engine in ENGINES
        }
    keys = {label: {engine: _keys(each) for engine, each in both.items()} for label, both in configs.items()}
    trained = [config for both in configs.values() for each in both.values() for config in each]
    return _record("engines.json", {"seeds": COMPARED_SEEDS, "runs": keys}, trained, report)


def record_sweep(chapter: str = SWEEP[0], grid: str = SWEEP[1], changes: str = SWEEP[2], report: Report = say) -> Path:
    """Writes `sweep.json`, and trains into `runs/` what is missing there of the sweep's runs."""
    from smallcnn.report.sweeps import parse_sweep

    sweep = parse_sweep(chapter, grid, changes)
    points = [{"values": list(point), "runs": _keys(configs)} for point, configs in sweep.configs.items()]
    content = {"chapter": chapter, "changes": sweep.changes, "axes": list(sweep.axes), "points": points}
    return _record("sweep.json", content, sweep.runs, report)


def _keys(configs: Iterable[TrainingConfig]) -> list[str]:
    return [config.key for config in configs]


def _record(name: str, content: dict[str, Any], configs: Sequence[TrainingConfig], report: Report) -> Path:
    """Sees to it that the runs are in `runs/`, then writes the measurement that names them."""
    from smallcnn.runs.records import get_runs, is_recorded

    with paths.changed_environment({"SMALLCNN_RUNS": str(paths.PUBLISHED_RUNS)}):
        report(f"{len(configs)} runs, {sum(map(is_recorded, configs))} of them in runs/")
        get_runs(configs, report)
    path = paths.MEASUREMENTS / name
    write_json(path, content)
    return path


# --- Parts of pages ---


def provenance_summary(runs: Iterable[TrainingRun]) -> str:
    """What made many runs: how many are of each engine and machine."""
    import pandas as pd

    made = pd.DataFrame(
        [(run.config.engine, "{processor}, {system}".format(**run.provenance), run.provenance["date"]) for run in runs],
        columns=["engine", "machine", "trained"],
    )
    made["trained"] = made["trained"].str[:10]
    by_machine = made.groupby(["engine", "machine"])["trained"]
    days = by_machine.agg(lambda each: " to ".join(sorted({min(each), max(each)})))
    return to_markdown(pd.DataFrame({"runs": by_machine.count(), "trained": days}).reset_index())


def engines_table(pairs: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Both engines' accuracies (0 to 1), and the differences of the runs with the same seed."""
    rows = []
    for label, accuracies in pairs.items():
        halide, tensorflow = accuracies["halide"], accuracies["tensorflow"]
        mean, half_width = paired_difference(halide, tensorflow)
        told_apart = "too few seeds" if len(halide) < 2 else "yes" if abs(mean) > half_width else "no"
        cells = (spread(halide), spread(tensorflow), difference(halide, tensorflow), told_apart)
        rows.append((label, len(halide), *cells))
    header = ("network", "seeds", "Halide", "TensorFlow", "difference in points, 95 % interval", "told apart")
    return table(header, rows)


def machine_sentence(benchmark: dict[str, Any]) -> str:
    """Where and how the recorded benchmark was made."""
    machine, protocol = benchmark["machine"], benchmark["protocol"]
    return (
        f"Measured on {machine['date'][:10]}: {machine['processor']}, {machine['cores']} cores, {machine['system']}, "
        f"`{machine['instructions']}`; Halide {machine['halide']}, TensorFlow {machine['tensorflow']}"
        + (f", PyTorch {machine['torch']}" if "torch" in machine else "")
        + f"; batches of {protocol['batch_size']}. All ways took turns over {protocol['rounds']} rounds, each with "
        f"{100 * protocol['share_of_an_epoch']:.0f} % of an epoch and of its test pass at a time, the article's way "
        "with all of it.\n"
    )


def _by_network(head: str, measured: Mapping[str, Any], rows: Mapping[str, Callable[[Any], str]]) -> str:
    """A table with a column for each network, of which every row shows something; a row of dashes is left out."""
    shown = [(name, *map(show, measured.values())) for name, show in rows.items()]
    return table((head, *measured), [row for row in shown if set(row[1:]) != {"–"}])


def ways_table(benchmark: dict[str, Any]) -> str:
    """Seconds an epoch for every way and approach."""
    ways = {name: _cell(way, _range) for way, name in WAY_NAMES.items()}
    return _by_network("seconds an epoch", benchmark["seconds_per_epoch"], ways)


def _range(seconds: Mapping[str, float]) -> str:
    digits = 1 if seconds["median"] >= 3 else 2
    middle, low, high = (f"{seconds[name]:.{digits}f}" for name in ("median", "minimum", "maximum"))
    return f"{middle} ({low}–{high})"


def ratios_table(benchmark: dict[str, Any]) -> str:
    """What is how many times faster than what, from the medians."""
    rows = {name: _cell(ratio, "{:.1f}×".format) for ratio, name in RATIO_NAMES.items()}
    share = _cell("halide_over_ceiling_one_core", lambda ratio: f"{100 / ratio:.0f} %")
    return _by_network(
        "times faster", benchmark["ratios"], rows | {"share of the core's highest rate of arithmetic": share}
    )


def _cell(name: str, show: Callable[[Any], str]) -> Callable[[Mapping[str, Any]], str]:
    """What shows one measured value, and a dash where that is missing."""
    return lambda measured: show(measured[name]) if name in measured else "–"


def machines_table(benchmarks: Iterable[dict[str, Any]]) -> str:
    """The main ratios of several benchmarks, machine by machine."""
    rows = []
    for benchmark in benchmarks:
        machine = benchmark["machine"]
        name = f"{machine['processor']}, {'AVX-512' if 'avx512' in machine['instructions'] else 'AVX2'}"
        for label, measured in benchmark["ratios"].items():
            cells = (_cell(ratio, "{:.1f}×".format)(measured) for ratio in MAIN_RATIOS.values())
            rows.append((name, label.replace(" ", "\u00a0"), *cells))
    return table(("machine", "network", *MAIN_RATIOS), rows, left=2)


def halide_table(benchmark: dict[str, Any]) -> str:
    """Set-up, memory and the loop of the fast engine."""
    rows = {
        "set-up: compiling the stages, seconds": _cell("set_up_seconds", "{:.1f}".format),
        "one step, milliseconds": _cell("step_seconds", lambda seconds: f"{1000 * seconds:.1f}"),
        "test pass, seconds": _cell("test_pass_seconds", "{:.2f}".format),
        "an epoch against its steps and test pass": _cell("epoch_over_steps", "{:.2f}".format),
        "peak memory of the process, MB": _cell("peak_memory_bytes", lambda size: f"{size / 1e6:.0f}"),
    }
    return _by_network("one core", benchmark["halide"], rows)


def pool_table(benchmark: dict[str, Any]) -> str:
    """What a pool on all cores keeps of the sum of its cores."""
    cores = benchmark["machine"]["cores"]
    rates = [_pool_rates(benchmark, label) for label in benchmark["halide"]]
    rows = [
        ("1 worker", *(f"{alone:.0f}" for alone, _ in rates)),
        (f"{cores} workers", *(f"{together:.0f}" for _, together in rates)),
        ("share of the sum of the cores", *(f"{100 * together / (cores * alone):.0f} %" for alone, together in rates)),
    ]
    return table((f"runs of {EPOCHS} epochs an hour", *benchmark["halide"]), rows)


def _pool_rates(benchmark: dict[str, Any], label: str) -> list[float]:
    """Runs an hour of one core, and of runs on every core at the same time."""
    seconds = benchmark["seconds_per_epoch"][label]
    return [3600 / (EPOCHS * seconds[way]["median"]) for way in ("halide_one_core", "pool_all_cores")]


def stages(benchmark: dict[str, Any], label: str) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds a step of each stage, and those that its arithmetic alone would take at the core's highest rate."""
    epoch = benchmark["seconds_per_epoch"][label]["ceiling_one_core"]["median"]
    milliseconds_each = 1000 * epoch / benchmark["operations_per_epoch"][label]
    measured = benchmark["halide"][label]["stages"].items()
    arithmetic = {name: stage["operations"] * milliseconds_each for name, stage in measured if "operations" in stage}
    return {name: 1000 * stage["seconds"] for name, stage in measured}, arithmetic


def sweep_parts() -> dict[str, str | bytes]:
    """The tables and the figure of the recorded sweep."""
    from smallcnn.report import figures, sweeps

    recorded = read_measurement("sweep.json")
    runs = [(point["values"], recorded_run(key)) for point in recorded["points"] for key in point["runs"]]
    frame = sweeps.sweep_frame(recorded["axes"], runs)
    trained = [run for _, run in runs]
    accuracies = sweeps.accuracies_by_point(frame)
    axes = " ".join(recorded["axes"]).replace("_", " ")
    named = {f"{axes} {' '.join(point)}": values for point, values in accuracies.items()}
    best = max(named, key=lambda name: sum(named[name]))
    others = ((best, name, named[best], values) for name, values in named.items() if name != best)
    return {
        "sweep_provenance.md": provenance_summary(trained),
        "sweep.md": sweeps.sweep_table(frame, sweeps.caution_of(trained)),
        "sweep_differences.md": difference_table(others),
        "sweep.svg": figures.sweep_points(recorded["axes"], accuracies).to_svg(),
    }


def scaling_parts(scaling: dict[str, Any], benchmark: dict[str, Any]) -> dict[str, str | bytes]:
    """Runs an hour against workers, and what many runs would need."""
    from smallcnn.report import figures

    run, instant, machine = scaling["run"], scaling["instant"], scaling["machine"]
    a_second, run_seconds = instant["runs_per_second"], run["seconds"]
    rates = {row["workers"]: row["runs_per_hour"] for row in scaling["stand_ins"]}
    form = "{workers:,} {runs} {seconds:.1f} {runs_per_hour:,.0f}"
    rows = [(*form.format(**row).split(), percent(row["share"], 1)) for row in scaling["stand_ins"]]
    alone, together = _pool_rates(benchmark, EXAMPLE)
    real = {1: alone, benchmark["machine"]["cores"]: together}
    return {
        "scaling.md": table(("workers", "runs", "seconds", "runs an hour", "share of the ideal"), rows, left=0),
        # The run is named by its network and seed, since its key may have changed since then.
        "scaling_machine.md": (
            f"Measured on {machine['date'][:10]}: {machine['processor']}, {machine['system']}. Every stand-in sleeps "
            f"{run_seconds:.0f} seconds, as long as the recorded run of {run.get('label', EXAMPLE)} with seed "
            f"{run.get('seed', 0)} took, and reports {run['epochs']} epochs.\n"
        ),
        "many_runs.md": many_runs_table(scaling),
        "scheduler.md": (
            f"Runs that take no time at all, {instant['runs']:,} of them on {instant['workers']} workers, pass at "
            f"{a_second:.0f} a second, their records written. With runs of {run_seconds:.0f} seconds "
            "the scheduler, or the command that writes the records, is the limit at "
            f"{float(f'{a_second * run_seconds:.1e}'):,.0f} workers at the latest; the progress of their "
            "epochs, which these runs do not report, and memory for their connections may be one long before.\n"
        ),
        "scaling.svg": figures.runs_an_hour(rates, real, 3600 / run_seconds, 3600 * a_second, EXAMPLE).to_svg(),
    }


def many_runs_table(scaling: dict[str, Any]) -> str:
    """What a sweep of `MANY_RUNS` runs would need."""
    rows = []
    for row in scaling["stand_ins"]:
        hours = MANY_RUNS / row["runs_per_hour"]
        duration = f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} hours"
        rows.append((f"{row['workers']:,} {'worker' if row['workers'] == 1 else 'workers'}", duration))
    bytes_each = {
        "disk for the records": scaling["run"]["record_bytes"],
        "memory of the command": scaling["instant"]["memory_bytes"],
    }
    rows += [(name, f"{MANY_RUNS * size / 1e9:.1f} GB") for name, size in bytes_each.items()]
    return table((f"{MANY_RUNS:,} runs like this one", "need"), rows)


def main() -> None:
    """Records anew which runs a page shows; the names of chapters may follow `record-engines`."""
    match sys.argv[1:]:
        case ["record-engines", *chapters]:
            say(str(record_engines(chapters)))
        case ["record-sweep"]:
            say(str(record_sweep()))
        case _:
            raise CommandError("expected record-engines, with the names of chapters if not of all, or record-sweep")


if __name__ == "__main__":
    sys.exit(commands.run(main))
