"""Answers: greedy, stopped at the mark, the same alone and in a batch, and read as Yes or No."""

import numpy as np
import pytest
import torch
from torch import Tensor

import model
from model.anomalygpt import AnomalyGPT
from model.generate import Answer, Speaker, published_right, reading

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = model.preset("tiny")
QUESTIONS = ("Any anomaly?", "Is there any anomaly in the image?", "Any anomaly!", "Why?")


class Normals:
    classes = ("brick", "grass")

    def normals(self, k: int) -> np.ndarray:
        shape = (2, k, CONFIG.image_size, CONFIG.image_size, 3)
        return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def net() -> AnomalyGPT:
    return model.build(CONFIG).eval()


@pytest.fixture(scope="module")
def speaker(net: AnomalyGPT) -> Speaker:
    return Speaker(net)


@pytest.fixture(scope="module")
def seen(net: AnomalyGPT) -> tuple[Tensor, Tensor]:
    """Image token and prompts of four images."""
    draw = torch.Generator().manual_seed(5)
    maps = torch.rand(4, 1, CONFIG.image_size, CONFIG.image_size, generator=draw)
    with torch.no_grad():
        return torch.randn(4, CONFIG.llm_width, generator=draw), net.prompt_learner(maps)


def naive(net: AnomalyGPT, speaker: Speaker, token: Tensor, prompts: Tensor, text: list[int], steps: int) -> list[int]:
    """Greedy decoding without a cache: the whole sequence again for each token."""
    ids = list(text)
    for _ in range(steps):
        inputs = net.llm.prefix(token[None], prompts[None], torch.tensor([ids]))
        with torch.no_grad():
            hidden = net.llm.llama.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
            ids.append(int(net.llm.llama.lm_head(hidden[0, -1]).argmax()))
    return ids[len(text) :]


def test_the_cache_changes_nothing(net: AnomalyGPT, speaker: Speaker, seen: tuple[Tensor, Tensor]) -> None:
    token, prompts = seen
    text = speaker.text(QUESTIONS[0])
    (answer,) = speaker(token[:1], prompts[:1], [text], max_new=12)
    wanted = speaker._decoded(naive(net, speaker, token[0], prompts[0], text, 12)).strip()
    assert answer.text == wanted != ""


def test_a_batch_says_what_each_image_alone_says(speaker: Speaker, seen: tuple[Tensor, Tensor]) -> None:
    token, prompts = seen
    texts = [speaker.text(question) for question in QUESTIONS]
    assert len({len(text) for text in texts}) == 3  # two of equal length share a group
    together = speaker(token, prompts, texts, max_new=16)
    alone = [speaker(token[[row]], prompts[[row]], [texts[row]], max_new=16)[0] for row in range(4)]
    assert [each.text for each in together] == [each.text for each in alone]
    assert len({each.text for each in together}) > 1  # else any answer could stand at any place
    np.testing.assert_allclose([each.score for each in together], [each.score for each in alone], rtol=1e-4, atol=1e-5)


def test_the_score_is_the_logit_difference_where_yes_and_no_part(
    net: AnomalyGPT, speaker: Speaker, seen: tuple[Tensor, Tensor]
) -> None:
    token, prompts = seen
    text = speaker.text(QUESTIONS[1])
    inputs = net.llm.prefix(token[:1], prompts[:1], torch.tensor([[*text, *speaker._ids(" ")]]))
    with torch.no_grad():
        hidden = net.llm.llama.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        logits = net.llm.llama.lm_head(hidden[0, -1])
    yes, no = (speaker._ids(letter)[0] for letter in "YN")
    (answer,) = speaker(token[:1], prompts[:1], [text], max_new=1)
    assert answer.score == pytest.approx(float(logits[yes] - logits[no]), abs=1e-5)
    assert answer.score != 0


def scripted(speaker: Speaker, monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[int]:
    """Make the LLM say these answers, row by row; the returned list grows by the number of rows of each step."""
    ids = [speaker._ids(answer) for answer in answers]
    steps: list[int] = []

    def head(hidden: Tensor) -> Tensor:
        logits = torch.zeros(*hidden.shape[:-1], CONFIG.llm_vocab)
        for row, wanted in enumerate(ids):
            logits[row, ..., wanted[min(len(steps), len(wanted) - 1)]] = 1
        steps.append(len(hidden))
        return logits

    monkeypatch.setattr(speaker.net.llm.llama.lm_head, "forward", head)
    return steps


def test_an_answer_ends_at_the_mark_and_a_finished_row_waits(
    speaker: Speaker, seen: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    token, prompts = seen
    steps = scripted(speaker, monkeypatch, " No.\n### Human: more", " Yes, there is.\n###")
    answers = speaker(token[:2], prompts[:2], [speaker.text("Any?")] * 2)
    assert [each.text for each in answers] == ["No.", "Yes, there is."]
    assert len(steps) == len(" Yes, there is.\n###")  # not one step after the last mark


def test_an_answer_without_a_mark_ends_at_the_limit(
    speaker: Speaker, seen: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = scripted(speaker, monkeypatch, "abcdefgh")
    (answer,) = speaker(seen[0][:1], seen[1][:1], [speaker.text("Any?")], max_new=5)
    assert (answer.text, len(steps)) == ("abcde", 5)


def test_an_answer_that_was_cut_says_so(
    speaker: Speaker, seen: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    token, prompts = seen
    scripted(speaker, monkeypatch, "No.###", "Yes, there is one.###")
    ended, cut = speaker(token[:2], prompts[:2], [speaker.text("Any?")] * 2, max_new=8)
    assert (ended.cut, ended.shown) == (False, "No.")
    assert (cut.cut, cut.text, cut.shown) == (True, "Yes, the", "Yes, the…")
    assert Answer("", 0.0).shown == "(nothing)"


def test_a_conversation_is_flattened_as_it_was_trained(speaker: Speaker) -> None:
    ids = speaker.text("Where?", [("Any?", "Yes."), ("Sure?", "Yes!")])
    assert speaker._tokens.decode(ids) == (
        "Any?\n### Assistant: Yes.\n### Human: Sure?\n### Assistant: Yes!\n### Human: Where?\n### Assistant:"
    )


def test_a_conversation_that_is_too_long_is_refused(speaker: Speaker) -> None:
    with pytest.raises(ValueError, match=r"\d+ tokens, more than max_text, 1024; begin a new one"):
        speaker.text("Where?", [("Any?", "Yes. " * 300)])


@pytest.mark.parametrize(
    ("text", "said"),
    [("Yes, there is.", True), ("no", False), (" No, Yes", False), ("Normal.", None), ("Nothing", None), ("", None)],
)
def test_the_first_word_is_the_answer(text: str, said: bool | None) -> None:
    assert reading(text) is said


def test_the_published_reading_looks_for_a_word_anywhere() -> None:
    assert published_right("It is Not broken", False)
    assert published_right("No, Yes", True)
    assert published_right("No, Yes", False)
    assert not published_right("yes", True)
