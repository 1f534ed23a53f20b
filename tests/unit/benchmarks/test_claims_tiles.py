"""Pages for the claim about tiles, papers for the one about routed experts: what is asked is there, splits apart."""

from __future__ import annotations

from random import Random

import torch
from PIL import Image
from torch import Tensor

from benchmarks.claims.blind import FRAMES, Blindfolded
from benchmarks.claims.lessons_pages import SIDES, pages, shape_of
from benchmarks.claims.lessons_papers import PAPERS
from mmllm.miniature.world.render import INK


def near(image: Image.Image, colour: str) -> bool:
    """Whether ink of that name is on a page."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(-1, 3).int()
    return bool(((pixels - torch.tensor(INK[colour])).abs() <= 14).all(-1).sum() > 20)


def test_a_page_shows_the_signs_that_it_is_asked_for_and_splits_are_apart() -> None:
    seen: dict[bool, set[tuple[object, ...]]] = {True: set(), False: set()}
    for number in range(400):
        held_out = number % 2 == 0
        lesson = pages(Random(number), held_out)
        assert lesson.image is not None and set(lesson.image.size) <= set(SIDES)
        for ask in lesson.asks:
            colour = ask.question.removeprefix("what is the ").removesuffix(" shape?")
            assert near(lesson.image, colour) and ask.kind == shape_of(*lesson.image.size)
            seen[held_out].add((lesson.image.size, colour, ask.answer))
    assert len(seen[True]) > 50 and len(seen[False]) > 200 and not seen[True] & seen[False]
    kinds = [shape_of(*size) for size in ((64, 64), (192, 64), (64, 128), (128, 128))]
    assert kinds == ["small", "wide", "tall", "large"]


def test_papers_differ_by_the_line_alone_and_it_names_the_papers_edge() -> None:
    edges = set()
    for number in range(30):
        own, everyone, another, nobody = (make(Random(number), number % 2 == 0) for make in PAPERS.values())
        assert own.image is not None
        for other in (everyone, another, nobody):
            assert other.image is not None and other.image.tobytes() == own.image.tobytes()
        question = everyone.asks[0].question
        (edge,) = (name for name, colour in FRAMES.items() if own.image.getpixel((0, 0)) == colour)
        assert own.asks[0].question == f"experts: {edge}\n{question}"
        line, _, rest = another.asks[0].question.partition("\n")
        assert nobody.asks[0].question == f"experts: none\n{question}"
        assert rest == question and line.removeprefix("experts: ") in set(FRAMES) - {edge}
        assert [ask.answer for ask in own.asks] == [ask.answer for ask in another.asks]
        edges.add(edge)
    assert edges == set(FRAMES)


def test_a_blindfolded_encoder_sees_its_own_paper_alone() -> None:
    def plain(image: Image.Image) -> Tensor:
        return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)

    image = PAPERS["papers"](Random(0), False).image
    assert image is not None
    (edge,) = (name for name, colour in FRAMES.items() if image.getpixel((0, 0)) == colour)
    other = next(name for name in FRAMES if name != edge)
    assert torch.equal(Blindfolded(plain, edge, 0)(image), plain(image))
    assert torch.equal(Blindfolded(plain, "", 0)(image), plain(image))
    noise = Blindfolded(plain, other, 0)(image)
    assert torch.equal(noise, Blindfolded(plain, other, 0)(image))
    # of noise every value is as frequent; a scene is mostly paper
    assert (
        noise.float().std() > 60
        and abs(torch.corrcoef(torch.stack([noise.float().flatten(), plain(image).float().flatten()]))[0, 1]) < 0.05
    )
    blurred = Blindfolded(plain, "", 4)(image).float()
    assert 0 < blurred.diff(dim=0).abs().mean() < plain(image).float().diff(dim=0).abs().mean() / 2
