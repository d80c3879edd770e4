"""The generated parts of the pages on computing, from recorded measurements and recorded runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smallcnn.chapters import check_parameters, training_configs
from smallcnn.commands import CommandError
from smallcnn.pages import APPROACHES
from smallcnn.paths import ROOT
from smallcnn.runs import DamagedRun, load_run
from smallcnn.statistics import is_above
from smallcnn.sweeps import parse_sweep, read_csv, sweep_table, to_csv
from smallcnn.tables import difference, difference_table, provenance_summary, spread, table
from smallcnn.training import ENGINES, TrainingConfig, TrainingRun

MEASUREMENTS = ROOT / "measurements"
EPOCHS = 40
# The engine is named only because it is installed everywhere: the recorded runs are those of the other one.
SWEEP = ("approach_2", "learning_rate=0.001,0.003,0.01,0.03 seeds=0..4", "epochs=10 engine=tensorflow")
MANY_RUNS = 10_000
COMPARED_SEEDS = [0, 1, 2]  # of both engines
# Of earlier versions of the Halide engine, which kept the first block's maps.
EARLIER_BENCHMARKS = ("benchmark_epyc_avx2.json", "benchmark_xeon_avx512.json")
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
    """Makes the generated parts of the pages on computing, by file name."""
    from smallcnn import figures  # here: matplotlib takes a second

    figures.use_book_style()
    benchmark = _read("benchmark.json")
    runs = runs_of_both_engines()
    pairs = {label: accuracies_by_seed(of_label) for label, of_label in runs.items()}
    return {
        "engines.md": engines_table(pairs).encode(),
        "engines.svg": figures.to_svg(figures.paired_accuracies(pairs)),
        "engines_provenance.md": provenance_summary(
            run for of_label in runs.values() for of_engine in of_label.values() for run in of_engine
        ).encode(),
        **benchmark_parts(benchmark),
        "earlier_machines.md": machines_table(map(_read, EARLIER_BENCHMARKS)).encode(),
        "ways.svg": figures.to_svg(figures.seconds_of_ways(benchmark["seconds_per_epoch"], WAY_NAMES)),
        "stages.svg": figures.to_svg(figures.seconds_of_stages(*stages(benchmark, "approach_2"))),
        "lanes.svg": figures.to_svg(figures.lanes()),
        "faults.md": faults_table(_read("faults.json")).encode(),
        **sweep_parts(),
        **scaling_parts(_read("scaling.json"), benchmark),
    }


def _read(name: str) -> dict[str, Any]:
    return json.loads((MEASUREMENTS / name).read_text(encoding="utf-8"))


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
        for chapter, label in APPROACHES.items():
            of = benchmark["ratios"][chapter]
            name = f"{machine['processor']}, {vectors}"
            rows.append((name, label.replace(" ", "\u00a0"), *(f"{of[ratio]:.1f}×" for ratio in ratios)))
    header = ("machine", "network", "TensorFlow", "PyTorch", "a second core", "the article's way")
    return table(header, rows, left=2)


def runs_of_both_engines() -> dict[str, dict[str, list[TrainingRun]]]:
    """The published networks' recorded runs by approach and engine, with `COMPARED_SEEDS`.

    They are those of the project, also in a preview or a book that was trained afresh.
    """
    found: dict[str, dict[str, list[TrainingRun]]] = {}
    for chapter, label in APPROACHES.items():
        configs = training_configs(check_parameters(chapter, {"engine": "tensorflow", "seeds": COMPARED_SEEDS}))
        found[label] = {
            engine: [recorded_run(dataclasses.replace(config, engine=engine)) for config in configs]
            for engine in ENGINES
        }
    return found


def recorded_run(config: TrainingConfig) -> TrainingRun:
    """The project's record of `config`, which a page shows and nothing trains again.

    Raises:
        CommandError: if it is missing or damaged.
    """
    try:
        run = load_run(config, ROOT / "runs")
    except DamagedRun as error:
        raise CommandError(f"{error}; a page shows it: git checkout runs/{config.key} brings it back") from error
    if run is None:
        raise CommandError(f"runs/{config.key} is missing; a page shows it: git checkout runs brings it back")
    return run


def accuracies_by_seed(runs: dict[str, list[TrainingRun]]) -> dict[str, list[float]]:
    """The best test accuracies of each engine, seed by seed."""
    return {engine: [run.best_test_accuracy for run in of_engine] for engine, of_engine in runs.items()}


def engines_table(pairs: dict[str, dict[str, list[float]]]) -> str:
    """Both engines' accuracies, and the differences of the runs with the same seed."""
    rows = []
    for label, of_label in pairs.items():
        halide, tensorflow = of_label["halide"], of_label["tensorflow"]
        verdict = "no" if is_above(halide, tensorflow) is None else "yes"
        if len(halide) < 2:
            verdict = "too few seeds"
        rows.append((label, len(halide), spread(halide), spread(tensorflow), difference(halide, tensorflow), verdict))
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
    by_approach = benchmark["seconds_per_epoch"]
    rows = [
        (name, *(_range(by_approach[chapter][way]) for chapter in APPROACHES))
        for way, name in WAY_NAMES.items()
        if way in by_approach["approach_1"]
    ]
    return table(("seconds an epoch", *APPROACHES.values()), rows)


def _range(seconds: dict[str, float]) -> str:
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
        (name, *(f"{ratios[chapter][ratio]:.1f}×" for chapter in APPROACHES))
        for ratio, name in names.items()
        if ratio in ratios["approach_1"]
    ]
    shares = (f"{100 / ratios[chapter]['halide_over_ceiling_one_core']:.0f} %" for chapter in APPROACHES)
    rows.append(("share of the core's highest rate of arithmetic", *shares))
    return table(("times faster", *APPROACHES.values()), rows)


def halide_table(benchmark: dict[str, Any]) -> str:
    """Set-up, memory and the loop of the fast engine."""
    details = [benchmark["halide"][chapter] for chapter in APPROACHES]
    rows = [
        ("set-up: compiling the stages, seconds", *(f"{of['set_up_seconds']:.1f}" for of in details)),
        ("one step, milliseconds", *(f"{1000 * of['step_seconds']:.1f}" for of in details)),
        ("test pass, seconds", *(f"{of['test_pass_seconds']:.2f}" for of in details)),
        ("an epoch against its steps and test pass", *(f"{of['epoch_over_steps']:.2f}" for of in details)),
        ("peak memory of the process, MB", *(f"{of['peak_memory_bytes'] / 1e6:.0f}" for of in details)),
    ]
    return table(("one core", *APPROACHES.values()), rows)


def pool_table(benchmark: dict[str, Any]) -> str:
    """What a pool on all cores keeps of the sum of its cores."""
    cores = benchmark["machine"]["cores"]
    medians = [
        {way: of["median"] for way, of in benchmark["seconds_per_epoch"][chapter].items()} for chapter in APPROACHES
    ]
    alone, together = ([of[way] for of in medians] for way in ("halide_one_core", "pool_all_cores"))
    kept = (one / (cores * both) for one, both in zip(alone, together, strict=True))
    rows = [
        ("1 worker", *(f"{3600 / (EPOCHS * seconds):.0f}" for seconds in alone)),
        (f"{cores} workers", *(f"{3600 / (EPOCHS * seconds):.0f}" for seconds in together)),
        ("share of the sum of the cores", *(f"{100 * share:.0f} %" for share in kept)),
    ]
    return table((f"runs of {EPOCHS} epochs an hour", *APPROACHES.values()), rows)


def stages(benchmark: dict[str, Any], chapter: str) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds a step of each stage, and those that its arithmetic alone would take at the core's highest rate."""
    step = benchmark["seconds_per_epoch"][chapter]["ceiling_one_core"]["median"]
    operations = benchmark["operations_per_epoch"][chapter]
    measured = benchmark["halide"][chapter]["stages"]
    seconds = {name: 1000 * of["seconds"] for name, of in measured.items()}
    alone = {name: 1000 * of["operations"] * step / operations for name, of in measured.items() if "operations" in of}
    return seconds, alone


def faults_table(faults: dict[str, Any]) -> str:
    """What came of the faults that were tried by a script."""
    return table(("fault", "what happened"), faults["outcomes"].items(), left=2)


def sweep_parts() -> dict[str, bytes]:
    """The table and the figure of the recorded sweep, whose runs are the Halide engine's."""
    from smallcnn import figures

    sweep = parse_sweep(*SWEEP)
    runs = {
        point: [recorded_run(dataclasses.replace(config, engine="halide")) for config in of_point]
        for point, of_point in sweep.configs.items()
    }
    axes, points = read_csv(to_csv(list(sweep.axes), runs))
    return {
        "sweep_provenance.md": provenance_summary(run for of_point in runs.values() for run in of_point).encode(),
        "sweep.md": sweep_table(axes, points).encode(),
        "sweep_differences.md": best_against_others(axes, points).encode(),
        "sweep.svg": figures.to_svg(figures.sweep_points(axes, points)),
    }


def best_against_others(axes: Sequence[str], points: Mapping[tuple[str, ...], list[float]]) -> str:
    """The point of a sweep with the best mean, against each other point with the same seeds."""
    named = {f"{' '.join(axes).replace('_', ' ')} {' '.join(point)}": values for point, values in points.items()}
    best = max(named, key=lambda name: sum(named[name]))
    return difference_table((best, name, named[best], values) for name, values in named.items() if name != best)


def scaling_parts(scaling: dict[str, Any], benchmark: dict[str, Any]) -> dict[str, bytes]:
    """Runs an hour against workers, and what many runs would need."""
    from smallcnn import figures

    rates = {row["workers"]: row["runs_per_hour"] for row in scaling["stand_ins"]}
    run_seconds, instant = scaling["run"]["seconds"], scaling["instant"]
    epoch = {
        way: of["median"]
        for way, of in benchmark["seconds_per_epoch"]["approach_2"].items()
        if way in ("halide_one_core", "pool_all_cores")
    }
    real = {
        1: 3600 / (EPOCHS * epoch["halide_one_core"]),
        benchmark["machine"]["cores"]: 3600 / (EPOCHS * epoch["pool_all_cores"]),
    }
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
        "scaling.svg": figures.to_svg(figures.runs_an_hour(rates, real, 3600 / run_seconds, limit)),
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
    """After which run the stand-ins take, and where they were measured."""
    run, machine = scaling["run"], scaling["machine"]
    return (
        f"Measured on {machine['date'][:10]}: {machine['processor']}, {machine['system']}. Every stand-in sleeps "
        f"{run['seconds']:.0f} seconds, as long as the recorded run `{run['key']}` took, and reports {run['epochs']} "
        "epochs.\n"
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
