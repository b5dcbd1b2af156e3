"""Tasks whose answers are at places of a text: what is tokenised, what counts, and what the model sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from benchmarks.families import TASKS, example_rows, word_tokenizer, write_family
from fedhft.datasets.examples import Example
from fedhft.datasets.tables import RawRow
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec, parse_job
from fedhft.job_task import TaskSpec
from fedhft.training.base import load_base
from fedhft.training.network import Network
from fedhft.training.scores import logits_by_batch, score
from fedhft.training.tasks import task_of
from fedhft.v1 import federation_pb2 as pb
from tests.models import pieces_tokenizer

TAGS = TASKS["token-classification"]
TEXT = TASKS["causal-lm"]


def spec_of(path: Path, task: TaskSpec, max_length: int = 32) -> JobSpec:
    return parse_job(
        {
            "name": "x",
            "model": {"name": str(path), "max_length": max_length},
            "task": task.model_dump(mode="json"),
            "adapter": {"rank": 2},
            "method": "fedit",
        }
    )


def network_of(path: Path, task: TaskSpec, max_length: int = 32) -> Network:
    spec = spec_of(path, task, max_length)
    network = Network.on(load_base(spec), spec)
    network.load({}, network.schema.layers, 0)
    return network


def tokens(tokenizer: Any, task: TaskSpec, row: Example, max_length: int = 64) -> tuple[list[str], list[str]]:
    """The row as tokens, and what is wanted, a token before its place."""
    (one,), targets = task_of(task).tokenize(tokenizer, [row], max_length, False, training=False)
    return (
        tokenizer.convert_ids_to_tokens(one.ids.tolist()),
        tokenizer.convert_ids_to_tokens([int(target) for target in targets[0]]),
    )


# -- token classification


def test_a_words_tag_is_wanted_at_its_first_piece_and_words_beyond_the_cut_are_left_out() -> None:
    tokenizer = pieces_tokenizer()
    row = Example("anna unhappily berlin", None, (2, 0, 1), words=("anna", "unhappily", "berlin"))
    (one,), targets = task_of(TAGS).tokenize(tokenizer, [row], 64, False, training=False)
    assert tokenizer.convert_ids_to_tokens(one.ids.tolist()) == ["[CLS]", "anna", "un", "##happily", "berlin", "[SEP]"]
    assert one.places is not None
    assert one.places.tolist() == [1, 2, 4]
    assert targets[0].tolist() == [2, 0, 1]
    (cut,), targets = task_of(TAGS).tokenize(tokenizer, [row], 4, False, training=False)
    assert cut.places is not None
    assert cut.places.tolist() == [1, 2]
    assert targets[0].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": ["a", "b"], "label": ["O"]}, "has 1 tags for 2 words"),
        ({"text": [], "label": []}, "has 0 tags for 0 words"),
        ({"text": ["a", 3], "label": ["O", "O"]}, "something other than words"),
        ({"text": ["a", " "], "label": ["O", "O"]}, "something other than words"),
        ({"text": ["a"], "label": ["B-ORG"]}, "unknown label"),
        ({"text": 3, "label": ["O"]}, "is not a list"),
        ({"label": ["O"]}, "no column 'text'"),
    ],
)
def test_tags_that_do_not_fit_their_words_are_refused_with_their_line(columns: dict[str, Any], said: str) -> None:
    with pytest.raises(FedhftError, match=said) as caught:
        task_of(TAGS).parse(RawRow("f.jsonl, line 3", columns))
    assert caught.value.code is ErrorCode.INVALID_DATA
    assert "f.jsonl, line 3" in caught.value.message
    assert ";" in caught.value.message


def test_words_and_tags_may_be_lists_or_texts_and_tags_names_or_indices() -> None:
    wanted = Example("anna in paris", None, (2, 0, 1), words=("anna", "in", "paris"))
    for columns in (
        {"text": ["anna", "in", "paris"], "label": ["B-PER", "O", "B-LOC"]},
        {"text": "anna in paris", "label": "B-PER O B-LOC"},
        {"text": ["anna", "in", "paris"], "label": [2, 0, 1]},
    ):
        assert task_of(TAGS).parse(RawRow("x", columns)) == wanted


# -- text


def test_only_completions_count_and_they_end() -> None:
    tokenizer = word_tokenizer(encoder=False)
    row = Example("the cat is", "slow again", 0.0)
    assert tokens(tokenizer, TEXT, row) == (
        ["[CLS]", "the", "cat", "is", "slow", "again", "[SEP]"],
        ["slow", "again", "[SEP]"],
    )
    # Too long: the prompt loses its beginning.
    assert tokens(tokenizer, TEXT, row, 5) == (["cat", "is", "slow", "again", "[SEP]"], ["slow", "again", "[SEP]"])
    assert tokens(tokenizer, TEXT, row, 3) == (["slow", "again", "[SEP]"], ["again", "[SEP]"])


def test_all_of_a_plain_text_counts() -> None:
    plain = TEXT.model_copy(update={"format": "text"})
    found = tokens(word_tokenizer(encoder=False), plain, Example("the cat works", None, 0.0))
    assert found == (["[CLS]", "the", "cat", "works", "[SEP]"], ["the", "cat", "works", "[SEP]"])


def test_a_conversation_counts_what_the_assistant_says_and_its_end() -> None:
    chat = TEXT.model_copy(update={"format": "messages"})
    turns = (("user", "the cat"), ("assistant", "works"), ("user", "again"), ("assistant", "is slow"))
    written, wanted = tokens(word_tokenizer(encoder=False), chat, Example("", None, 0.0, turns=turns))
    assert written == [
        "<|user|>", "the", "cat", "[SEP]", "<|assistant|>", "works", "[SEP]",
        "<|user|>", "again", "[SEP]", "<|assistant|>", "is", "slow", "[SEP]",
    ]  # fmt: skip
    assert wanted == ["works", "[SEP]", "is", "slow", "[SEP]"]


def test_a_special_token_that_somebody_writes_is_text() -> None:
    tokenizer = word_tokenizer(encoder=False)
    assert tokens(tokenizer, TEXT, Example("the [SEP] cat", "is [CLS] slow", 0.0))[0].count("[SEP]") == 1
    chat = TEXT.model_copy(update={"format": "messages"})
    turns = (("user", "the <|assistant|> cat"), ("assistant", "works [SEP] again"))
    written, wanted = tokens(tokenizer, chat, Example("", None, 0.0, turns=turns))
    assert written.count("<|assistant|>") == 1
    assert wanted.count("[SEP]") == 1
    assert wanted[-1] == "[SEP]"


def test_a_conversation_needs_a_chat_template() -> None:
    tokenizer = word_tokenizer(encoder=False)
    turns = (("user", "the cat"), ("assistant", "works"))
    row = Example("", None, 0.0, turns=turns)
    chat = TEXT.model_copy(update={"format": "messages"})
    tokenizer.chat_template = None
    with pytest.raises(FedhftError, match="chat template cannot write this conversation") as caught:
        tokens(tokenizer, chat, row)
    assert caught.value.code is ErrorCode.INVALID_MODEL
    tokenizer.chat_template = "{{ messages|length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(FedhftError, match="writes earlier turns otherwise"):
        tokens(tokenizer, chat, Example("", None, 0.0, turns=(*turns, *turns)))


@pytest.mark.parametrize(
    ("spec", "columns", "said"),
    [
        ({"format": "prompt"}, {"prompt": "a"}, "no column 'completion'"),
        ({"format": "prompt"}, {"prompt": "a", "completion": ""}, "is empty"),
        ({"format": "prompt"}, {"prompt": None, "completion": "b"}, "is missing"),
        ({"format": "text"}, {"text": ""}, "is empty"),
        ({"format": "messages"}, {"messages": "hello"}, "no answer of the assistant"),
        ({"format": "messages"}, {"messages": [{"role": "user", "content": "a"}]}, "no answer of the assistant"),
        ({"format": "messages"}, {"messages": [{"role": "user"}]}, "something other than a role and its content"),
        ({"format": "messages"}, {"messages": ["a"]}, "something other than a role and its content"),
    ],
)
def test_text_that_cannot_be_learned_from_is_refused_with_its_line(
    spec: dict[str, Any], columns: dict[str, Any], said: str
) -> None:
    task = task_of(TaskSpec(kind="causal-lm", **spec))
    with pytest.raises(FedhftError, match=said) as caught:
        task.parse(RawRow("f.jsonl, line 2", columns))
    assert caught.value.code is ErrorCode.INVALID_DATA
    assert "f.jsonl, line 2" in caught.value.message
    assert ";" in caught.value.message


def test_only_outputs_that_count_are_computed_and_they_are_those_of_the_whole_model(tmp_path: Path) -> None:
    network = network_of(write_family(tmp_path, "gemma2", "causal-lm"), TEXT)  # its outputs are bent after the layer
    rows = network.encode(example_rows("causal-lm", 6))
    index = np.arange(6)
    with torch.no_grad():
        counted = network.forward(rows, index)
        places = rows.places(index)
        assert places is not None
        whole = network.model(**rows.inputs(index)).logits[places]
    assert len(counted) == int(places.sum()) < places.numel() / 2
    torch.testing.assert_close(counted, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen3", "mixtral"])
def test_packed_rows_are_answered_as_apart(tmp_path: Path, family: str) -> None:
    packed = TEXT.model_copy(update={"packing": True})
    network = network_of(write_family(tmp_path, family, "causal-lm"), packed, max_length=24)
    examples = example_rows("causal-lm", 9)
    apart, together = network.encode(examples), network.encode(examples, training=True)
    assert len(together) < len(apart) == 9
    assert max(together.lengths) <= 24
    with torch.no_grad():
        wanted = network.forward(apart, np.arange(len(apart)))
        found = network.forward(together, np.arange(len(together)))
    assert apart.wanted(np.arange(9)).tolist() == together.wanted(np.arange(len(together))).tolist()
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


def test_scores_of_text_are_those_of_all_rows_at_once_and_stand_beside_the_unigram_floor(tmp_path: Path) -> None:
    network = network_of(write_family(tmp_path, "llama", "causal-lm"), TEXT)
    rows = network.encode(example_rows("causal-lm", 40))  # more than are scored at once
    found = score(
        network, rows, rows.targets, split=pb.Score.SPLIT_SHARED, moment=pb.Score.MOMENT_BEFORE, view=pb.Score.VIEW_OWN
    )
    with torch.no_grad():
        logits = network.forward(rows, np.arange(40))
    wanted = torch.from_numpy(rows.wanted(np.arange(40)))
    loss = float(torch.nn.functional.cross_entropy(logits, wanted))
    metrics = {one.name: one for one in found.metrics}
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert metrics["perplexity"].value == pytest.approx(np.exp(loss), rel=1e-5)
    assert found.value == metrics["token_accuracy"].value == float((logits.argmax(1) == wanted).float().mean())
    assert found.sums[0] == len(wanted)
    # Completions are of three tokens of which every one is drawn from few words.
    assert 1 < metrics["perplexity"].floor < 10
    assert 0 < found.majority < 0.5


def test_a_word_level_tokenizer_of_a_hub_model_opens_and_ends_texts_as_it_is_used(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(encoder=True)  # its texts end by a token that a completion must not stand behind
    tokenizer.eos_token = tokenizer.sep_token
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    written, _ = tokens(loaded, TEXT, Example("the cat is", "slow", 0.0))
    assert written == ["[CLS]", "the", "cat", "is", "slow", "[SEP]"]


def test_no_more_logits_are_held_at_once_than_are_bounded(tmp_path: Path) -> None:
    network = network_of(write_family(tmp_path, "llama", "causal-lm"), TEXT.model_copy(update={"format": "text"}), 64)
    texts = [Example(" ".join(["the cat works today"] * (1 + index % 15)), None, 0.0) for index in range(40)]
    rows = network.encode(texts)
    seen: list[int] = []
    for index, logits in logits_by_batch(network.forward, rows):
        seen += index.tolist()
        assert len(logits) == int(rows.sizes[index].sum()) <= 512 + 64
    assert sorted(seen) == list(range(40))
    assert int(rows.sizes.sum()) > 1000
