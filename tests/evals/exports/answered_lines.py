"""Lines of predictions without a network: questions as they are, answers made up."""

import dataclasses

from visor_jax.evals.tables.table_benchmark import TableBenchmark


def lines(benchmark: TableBenchmark, answers: list[str | None]) -> list[dict]:
    """Returns a line for each of the first questions; None is an error."""
    return [
        {
            "benchmark": benchmark.name,
            "split": benchmark.split,
            **dataclasses.asdict(question),
            "answer": answer,
            "error": None if answer is not None else "no picture",
            "text_tokens": 10 + number,
            "image_tokens": 100,
            "new_tokens": 3,
        }
        for number, (question, answer) in enumerate(
            zip(benchmark.questions.values(), answers, strict=False)
        )
    ]
