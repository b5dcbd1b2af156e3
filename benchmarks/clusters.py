"""Are clusters found where they are, and only there: `python -m benchmarks.clusters --data DIR`.

Federations with hidden groups (labels mean something else in each), without groups (even shares of labels, and skewed
ones), with both, and with groups that differ in nothing but their domain (`cluster_cases`). Each is drawn with --seeds
data seeds, its clients' two halves projected with --projections seeds, and put through the rule and the mixture of the
clusterer. Signatures are kept in --cache, so a second run takes seconds.

--noise needs no data: signatures of clients that mean the same, or nothing at all. It prints how often the rule finds
clusters there, its rate of false alarms, and how long ten thousand clients take.

--train trains the federations in this process, with one cluster, with clients put where they belong (where there are no
groups: in two by turns), and with what the rule finds: personal and shared accuracy before local training. They are
kept in --cache as well.

Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.cluster_cases import CASES, Case, data_of
from benchmarks.cluster_signatures import compute_all, signatures
from benchmarks.cluster_training import ARMS, trained, worth_training
from fedhft.adapter import Float32, Float64
from fedhft.clustering.choice import choose
from fedhft.clustering.fitting import best_fit
from fedhft.clustering.gaussian_mixture import update
from fedhft.clustering.prediction import verdict
from fedhft.clustering.selection import choose_clusters
from fedhft.clustering.signature import DIMENSIONS
from fedhft.clustering.subspace import principal
from fedhft.job_sections import ClusteringSpec
from fedhft.reporting.rand_index import adjusted_rand_index

ENOUGH = 0.95
"""Adjusted Rand index from which groups count as found."""
MANY = 10_000


@dataclass(frozen=True)
class Found:
    """What the rule made of one federation, and that of earlier builds (by BIC).

    index, bic_index: adjusted Rand index against the hidden groups, None without any; of the clients that say
    something: one whose rows are all of one class belongs nowhere.
    """

    clusters: int
    by_bic: int
    reliability: float
    gain: float
    index: float | None
    bic_index: float | None

    def is_right(self, groups: int) -> bool:
        """Whether as many clusters were found as there are groups, with the right clients."""
        return self.clusters == groups and (self.index or 0.0) >= ENOUGH

    def is_right_by_bic(self, groups: int) -> bool:
        """The same by BIC."""
        return self.by_bic == groups and (self.bic_index or 0.0) >= ENOUGH


def found_in(halves: Float32, groups: Sequence[int] | None) -> Found:
    """The rule, and the mixture, on the halves (n x 2 x DIMENSIONS) of one federation."""
    names = [f"c{client:03d}" for client in range(len(halves))]
    both = {name: own.reshape(-1) for name, own in zip(names, halves, strict=True)}
    data = dict.fromkeys(names, "+")
    settings = ClusteringSpec()
    clusters, choice = choose(both, data, None, settings.maximum, 0)
    joined = {name: (own[0] + own[1]).astype(np.float32) for name, own in zip(names, halves, strict=True)}
    whole = np.array([joined[name] for name in names], np.float64)
    norms = np.linalg.norm(whole, axis=1, keepdims=True)
    known = (whole / np.where(norms > 0, norms, 1.0))[norms[:, 0] > 0]
    gain = max((one.gain for one in choice.tried), default=0.0)
    by_bic = choose_clusters(known, settings.maximum)
    index = bic_index = None
    if groups is not None:
        told = [place for place, name in enumerate(names) if joined[name].any()]
        own = [groups[place] for place in told]
        found = update(joined, None, {}, settings, clusters, certainty=choice.certainty).rows
        by_earlier = of_principal_components(known, by_bic, settings)
        index = adjusted_rand_index(own, [int(np.argmax(found[names[place]])) for place in told])
        bic_index = adjusted_rand_index(own, by_earlier)
    return Found(clusters, by_bic, choice.reliability, gain, index, bic_index)


def of_principal_components(signatures: Float64, clusters: int, settings: ClusteringSpec) -> list[int]:
    """The likeliest component of each client (n x D, unit norm) in a mixture as earlier builds fitted it."""
    if clusters == 1:
        return [0] * len(signatures)
    points = principal(signatures, clusters - 1).project(signatures)
    mixture = best_fit(points, clusters, settings.covariance, settings.ridge).gaussians
    likeliest: list[int] = mixture.log_joint(points).argmax(axis=1).tolist()
    return likeliest


def judged(case: Case, seed: int, projections: int, folder: Path, cache: Path) -> list[Found]:
    """The rule on one data seed of a case, under every projection."""
    groups = data_of(case, folder, seed).groups if case.groups != 1 else None
    return [found_in(halves, groups) for halves in signatures(case, seed, projections, cache)]


def line(case: Case, found: Sequence[Found]) -> str:
    """One row of the table."""
    count = len(found)
    numbers = Counter(one.clusters for one in found)
    shown = ", ".join(f"{clusters}: {number / count:.0%}" for clusters, number in sorted(numbers.items()))
    right = sum(one.clusters == case.groups for one in found) / count
    bic = sum(one.by_bic == case.groups for one in found) / count
    apart = [one.index for one in found if one.index is not None]
    good = sum(one.is_right(case.groups) for one in found) / count
    good_by_bic = sum(one.is_right_by_bic(case.groups) for one in found) / count
    cells = (
        case.name,
        str(count),
        f"{np.mean([one.reliability for one in found]):.2f}",
        f"{np.median([one.gain for one in found]):.2f}",
        shown,
        "-" if not case.groups else f"{right:.0%}",
        "-" if case.groups < 2 else f"{good:.0%}",
        f"{np.mean(apart):.2f}" if apart else "-",
        "-" if not case.groups else f"{bic:.0%}",
        "-" if case.groups < 2 else f"{good_by_bic:.0%}",
    )
    return "| " + " | ".join(cells) + " |"


HEADS = (
    "federation", "runs", "halves agree", "largest gain", "J found", "right J", "right J and index >= .95",
    "mean Rand index", "right J by BIC", "right J and index by BIC",
)  # fmt: skip


def noise(draws: int) -> None:
    """Print how often clusters are found where there are none, and what ten thousand clients take."""
    rng = np.random.default_rng(0)
    print("| clients | halves agree | federations | more than one cluster |\n| --- | --- | --- | --- |")
    for clients in (4, 6, 12, 30):
        for reliability in (0.0, 0.2, 0.5, 0.8):
            several = 0
            for _ in range(draws):
                several += verdict(*_alike(clients, reliability, rng), 4).clusters > 1
            print(f"| {clients} | {reliability:.1f} | {draws} | {several / draws:.1%} |", flush=True)
    labels = rng.integers(0, 3, MANY)
    meanings = rng.standard_normal((3, DIMENSIONS))
    first, second = (
        _unit(_unit(meanings)[labels] + 0.7 * _unit(rng.standard_normal((MANY, DIMENSIONS)))) for _ in "uv"
    )
    began = time.perf_counter()
    clusters = verdict(first, second, 4).clusters
    chosen = time.perf_counter()
    update(
        {f"c{i:05d}": row for i, row in enumerate((first + second).astype(np.float32))},
        None,
        {},
        ClusteringSpec(),
        clusters,
    )
    fitted = time.perf_counter()
    print(
        f"\n{MANY} clients in 3 groups: {clusters} found in {chosen - began:.1f} s, fitted in {fitted - chosen:.1f} s"
    )


def _alike(clients: int, reliability: float, rng: np.random.Generator) -> tuple[Float64, Float64]:
    """Halves of clients that all mean the same: mean product `reliability`, else noise."""
    meaning = _unit(rng.standard_normal(DIMENSIONS))
    first, second = (
        _unit(
            np.sqrt(reliability) * meaning
            + np.sqrt(1.0 - reliability) * _unit(rng.standard_normal((clients, DIMENSIONS)))
        )
        for _ in "uv"
    )
    return first, second


def _unit(rows: Float64) -> Float64:
    unit: Float64 = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return unit


def train(options: argparse.Namespace, seeds: Sequence[int]) -> None:
    """Print the table of accuracies."""
    heads = ("federation", "seed", "clusters", "J", "personal", "worst tenth", "shared", "mass-weighted")
    print("| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads), flush=True)
    for case in CASES:
        if options.cases not in case.name:
            continue
        for seed in seeds:
            for arm in (one for one in ARMS if worth_training(case, one)):
                scores = trained(case, arm, seed, Path(options.data), Path(options.cache), options.rounds)
                cells = [scores[name] for name in ("personal", "worst_tenth", "shared", "mass_weighted")]
                shown = ["-" if value is None else f"{value:.3f}" for value in cells]
                print(
                    "| " + " | ".join([case.name, str(seed), arm, f"{scores['clusters']:.0f}", *shown]) + " |",
                    flush=True,
                )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing, print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.clusters", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="", help="folder of data sets: ag_news, sst2, snips, mr, cr, mpqa")
    parser.add_argument("--cache", default="out/clusters", help="where signatures and runs are kept")
    parser.add_argument("--seeds", default="0,1,2", help="data seeds")
    parser.add_argument("--projections", type=int, default=20, help="projection seeds")
    parser.add_argument("--workers", type=int, default=2, help="processes that compute gradients")
    parser.add_argument("--cases", default="", help="only federations whose name has this in it")
    parser.add_argument(
        "--noise", type=int, default=0, metavar="DRAWS", help="false alarms on so many drawn federations"
    )
    parser.add_argument("--train", action="store_true", help="train them")
    parser.add_argument("--rounds", type=int, default=4, help="of --train")
    options = parser.parse_args(arguments)
    if options.noise:
        noise(options.noise)
        return
    seeds = [int(seed) for seed in options.seeds.split(",")]
    if not options.data:
        parser.error("--data: which folder has the data sets?")
    if options.train:
        train(options, seeds)
        return
    folder, cache = Path(options.data), Path(options.cache)
    chosen = [case for case in CASES if options.cases in case.name]
    compute_all(
        [(case, seed) for case in chosen for seed in seeds], options.projections, folder, cache, options.workers
    )
    print("| " + " | ".join(HEADS) + " |\n|" + " --- |" * len(HEADS), flush=True)
    with ProcessPoolExecutor(options.workers) as pool:
        waiting = {
            case: [pool.submit(judged, case, seed, options.projections, folder, cache) for seed in seeds]
            for case in chosen
        }
        for case, parts in waiting.items():
            print(line(case, [one for part in parts for one in part.result()]), flush=True)


if __name__ == "__main__":
    main()
