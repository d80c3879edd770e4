"""The generated parts of the pages on computing, from recorded measurements and recorded runs.

Their rows are what was recorded, whatever chapters there are today: a benchmark names its approaches, and
`engines.json` and `sweep.json` name the runs in `runs/` that a page shows. To record those two anew, after changes to
the published networks or to an engine's recipe:

    python -m smallcnn.report.measurements record-engines
    python -m smallcnn.report.measurements record-sweep
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallcnn import commands, paths
from smallcnn.commands import CommandError, say
from smallcnn.config import ENGINES, Report, TrainingConfig, TrainingRun
from smallcnn.files import write_json
from smallcnn.report.tables import difference, difference_table, spread, table
from smallcnn.report.uncertainty import paired_difference
from smallcnn.runs.records import DamagedRun, load_run
from smallcnn.study import APPROACHES

if TYPE_CHECKING:
    import pandas as pd

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


def measured_parts() -> dict[str, bytes]:
    """Makes the generated parts of the pages on computing, by file name.

    Raises:
        CommandError: if a recorded run that a page shows is missing or damaged.
    """
    from smallcnn.report import figures  # here: matplotlib takes a second

    benchmark = read_benchmark("benchmark.json")
    runs = runs_of_both_engines()
    pairs = {label: accuracies_by_seed(by_engine) for label, by_engine in runs.items()}
    return {
        "engines.md": engines_table(pairs).encode(),
        "engines.svg": figures.paired_accuracies(pairs).to_svg(),
        "engines_provenance.md": provenance_summary(
            run for by_engine in runs.values() for trained in by_engine.values() for run in trained
        ).encode(),
        **benchmark_parts(benchmark),
        "earlier_machines.md": machines_table(map(read_benchmark, EARLIER_BENCHMARKS)).encode(),
        "ways.svg": figures.seconds_of_ways(benchmark["seconds_per_epoch"], WAY_NAMES).to_svg(),
        "stages.svg": figures.seconds_of_stages(*stages(benchmark, EXAMPLE)).to_svg(),
        "lanes.svg": figures.lanes().to_svg(),
        "faults.md": faults_table(read_measurement("faults.json")).encode(),
        **sweep_parts(),
        **scaling_parts(read_measurement("scaling.json"), benchmark),
    }


def read_measurement(name: str) -> dict[str, Any]:
    """What a file in `measurements/` holds."""
    return json.loads((paths.MEASUREMENTS / name).read_text(encoding="utf-8"))


def read_benchmark(name: str) -> dict[str, Any]:
    """A recorded benchmark, its parts by the labels of the networks instead of their chapters.

    The first ones name chapters only, whose labels have a space for the underscore.
    """
    benchmark = read_measurement(name)
    labels = benchmark.get("labels", {})
    parts = {
        part: {labels.get(chapter) or chapter.replace("_", " "): value for chapter, value in benchmark[part].items()}
        for part in BY_APPROACH
    }
    return benchmark | parts


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
    return read_measurement("engines.json")["runs"][EXAMPLE]["halide"][0]


def engines_record(runs: Mapping[str, Iterable[TrainingRun]]) -> dict[str, Any]:
    """What `engines.json` says of runs: their keys by label and engine, one for each of the seeds.

    Args:
        runs: by the label of the network, those of both engines in any order.

    Raises:
        ValueError: if some are not the same but for engine and seed, or a seed is not there for every one.
    """
    keys: dict[str, dict[str, list[str]]] = {}
    seeds: set[tuple[int, ...]] = set()
    for label, trained in runs.items():
        ordered = sorted(trained, key=lambda run: run.config.seed)
        if len({dataclasses.replace(run.config, engine=ENGINES[0], seed=0) for run in ordered}) != 1:
            raise ValueError(f"the runs of {label} differ in more than engine and seed")
        keys[label] = {}
        for engine in ENGINES:
            chosen = [run for run in ordered if run.config.engine == engine]
            keys[label][engine] = [run.config.key for run in chosen]
            seeds.add(tuple(run.config.seed for run in chosen))
    if len(seeds) != 1 or () in seeds:
        raise ValueError(f"the runs have different seeds: {', '.join(map(str, sorted(seeds)))}")
    return {"seeds": list(seeds.pop()), "runs": keys}


def sweep_record(
    chapter: str,
    axes: Sequence[str],
    changes: Mapping[str, Any],
    points: Iterable[tuple[Sequence[Any], Iterable[TrainingRun]]],
) -> dict[str, Any]:
    """What `sweep.json` says of a sweep: its axes, and at each point a value for each of them and the keys of runs."""
    listed = [{"values": list(values), "runs": [run.config.key for run in trained]} for values, trained in points]
    return {"chapter": chapter, "changes": dict(changes), "axes": list(axes), "points": listed}


def record_engines(chapters: Sequence[str] | None = None, report: Report = say) -> Path:
    """Writes `engines.json` from the published runs of `chapters`, and trains into `runs/` what is missing there.

    Args:
        chapters: those whose networks the page compares; by default all approaches.
        report: called with lines of text.

    Returns:
        The file.
    """
    from smallcnn.report.chapter import training_configs
    from smallcnn.report.notebook import read_network
    from smallcnn.report.parameters import published_values

    labels = {approach.name: approach.label for approach in APPROACHES}
    configs = {}
    for chapter in chapters or labels:
        values = published_values(chapter) | {"seeds": COMPARED_SEEDS}
        if chapter not in labels or (architecture := read_network(chapter, values)) is None:
            raise CommandError(f"{chapter} types no network that can be compared")
        both = (training_configs(architecture, values | {"engine": engine}) for engine in ENGINES)
        configs[labels[chapter]] = [config for of_engine in both for config in of_engine]
    runs = _published_runs([config for of_label in configs.values() for config in of_label], report)
    content = engines_record({label: [runs[config.key] for config in of_label] for label, of_label in configs.items()})
    return _write("engines.json", content)


def record_sweep(chapter: str = SWEEP[0], grid: str = SWEEP[1], changes: str = SWEEP[2], report: Report = say) -> Path:
    """Writes `sweep.json` from the published runs of a sweep, and trains into `runs/` what is missing there.

    Returns:
        The file.
    """
    from smallcnn.report.sweeps import parse_sweep

    sweep = parse_sweep(chapter, grid, changes)
    runs = _published_runs(sweep.runs, report)
    points = ((point, [runs[config.key] for config in configs]) for point, configs in sweep.points)
    return _write("sweep.json", sweep_record(chapter, list(sweep.axes), sweep.changes, points))


def _published_runs(configs: Sequence[TrainingConfig], report: Report) -> dict[str, TrainingRun]:
    from smallcnn.runs.records import get_runs, is_recorded

    with paths.changed_environment({"SMALLCNN_RUNS": str(paths.PUBLISHED_RUNS)}):
        report(f"{len(configs)} runs, {sum(map(is_recorded, configs))} of them in runs/")
        return {run.config.key: run for run in get_runs(configs, report)}


def _write(name: str, content: dict[str, Any]) -> Path:
    write_json(paths.MEASUREMENTS / name, content)
    return paths.MEASUREMENTS / name


# --- Parts of pages ---


def provenance_summary(runs: Iterable[TrainingRun]) -> str:
    """What made many runs: how many are of each engine and machine."""
    made: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        machine = f"{run.provenance['processor']}, {run.provenance['system']}"
        made.setdefault((run.config.engine, machine), []).append(run.provenance["date"][:10])
    rows = []
    for (engine, machine), dates in sorted(made.items()):
        first, last = min(dates), max(dates)
        rows.append((engine, machine, len(dates), first if first == last else f"{first} to {last}"))
    return table(("engine", "machine", "runs", "trained"), rows, left=2)


def benchmark_parts(benchmark: dict[str, Any]) -> dict[str, bytes]:
    """The tables of one recorded benchmark, by file name."""
    return {
        "machine.md": machine_sentence(benchmark).encode(),
        "ways.md": ways_table(benchmark).encode(),
        "ratios.md": ratios_table(benchmark).encode(),
        "halide.md": halide_table(benchmark).encode(),
        "pool.md": pool_table(benchmark).encode(),
    }


def machines_table(benchmarks: Iterable[dict[str, Any]]) -> str:
    """The main ratios of several benchmarks, machine by machine."""
    ratios = (
        "tensorflow_over_halide_one_core",
        "torch_over_halide_one_core",
        "halide_one_core_over_all_cores",
        "article_over_pool",
    )
    rows = []
    for benchmark in benchmarks:
        machine = benchmark["machine"]
        vectors = "AVX-512" if "avx512" in machine["instructions"] else "AVX2"
        for label, measured in benchmark["ratios"].items():
            name = f"{machine['processor']}, {vectors}"
            rows.append((name, label.replace(" ", "\u00a0"), *(_times(measured.get(ratio)) for ratio in ratios)))
    header = ("machine", "network", "TensorFlow", "PyTorch", "a second core", "the article's way")
    return table(header, rows, left=2)


def accuracies_by_seed(runs: Mapping[str, Sequence[TrainingRun]]) -> dict[str, list[float]]:
    """The best test accuracies (0 to 1) of each engine, seed by seed."""
    return {engine: [run.best_test_accuracy for run in trained] for engine, trained in runs.items()}


def engines_table(pairs: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Both engines' accuracies, and the differences of the runs with the same seed."""
    rows = []
    for label, accuracies in pairs.items():
        halide, tensorflow = accuracies["halide"], accuracies["tensorflow"]
        mean, half_width = paired_difference(halide, tensorflow)
        told_apart = "too few seeds" if len(halide) < 2 else "yes" if abs(mean) > half_width else "no"
        rows.append(
            (label, len(halide), spread(halide), spread(tensorflow), difference(halide, tensorflow), told_apart)
        )
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


def ways_table(benchmark: dict[str, Any]) -> str:
    """Seconds an epoch for every way and approach."""
    by_label = benchmark["seconds_per_epoch"]
    rows = [
        (name, *(_range(measured.get(way)) for measured in by_label.values()))
        for way, name in WAY_NAMES.items()
        if any(way in measured for measured in by_label.values())
    ]
    return table(("seconds an epoch", *by_label), rows)


def _range(seconds: dict[str, float] | None) -> str:
    if seconds is None:
        return "–"
    digits = 1 if seconds["median"] >= 3 else 2
    middle, low, high = (f"{seconds[name]:.{digits}f}" for name in ("median", "minimum", "maximum"))
    return f"{middle} ({low}–{high})"


def ratios_table(benchmark: dict[str, Any]) -> str:
    """What is how many times faster than what, from the medians."""
    names = {
        "tensorflow_over_halide_one_core": "Halide against TensorFlow, one core each",
        "torch_over_halide_one_core": "Halide against PyTorch, one core each",
        "halide_one_core_over_all_cores": "Halide on all cores against one, a single run",
        "article_over_halide_all_cores": "Halide on all cores, a single run, against the article's way",
        "article_over_pool": "a Halide run on each core against the article's way",
    }
    ratios = benchmark["ratios"]
    rows = [
        (name, *(_times(measured.get(ratio)) for measured in ratios.values()))
        for ratio, name in names.items()
        if any(ratio in measured for measured in ratios.values())
    ]
    of_ceiling = [measured.get("halide_over_ceiling_one_core") for measured in ratios.values()]
    shares = ("–" if ratio is None else f"{100 / ratio:.0f} %" for ratio in of_ceiling)
    rows.append(("share of the core's highest rate of arithmetic", *shares))
    return table(("times faster", *ratios), rows)


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.1f}×"


def halide_table(benchmark: dict[str, Any]) -> str:
    """Set-up, memory and the loop of the fast engine."""
    details = benchmark["halide"].values()
    rows = [
        ("set-up: compiling the stages, seconds", *(f"{measured['set_up_seconds']:.1f}" for measured in details)),
        ("one step, milliseconds", *(f"{1000 * measured['step_seconds']:.1f}" for measured in details)),
        ("test pass, seconds", *(f"{measured['test_pass_seconds']:.2f}" for measured in details)),
        ("an epoch against its steps and test pass", *(f"{measured['epoch_over_steps']:.2f}" for measured in details)),
        ("peak memory of the process, MB", *(f"{measured['peak_memory_bytes'] / 1e6:.0f}" for measured in details)),
    ]
    return table(("one core", *benchmark["halide"]), rows)


def pool_table(benchmark: dict[str, Any]) -> str:
    """What a pool on all cores keeps of the sum of its cores."""
    cores = benchmark["machine"]["cores"]
    medians = {label: _pool_medians(benchmark, label) for label in benchmark["halide"]}
    alone, together = zip(*medians.values(), strict=True)
    kept = (one / (cores * both) for one, both in medians.values())
    rows = [
        ("1 worker", *(f"{3600 / (EPOCHS * seconds):.0f}" for seconds in alone)),
        (f"{cores} workers", *(f"{3600 / (EPOCHS * seconds):.0f}" for seconds in together)),
        ("share of the sum of the cores", *(f"{100 * share:.0f} %" for share in kept)),
    ]
    return table((f"runs of {EPOCHS} epochs an hour", *medians), rows)


def _pool_medians(benchmark: dict[str, Any], label: str) -> tuple[float, float]:
    """Seconds for each epoch of one run on a core, and of runs on every core at the same time."""
    seconds = benchmark["seconds_per_epoch"][label]
    return seconds["halide_one_core"]["median"], seconds["pool_all_cores"]["median"]


def stages(benchmark: dict[str, Any], label: str) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds a step of each stage, and those that its arithmetic alone would take at the core's highest rate."""
    epoch = benchmark["seconds_per_epoch"][label]["ceiling_one_core"]["median"]
    milliseconds_each = 1000 * epoch / benchmark["operations_per_epoch"][label]
    measured = benchmark["halide"][label]["stages"]
    seconds = {name: 1000 * stage["seconds"] for name, stage in measured.items()}
    arithmetic = {
        name: stage["operations"] * milliseconds_each for name, stage in measured.items() if "operations" in stage
    }
    return seconds, arithmetic


def faults_table(faults: dict[str, Any]) -> str:
    """What came of the faults that were tried by a script."""
    return table(("fault", "what happened"), faults["outcomes"].items(), left=2)


def sweep_parts() -> dict[str, bytes]:
    """The tables and the figure of the recorded sweep."""
    from smallcnn.report import figures, sweeps

    recorded = read_measurement("sweep.json")
    runs = [(point["values"], recorded_run(key)) for point in recorded["points"] for key in point["runs"]]
    frame = sweeps.sweep_frame(recorded["axes"], runs)
    trained = [run for _, run in runs]
    return {
        "sweep_provenance.md": provenance_summary(trained).encode(),
        "sweep.md": sweeps.sweep_table(frame, sweeps.caution_of(trained)).encode(),
        "sweep_differences.md": best_against_others(frame).encode(),
        "sweep.svg": figures.sweep_points(recorded["axes"], sweeps.accuracies_by_point(frame)).to_svg(),
    }


def best_against_others(frame: pd.DataFrame) -> str:
    """The point of a sweep with the best mean, against each other point with the same seeds."""
    from smallcnn.report import sweeps

    axes = " ".join(sweeps.frame_axes(frame)).replace("_", " ")
    named = {f"{axes} {' '.join(point)}": values for point, values in sweeps.accuracies_by_point(frame).items()}
    best = max(named, key=lambda name: sum(named[name]))
    return difference_table((best, name, named[best], values) for name, values in named.items() if name != best)


def scaling_parts(scaling: dict[str, Any], benchmark: dict[str, Any]) -> dict[str, bytes]:
    """Runs an hour against workers, and what many runs would need."""
    from smallcnn.report import figures

    rates = {row["workers"]: row["runs_per_hour"] for row in scaling["stand_ins"]}
    run_seconds, instant = scaling["run"]["seconds"], scaling["instant"]
    alone, together = _pool_medians(benchmark, EXAMPLE)
    real = {1: 3600 / (EPOCHS * alone), benchmark["machine"]["cores"]: 3600 / (EPOCHS * together)}
    limit = 3600 * instant["runs_per_second"]
    return {
        "scaling.md": scaling_table(scaling).encode(),
        "scaling_machine.md": scaling_sentence(scaling).encode(),
        "many_runs.md": many_runs_table(scaling).encode(),
        "scheduler.md": (
            f"Runs that take no time at all, {instant['runs']:,} of them on {instant['workers']} workers, pass at "
            f"{instant['runs_per_second']:.0f} a second, their records written. With runs of {run_seconds:.0f} seconds "
            "the scheduler, or the command that writes the records, is the limit at "
            f"{_two_digits(instant['runs_per_second'] * run_seconds)} workers at the latest; the progress of their "
            "epochs, which these runs do not report, and memory for their connections may be one long before.\n"
        ).encode(),
        "scaling.svg": figures.runs_an_hour(rates, real, 3600 / run_seconds, limit, EXAMPLE).to_svg(),
    }


def scaling_table(scaling: dict[str, Any]) -> str:
    """Runs an hour of stand-ins."""
    rows = [
        (f"{row['workers']:,}", row["runs"], f"{row['seconds']:.1f}", f"{row['runs_per_hour']:,.0f}", _share(row))
        for row in scaling["stand_ins"]
    ]
    return table(("workers", "runs", "seconds", "runs an hour", "share of the ideal"), rows, left=0)


def _share(row: dict[str, Any]) -> str:
    return f"{100 * row['share']:.1f}\u202f%"


def scaling_sentence(scaling: dict[str, Any]) -> str:
    """After which run the stand-ins take, and where they were measured.

    The run is named by its network and seed, since its key may have changed since then.
    """
    run, machine = scaling["run"], scaling["machine"]
    return (
        f"Measured on {machine['date'][:10]}: {machine['processor']}, {machine['system']}. Every stand-in sleeps "
        f"{run['seconds']:.0f} seconds, as long as the recorded run of {run.get('label', EXAMPLE)} with seed "
        f"{run.get('seed', 0)} took, and reports {run['epochs']} epochs.\n"
    )


def many_runs_table(scaling: dict[str, Any]) -> str:
    """What a sweep of `MANY_RUNS` runs would need."""
    run, rows = scaling["run"], []
    for row in scaling["stand_ins"]:
        days = MANY_RUNS / row["runs_per_hour"] / 24
        duration = f"{days:.1f} days" if days >= 2 else f"{24 * days:.1f} hours"
        rows.append((f"{row['workers']:,} {'worker' if row['workers'] == 1 else 'workers'}", duration))
    rows.append(("disk for the records", f"{MANY_RUNS * run['record_bytes'] / 1e9:.1f} GB"))
    rows.append(("memory of the command", f"{MANY_RUNS * scaling['instant']['memory_bytes'] / 1e9:.1f} GB"))
    return table((f"{MANY_RUNS:,} runs like this one", "need"), rows)


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.1e}'):,.0f}"


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
