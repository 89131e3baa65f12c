"""Questions about pages that commands are timed with."""

from visor_jax.data.pages.pool.pool import make_pool
from visor_jax.data.pages.questions import TASKS
from visor_jax.data.prompts.request import Request


def page_requests(count: int, *, seed: int = 0) -> list[Request]:
    """Returns a question about each of `count` test pages, tasks in turn."""
    pool, tasks = make_pool("test", count, seed=seed), list(TASKS.values())
    return [
        Request(task.questions[i % len(task.questions)].text, [page])
        for i, page in enumerate(pool.pages)
        for task in [tasks[i % len(tasks)]]
    ]
