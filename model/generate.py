"""Greedy answers: what the LLM says about an image, and how much rather Yes than No.

B batch, W LLM width, N prompt tokens, T text positions.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from model.anomalygpt import AnomalyGPT
from model.precision import full, reduced
from model.tokenizer import tokenizer

STOP = "###"
MAX_NEW = 64  # tokens; the longest trained answer has 29 with the published tokenizer
FIRST_WORD = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


class Answer(NamedTuple):
    """`text` ends before STOP. `score`: logit of Yes minus logit of No where an answer's first word stands.

    `cut`: it had more to say when its tokens ran out.
    """

    text: str
    score: float
    cut: bool = False

    @property
    def shown(self) -> str:
        """The text for a reader, who must see where it was cut."""
        return f"{self.text}…" if self.cut else self.text or "(nothing)"


def reading(text: str) -> bool | None:
    """Whether an answer says that there is an anomaly: its first word is Yes or No. None for any other beginning."""
    found = FIRST_WORD.match(text)
    return None if found is None else found[1].lower() == "yes"


def published_right(text: str, defective: bool) -> bool:
    """Whether the published evaluation counts an answer as right: the word it looks for occurs anywhere.

    An answer with both words, or with "Not" or "Normal" for a normal image, is right there.
    """
    return ("Yes" if defective else "No") in text


class Speaker:
    """The LLM of a prepared or unprepared model, with its tokenizer. Caller's business: eval mode."""

    def __init__(self, net: AnomalyGPT) -> None:
        self.net, self._tokens = net, tokenizer(net.config)
        # As in training: SentencePiece begins each piece with a space of its own, the others are given one.
        begins = self._tokens.convert_ids_to_tokens(self._ids("Yes"))[0].startswith("\u2581")
        self._lead = "" if begins else " "
        yes, no = (self._ids(f"{self._lead}{word}") for word in ("Yes", "No"))
        equal = next(place for place, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b)
        self._common, self._yes, self._no = yes[:equal], yes[equal], no[equal]

    def text(self, question: str, turns: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Ids (T) that stand after the prompts; `turns` are earlier questions with their answers, the first one first.

        Raises ValueError where they are more than the model takes; leave out early turns then.
        """
        pieces = []
        for asked, answered in turns:
            pieces += [f"{asked}\n{STOP} Assistant:", f"{self._lead}{answered}\n{STOP}"]
        pieces.append(f"{question}\n{STOP} Assistant:")
        # A later question is a piece that begins with the speaker; the first one's stands before the image.
        pieces[2::2] = [f"{self._lead}Human: {piece}" for piece in pieces[2::2]]
        ids = [number for piece in pieces for number in self._ids(piece)]  # each tokenised alone, as in training
        limit = self.net.config.max_text
        if len(ids) > limit:
            raise ValueError(f"the conversation has {len(ids)} tokens, more than max_text, {limit}; begin a new one")
        return ids

    @torch.no_grad()
    def __call__(
        self, token: Tensor, prompts: Tensor, texts: Sequence[Sequence[int]], *, max_new: int = MAX_NEW
    ) -> list[Answer]:
        """The answer to each text. token (B, W), prompts (B, N, W), B texts of ids, of any lengths.

        Texts of equal length go through the LLM together; none is padded, so the neighbours change nothing.
        """
        groups = defaultdict(list)
        for row, text in enumerate(texts):
            groups[len(text)].append(row)
        found: dict[int, Answer] = {}
        for rows in groups.values():
            ids = torch.tensor([list(texts[row]) for row in rows], device=token.device)
            with reduced(self.net.profile, token.device):
                found |= zip(rows, self._group(token[rows], prompts[rows], ids, max_new), strict=True)
        return [found[row] for row in range(len(texts))]

    def _group(self, token: Tensor, prompts: Tensor, ids: Tensor, max_new: int) -> list[Answer]:
        llama, count, common = self.net.llm.llama, len(ids), len(self._common)
        begun = ids.new_tensor(self._common).expand(count, -1)  # what Yes and No share: nothing, where each is a token
        cache = DynamicCache(config=llama.config)
        inputs = self.net.llm.prefix(token, prompts, torch.cat([ids, begun], dim=1))
        hidden = llama.model(inputs_embeds=inputs, past_key_values=cache, use_cache=True).last_hidden_state
        ends = full(llama.lm_head(hidden[:, -1 - common :]))  # (B, 1 + common, vocabulary)
        scores = (ends[:, -1, self._yes] - ends[:, -1, self._no]).tolist()
        if common:
            cache.crop(-common)
        said: list[list[int]] = [[] for _ in range(count)]
        open_rows, logits = set(range(count)), ends[:, 0]
        while True:
            chosen = logits.argmax(-1)
            for row in sorted(open_rows):
                said[row].append(int(chosen[row]))
                if said[row][-1] == self._tokens.eos_token_id or STOP in self._decoded(said[row]):
                    open_rows.discard(row)
            if not open_rows or max(map(len, said)) >= max_new:
                break
            embedded = llama.model.embed_tokens(chosen.unsqueeze(1))
            step = llama.model(inputs_embeds=embedded, past_key_values=cache, use_cache=True)
            logits = full(llama.lm_head(step.last_hidden_state[:, -1]))
        texts = (self._decoded(row).split(STOP)[0].strip() for row in said)
        return [
            Answer(text, score, row in open_rows) for row, (text, score) in enumerate(zip(texts, scores, strict=True))
        ]

    def _ids(self, text: str) -> list[int]:
        return list(self._tokens(text, add_special_tokens=False).input_ids)

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokens.decode(ids, skip_special_tokens=True))
