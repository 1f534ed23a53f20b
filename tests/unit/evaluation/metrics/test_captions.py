"""CIDEr-D and BLEU by the values of COCO's own scorer, and captions cut into words as it cuts them."""

from __future__ import annotations

import pytest

from mmllm.evaluation.metrics.captions import Cider, bleu, words_of

SAID = ["a man rides a brown horse", "dogs dogs dogs run", "a street"]
REFERENCES = [
    ["a man rides a horse", "a man on a brown horse"],
    ["two dogs run in snow", "dogs are playing in the snow"],
    ["a red bus on a street", "a bus drives down the street"],
]


def test_values_of_cocos_scorer() -> None:
    references = [[one.split() for one in listed] for listed in REFERENCES]
    cider = Cider.of(references)
    scores = [cider.score(said.split(), listed) for said, listed in zip(SAID, references, strict=True)]
    # of pycocoevalcap 1.2
    assert scores == pytest.approx([5.351122671736839, 0.7893214356327188, 1.631074572114521], abs=1e-12)
    found = bleu(zip([said.split() for said in SAID], references, strict=True))
    known = [0.5493671917421421, 0.5307391298280602, 0.45281978628802877, 0.35171431128447805]
    assert found == pytest.approx(known, abs=1e-12)


def test_what_every_item_has_says_nothing() -> None:
    words = ["a", "dog"]
    assert Cider.of([[words]]).score(words, [words]) == 0.0
    assert Cider.of([[words], [words]]).score(words, [words]) == 0.0
    assert Cider.of([[words], [["cat"]]]).score([], [words]) == 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Man riding a motor bike, on a dirt road. ", "man riding a motor bike on a dirt road"),
        ("The dog's ball isn't red.", "the dog 's ball is n't red"),
        ("We can't see 3,000 cars at 10:30, but $5!", "we ca n't see 3,000 cars at 10:30 but $ 5"),
        ('the boys\' toys; "Coca-Cola" (new)', "the boys toys coca-cola -lrb- new -rrb-"),
        ("cats & dogs", "cats & dogs"),
        ("50% of it", "50 % of it"),
        ("I cannot do it... gonna try", "i can not do it gon na try"),
        ("U.S. flag, St. Louis, chairs, etc. ", "u.s. flag st. louis chairs etc."),
        ("", ""),
    ],
)  # fmt: skip
def test_captions_are_cut_as_the_treebank_cuts_them(text: str, words: str) -> None:
    assert words_of(text) == words.split()
