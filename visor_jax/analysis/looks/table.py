"""The rows of a report on looks as Markdown."""

from collections.abc import Mapping
from typing import Any

from visor_jax.evals.report.markdown import percent, table


def look_table(content: Mapping[str, Any]) -> str:
    """Returns the tables of `looks.json`: rows by look, and how often tiles are hit."""
    dense, rows = content["dense_flops"], content["rows"]
    tasks = list(rows[0]["tasks"])
    header = ["look", "budget", "easy", "hard", *tasks, "MFLOP", "dense / it"]
    lines = [
        [
            row["look"],
            row["budget"],
            *(percent(row[group]) for group in ("easy", "hard")),
            *(percent(row["tasks"][task]) for task in tasks),
            f"{row['end_to_end_flops'] / 1e6:.1f}",
            f"{dense / row['end_to_end_flops']:.2f}x",
        ]
        for row in rows
    ]
    hit_header = ["grid", "tiles by", "top"]
    hit_header += ["one tile", "chance", "two tiles", "chance"]
    shares = ("one_tile", "one_tile_chance", "two_tiles", "two_tiles_chance")
    hit_lines = [
        [
            *(hit["grid"], hit["rule"], str(hit["top"])),
            *(percent(hit[key]) for key in shares),
        ]
        for hit in content["hits"]
    ]
    return "\n".join(
        [
            f"{content['pages']} held-out pages, every task once; seed "
            f"{content['seed']}, {content['train_steps']} steps; accuracies in per "
            "cent. FLOPs are end to end, tower included, of one question; dense is "
            f"the dense network with all crops. The router looks at "
            f"`{content['router_budget']}`, which its rows pay for"
            + _scorer_told(content["scorer_pages"]),
            "",
            table(header, lines, 2),
            "",
            "Looked at until the answer is at least as sure as the threshold: the base "
            f"view, it and two tiles by the {content['climbs'][0]['tiles_by']}, all "
            "crops, the last two at the largest budget. Looks and MFLOP of easy and "
            "hard questions, and of both together:",
            "",
            _climbs(content),
            "",
            "How often all tiles that a hard question asks about are among the first:",
            "",
            table(hit_header, hit_lines, 2),
            "",
            f"Made by `{content['command']}` at {content['git_commit']} on "
            f"{content['machine']}.",
            "",
        ]
    )


def _climbs(content: Mapping[str, Any]) -> str:
    rows, dense = content["climbs"], content["dense_flops"]
    header = ["sure", "easy", "hard", *rows[0]["tasks"], "looks: easy", "hard"]
    header += ["MFLOP: easy", "hard", "both", "dense / both"]
    lines = []
    for row in rows:
        flops = [row["flops"][group] for group in ("easy", "hard")]
        both = sum(flops) / 2
        lines.append(
            [
                f"{row['threshold']:g}",
                *(percent(row[group]) for group in ("easy", "hard")),
                *(percent(each) for each in row["tasks"].values()),
                *(f"{row['looks'][group]:.2f}" for group in ("easy", "hard")),
                *(f"{each / 1e6:.1f}" for each in (*flops, both)),
                f"{dense / both:.2f}x",
            ]
        )
    return table(header, lines, 1)


def _scorer_told(pages: int | None) -> str:
    """Returns what is said of a scorer; pages: None for none, 0 for one kept before."""
    if pages is None:
        return "."
    told = "; so do those of the scorer, and its own FLOPs beside: it was "
    if not pages:
        return f"{told}kept beside the checkpoint."
    return (
        f"{told}trained on {pages} pages of other handwriting, from right answers "
        "alone, at that budget."
    )
