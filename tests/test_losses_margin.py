"""Margin losses against float64 loops written from the formulas, their limits, and automatic differentiation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from interproto_lib.errors import ConfigError
from interproto_lib.losses import (
    MARGIN_DEFAULTS,
    MARGIN_RULES,
    arcface_logits,
    class_scores,
    cosface_logits,
    cosine_similarities,
    inner_products,
    margin_logits,
    margin_softmax_loss,
    normface_logits,
    softmax_logits,
)


def random_cosines(batch=7, n=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    cosines = torch.rand(batch, n, generator=generator, dtype=torch.float64) * 1.98 - 0.99
    labels = torch.randint(0, n, (batch,), generator=generator)
    return cosines.to(dtype), labels


def reference_target(kind, c, *, margin):
    """Own-class score after the margin, one float at a time, by the angle rather than by the addition theorem."""
    if kind == "cosface":
        return c - margin
    if kind == "arcface":
        theta = math.acos(c)
        return math.cos(theta + margin) if theta + margin < math.pi else c - margin * math.sin(margin)
    return c


def reference_loss(kind, cosines, labels, *, scale, margin):
    total = 0.0
    for row, label in zip(cosines.tolist(), labels.tolist(), strict=True):
        logits = [scale * c for c in row]
        logits[label] = scale * reference_target(kind, row[label], margin=margin)
        top = max(logits)
        total += top + math.log(sum(math.exp(z - top) for z in logits)) - logits[label]
    return total / len(labels)


SETTINGS = [
    ("softmax", 1.0, 0.0),
    ("normface", 30.0, 0.0),
    ("cosface", 64.0, 0.35),
    ("cosface", 30.0, 0.4),
    ("arcface", 64.0, 0.5),
    ("arcface", 32.0, 0.3),
    ("arcface", 8.0, 2.0),
]


@pytest.mark.parametrize(("kind", "scale", "margin"), SETTINGS)
def test_loss_equals_the_loop(kind, scale, margin):
    cosines, labels = random_cosines(batch=50)
    expected = reference_loss(kind, cosines, labels, scale=scale, margin=margin)
    loss = margin_softmax_loss(cosines, labels, kind=kind, scale=scale, margin=margin)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    single = margin_softmax_loss(cosines.float(), labels, kind=kind, scale=scale, margin=margin)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize(("kind", "scale", "margin"), SETTINGS)
def test_only_the_own_class_is_changed(kind, scale, margin):
    cosines, labels = random_cosines(batch=40)
    before = cosines.clone()
    logits = margin_logits(cosines, labels, kind=kind, scale=scale, margin=margin)
    for i, label in enumerate(labels.tolist()):
        for j in range(cosines.shape[1]):
            c = cosines[i, j].item()
            expected = scale * (reference_target(kind, c, margin=margin) if j == label else c)
            assert logits[i, j].item() == pytest.approx(expected, abs=1e-11)
    assert torch.equal(cosines, before)


def test_arcface_falls_back_beyond_pi():
    # At theta = 3.0 a margin of 0.5 goes beyond pi: cos(3.5) > cos(pi) would reward a larger angle.
    inside, beyond = math.cos(2.6), math.cos(3.0)
    logits = arcface_logits(
        torch.tensor([[inside], [beyond]], dtype=torch.float64), torch.tensor([0, 0]), scale=64.0, margin_rad=0.5
    )
    assert logits[0, 0].item() == pytest.approx(64 * math.cos(3.1), abs=1e-9)
    assert logits[1, 0].item() == pytest.approx(64 * (beyond - 0.5 * math.sin(0.5)), abs=1e-9)


def test_arcface_target_falls_with_the_angle():
    angles = torch.linspace(0.01, math.pi - 0.01, 400, dtype=torch.float64)
    logits = arcface_logits(angles.cos()[:, None], torch.zeros(400, dtype=torch.int64), scale=64.0, margin_rad=0.5)
    assert torch.all(logits[1:, 0] < logits[:-1, 0])


@pytest.mark.parametrize("kind", ["cosface", "arcface"])
def test_margin_zero_is_normface(kind):
    cosines, labels = random_cosines(batch=30)
    scaled = margin_logits(cosines, labels, kind=kind, scale=64.0, margin=0.0)
    torch.testing.assert_close(scaled, normface_logits(cosines, labels, scale=64.0), rtol=1e-14, atol=1e-12)


def test_normface_at_scale_one_is_softmax_of_unit_vectors():
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.nn.functional.normalize(torch.randn(6, 8, generator=generator))
    prototypes = torch.nn.functional.normalize(torch.randn(4, 8, generator=generator))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    plain = margin_softmax_loss(class_scores(embeddings, prototypes, kind="softmax"), labels, kind="softmax")
    cosines = class_scores(embeddings, prototypes, kind="normface")
    torch.testing.assert_close(margin_softmax_loss(cosines, labels, kind="normface", scale=1.0), plain)


def test_softmax_takes_lengths_into_account_and_cosines_do_not():
    embeddings, prototypes = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    torch.testing.assert_close(inner_products(embeddings, prototypes), torch.tensor([[8.0, 3.0]]))
    torch.testing.assert_close(cosine_similarities(embeddings, prototypes), torch.tensor([[0.8, 0.6]]))
    torch.testing.assert_close(cosine_similarities(7 * embeddings, 0.1 * prototypes), torch.tensor([[0.8, 0.6]]))
    with pytest.raises(ConfigError, match="neither scale nor margin"):
        softmax_logits(embeddings, torch.tensor([0]), scale=64.0)
    with pytest.raises(ConfigError, match="no margin"):
        normface_logits(embeddings, torch.tensor([0]), margin=0.5)


def test_a_larger_margin_is_a_larger_loss():
    cosines, labels = random_cosines(batch=30)
    for kind in ("cosface", "arcface"):
        losses = [margin_softmax_loss(cosines, labels, kind=kind, scale=16.0, margin=m).item() for m in (0, 0.2, 0.5)]
        assert losses == sorted(losses)
        assert losses[0] < losses[2]


@pytest.mark.parametrize(("kind", "scale", "margin"), SETTINGS)
def test_gradcheck(kind, scale, margin):
    cosines, labels = random_cosines(batch=4, n=3, seed=3)
    cosines.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda c: margin_softmax_loss(c, labels, kind=kind, scale=scale, margin=margin), (cosines,)
    )


def test_gradcheck_from_embeddings_and_prototypes():
    generator = torch.Generator().manual_seed(2)
    embeddings = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    prototypes = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([4, 0, 2])
    for kind in MARGIN_RULES:
        assert torch.autograd.gradcheck(
            lambda x, w, kind=kind: margin_softmax_loss(class_scores(x, w, kind=kind), labels, kind=kind),
            (embeddings, prototypes),
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", list(MARGIN_RULES))
def test_gradients_are_finite_at_the_ends(kind, dtype):
    ends = [1.0, -1.0, 1.0 + 1e-7, -1.0 - 1e-7, 1.0 - 1e-7, 0.0]
    cosines = torch.tensor([[c, 0.3] for c in ends], dtype=dtype, requires_grad=True)
    loss = margin_softmax_loss(cosines, torch.zeros(len(ends), dtype=torch.int64), kind=kind)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(cosines.grad).all()
    assert (cosines.grad[:, 0] != 0).any()


def test_arcface_clamp_moves_a_logit_by_less_than_stated():
    exact = math.cos(0.5)
    logit = arcface_logits(torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([0]), scale=1.0, margin_rad=0.5)
    assert 0 < exact - logit.item() < 3.2e-5


@pytest.mark.parametrize("kind", list(MARGIN_RULES))
def test_float32_inside_autocast(kind):
    generator = torch.Generator().manual_seed(5)
    embeddings = torch.randn(8, 64, generator=generator)
    prototypes = torch.randn(20, 64, generator=generator, requires_grad=True)
    labels = torch.arange(8)

    def loss_and_gradient():
        scores = class_scores(embeddings, prototypes, kind=kind)
        assert scores.dtype == torch.float32
        loss = margin_softmax_loss(scores, labels, kind=kind)
        return loss, scores

    plain, plain_scores = loss_and_gradient()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (embeddings @ prototypes.T).dtype == torch.bfloat16
        cast, cast_scores = loss_and_gradient()
    assert cast.dtype == torch.float32
    assert torch.equal(plain_scores, cast_scores)
    assert torch.equal(plain, cast)
    (one,) = torch.autograd.grad(plain, prototypes)
    (two,) = torch.autograd.grad(cast, prototypes)
    assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", list(MARGIN_RULES))
def test_half_precision_inputs_are_widened_first(kind, dtype):
    generator = torch.Generator().manual_seed(6)
    embeddings = torch.randn(8, 32, generator=generator).to(dtype).requires_grad_()
    prototypes = torch.randn(9, 32, generator=generator)
    labels = torch.arange(8)
    narrow = margin_softmax_loss(class_scores(embeddings, prototypes, kind=kind), labels, kind=kind)
    wide = margin_softmax_loss(class_scores(embeddings.detach().float(), prototypes, kind=kind), labels, kind=kind)
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow, wide)
    narrow.backward()
    assert embeddings.grad.dtype == dtype
    assert torch.isfinite(embeddings.grad).all()
    half_cosines = random_cosines(dtype=dtype)[0]
    assert margin_logits(half_cosines, torch.zeros(7, dtype=torch.int64), kind=kind).dtype == torch.float32


def test_a_zero_vector_has_cosine_zero_and_no_gradient():
    embeddings = torch.tensor([[0.0, 0.0], [1.0, 2.0]], requires_grad=True)
    prototypes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    cosines = cosine_similarities(embeddings, prototypes)
    assert torch.equal(cosines[0], torch.zeros(3))
    assert torch.equal(cosines[:, 0], torch.zeros(2))
    margin_softmax_loss(cosines, torch.tensor([1, 2])).backward()
    assert torch.equal(embeddings.grad[0], torch.zeros(2))
    assert torch.equal(prototypes.grad[0], torch.zeros(2))
    assert (prototypes.grad[1:].norm(dim=1) > 0.001).all()


def test_cosines_equal_numpy():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(6, 16)) * 5, rng.normal(size=(9, 16)) * 0.01
    expected = (x @ w.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(w, axis=1)[None]
    np.testing.assert_allclose(cosine_similarities(torch.tensor(x), torch.tensor(w)).numpy(), expected, atol=1e-14)
    single = cosine_similarities(torch.tensor(x, dtype=torch.float32), torch.tensor(w, dtype=torch.float32))
    np.testing.assert_allclose(single.numpy(), expected, atol=3e-7)


def test_reductions_agree():
    cosines, labels = random_cosines()
    each = margin_softmax_loss(cosines, labels, reduction="none")
    assert each.shape == (7,)
    torch.testing.assert_close(each.sum(), margin_softmax_loss(cosines, labels, reduction="sum"))
    torch.testing.assert_close(each.mean(), margin_softmax_loss(cosines, labels))


def test_published_defaults_are_taken_when_none_is_given():
    cosines, labels = random_cosines()
    assert MARGIN_DEFAULTS["arcface"] == (64.0, 0.5)
    assert MARGIN_DEFAULTS["cosface"] == (64.0, 0.35)
    assert list(MARGIN_DEFAULTS) == list(MARGIN_RULES)
    torch.testing.assert_close(
        margin_logits(cosines, labels, kind="arcface"), arcface_logits(cosines, labels, scale=64.0, margin_rad=0.5)
    )
    torch.testing.assert_close(
        margin_logits(cosines, labels, kind="cosface"), cosface_logits(cosines, labels, scale=64.0, margin=0.35)
    )


def test_clear_errors():
    cosines, labels = random_cosines(batch=3, n=5)
    bad = torch.tensor([0, 5, 1])
    for kind in MARGIN_RULES:
        with pytest.raises(ConfigError, match=r"label 5 in row 1 .* outside \[0, 5\)"):
            margin_logits(cosines, bad, kind=kind)
        with pytest.raises(ConfigError, match="label -1 in row 2"):
            margin_logits(cosines, torch.tensor([0, 1, -1]), kind=kind)
        with pytest.raises(ConfigError, match=r"labels must have shape \(3,\)"):
            margin_logits(cosines, torch.tensor([0, 1]), kind=kind)
        with pytest.raises(ConfigError, match="labels must be integers"):
            margin_logits(cosines, labels.double(), kind=kind)
        with pytest.raises(ConfigError, match="shape"):
            margin_logits(cosines[0], labels, kind=kind)
    for scale in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="scale"):
            margin_logits(cosines, labels, kind="arcface", scale=scale)
    for kind, margin in (("arcface", -0.1), ("arcface", 3.2), ("arcface", math.nan), ("cosface", 2.1)):
        with pytest.raises(ConfigError, match="margin"):
            margin_logits(cosines, labels, kind=kind, margin=margin)
    with pytest.raises(ConfigError, match="unknown margin loss 'arc'"):
        margin_softmax_loss(cosines, labels, kind="arc")
    with pytest.raises(ConfigError, match="unknown margin loss"):
        class_scores(cosines, cosines, kind="arc")
    with pytest.raises(ConfigError, match="reduction"):
        margin_softmax_loss(cosines, labels, reduction="max")
    with pytest.raises(ConfigError, match="4 dimensions and prototypes 5"):
        cosine_similarities(torch.zeros(2, 4), torch.zeros(3, 5))
    with pytest.raises(ConfigError, match="embeddings must be"):
        inner_products(torch.zeros(4), torch.zeros(3, 4))
    with pytest.raises(ConfigError, match="prototypes must be"):
        cosine_similarities(torch.zeros(2, 4), torch.zeros(3, 4, dtype=torch.int64))
