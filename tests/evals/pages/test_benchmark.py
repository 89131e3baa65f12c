"""Pages as a benchmark: examples, packed rows, and that they are the same questions."""

import numpy as np

from visor_jax.data.pages.processor import page_processor
from visor_jax.data.pages.questions import QUESTIONS, TASK_NAMES, TASKS
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.evals.pages.benchmark import GROUPS, PROMPT_LENGTHS


def test_every_page_is_asked_every_task_once_and_answered_by_its_facts(benchmark):
    examples = list(benchmark.examples())
    assert len(examples) == len(benchmark) == 5 * 10
    assert len({example.id for example in examples}) == 50
    for number, example in enumerate(examples):
        page, task = divmod(number, 10)
        assert example.task == TASK_NAMES[task]
        assert example.cluster == f"test-{page}"
        np.testing.assert_array_equal(
            example.request.images[0], benchmark.pool.pages[page]
        )
        (question,) = (q for q in QUESTIONS if q.text == example.request.prompt)
        assert question in TASKS[example.task].questions
        facts = benchmark.pool.facts[page : page + 1]
        assert list(example.references) == question.answers(facts)


def test_packed_rows_are_the_same_questions(benchmark):
    tokenizer, examples = page_tokenizer(), list(benchmark.examples())
    words, packed = tokenizer.convert_ids_to_tokens, list(benchmark.packed())
    assert [e.id for p in packed for e in p.examples] == [e.id for e in examples]
    assert [len(p.examples) for p in packed] == [30, 20]
    for asked in packed:
        batch, found = asked.batch, iter(asked.examples)
        assert batch.image_labels is None
        for row in range(3):
            for segment in range(1, 11):
                mine = (batch.text_segments[row] == segment) & batch.text_mask[row]
                if not (mine & batch.loss_mask[row]).any():
                    continue
                example = next(found)
                *question, colon, answer = words(batch.tokens[row, mine].tolist())
                assert " ".join(question) == example.request.prompt
                assert colon == ":"
                assert (answer,) == example.references
        assert next(found, None) is None


def test_an_answer_is_right_if_it_is_the_word(benchmark):
    example = next(benchmark.examples())
    (right,) = example.references
    assert benchmark.score(example, right) == {"exact_match": 1.0}
    for wrong in ("", f"{right} {right}", "ring"):
        assert benchmark.score(example, wrong) == {"exact_match": 0.0}


def test_prompts_are_as_long_as_the_longest_question(benchmark):
    processor = page_processor(page_tokenizer())
    samples = [processor.sample(e.request, room=1) for e in benchmark.examples()]
    assert max(s.num_text_tokens for s in samples) == PROMPT_LENGTHS.text_tokens == 6
    for sample in samples:
        assert sample.num_image_tokens == PROMPT_LENGTHS.image_tokens == 144
        assert sample.num_crops == PROMPT_LENGTHS.crops == 1


def test_identity_and_groups(benchmark):
    said = benchmark.identity()
    assert (said["split"], said["pages"]) == ("test", 5)
    assert benchmark.groups == GROUPS
    assert [t for tasks in GROUPS.values() for t in tasks] == list(TASK_NAMES)
