"""The Inter-Prototype loss against loops over pairs, the official reading, frames that reach the bound, autodiff."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from interproto_lib.errors import ConfigError
from interproto_lib.losses import inter_prototype_loss, welch_bound

BOTH_FORMS = pytest.mark.parametrize("form", ["pairs", "gram"])


def random_prototypes(n, d, *, seed=0, dtype=torch.float64, shared=0.3):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64) + shared
    lengths = torch.rand(n, 1, generator=generator, dtype=torch.float64) * 3 + 0.1
    return (rows * lengths).to(dtype)


def reference_sum(prototypes):
    """Eq. 5 and 6, pair by pair."""
    rows = prototypes.double().tolist()
    lengths = [math.sqrt(math.fsum(x * x for x in row)) for row in rows]
    total = []
    for i in range(len(rows)):
        for j in range(len(rows)):
            if i != j:
                product = math.fsum(a * b for a, b in zip(rows[i], rows[j], strict=True))
                total.append((product / lengths[i] / lengths[j]) ** 2)
    return math.fsum(total)


def reference_sum_fast(prototypes):
    """The same in float64 with numpy, for larger sizes."""
    rows = prototypes.double().numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, 0)
    return float((cosines**2).sum())


@BOTH_FORMS
@pytest.mark.parametrize(("n", "d"), [(2, 3), (7, 3), (12, 12), (9, 40), (40, 9)])
def test_equals_the_sum_over_pairs(n, d, form):
    prototypes = random_prototypes(n, d, seed=n)
    expected = reference_sum(prototypes)
    assert inter_prototype_loss(prototypes, form=form).item() == pytest.approx(expected, rel=1e-12)
    single = inter_prototype_loss(prototypes.float(), form=form)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-5)


@BOTH_FORMS
def test_mean_is_the_official_mse_to_the_identity(form):
    prototypes = random_prototypes(30, 16)
    unit = prototypes / prototypes.norm(dim=1, keepdim=True)
    official = torch.nn.functional.mse_loss(unit @ unit.T, torch.eye(30, dtype=torch.float64))
    loss = inter_prototype_loss(prototypes, reduction="mean", form=form)
    assert loss.item() == pytest.approx(official.item(), rel=1e-12)


def test_the_two_readings_differ_by_n_squared():
    prototypes = random_prototypes(229, 512, dtype=torch.float32)
    total = inter_prototype_loss(prototypes, reduction="sum").item()
    mean = inter_prototype_loss(prototypes, reduction="mean").item()
    assert total / mean == pytest.approx(52_441, rel=1e-6)


@BOTH_FORMS
@pytest.mark.parametrize(("n", "d"), [(5, 3), (3, 6), (6, 6)])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gradcheck(n, d, form, reduction):
    prototypes = random_prototypes(n, d).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w: inter_prototype_loss(w, reduction=reduction, form=form), (prototypes,), fast_mode=False
    )


@BOTH_FORMS
def test_gradient_equals_automatic_differentiation_of_the_plain_formula(form):
    prototypes = random_prototypes(100, 48).requires_grad_()
    cosines = torch.nn.functional.cosine_similarity(prototypes[:, None], prototypes[None], dim=2)
    plain = cosines.square().sum() - cosines.diagonal().square().sum()
    (expected,) = torch.autograd.grad(3 * plain, prototypes)
    (gradient,) = torch.autograd.grad(3 * inter_prototype_loss(prototypes, form=form), prototypes)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-10)


@BOTH_FORMS
def test_second_derivative_is_exact(form):
    prototypes = random_prototypes(4, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda w: inter_prototype_loss(w, form=form), (prototypes,))


@pytest.mark.parametrize(("n", "d"), [(229, 512), (600, 128), (1148, 512)])
def test_forms_agree_in_float32(n, d):
    base = random_prototypes(n, d, dtype=torch.float32, shared=0.2)
    results = {}
    for form in ("pairs", "gram"):
        prototypes = base.clone().requires_grad_()
        loss = inter_prototype_loss(prototypes, form=form)
        loss.backward()
        results[form] = loss.item(), prototypes.grad
    assert results["gram"][0] == pytest.approx(results["pairs"][0], rel=1e-5)
    difference = (results["gram"][1] - results["pairs"][1]).norm() / results["pairs"][1].norm()
    assert difference < 1e-5


@BOTH_FORMS
def test_orthogonal_prototypes_give_zero_in_float32(form):
    generator = torch.Generator().manual_seed(3)
    basis, _ = torch.linalg.qr(torch.randn(256, 256, generator=generator, dtype=torch.float64))
    prototypes = (basis[:229] * 7).float().requires_grad_()
    loss = inter_prototype_loss(prototypes, form=form)
    loss.backward()
    # Gram's two terms are 229 each: what is left is their rounding. Pairs has nothing to cancel.
    assert abs(loss.item()) < (1e-4 if form == "gram" else 1e-9)
    assert prototypes.grad.abs().max() < 1e-5


@BOTH_FORMS
def test_error_near_orthogonality_is_the_rounding_of_n_at_most(form):
    errors = []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        basis, _ = torch.linalg.qr(torch.randn(256, 256, generator=generator, dtype=torch.float64))
        prototypes = (basis[:229] + 1e-4 * torch.randn(229, 256, generator=generator, dtype=torch.float64)).float()
        errors.append(inter_prototype_loss(prototypes, form=form).item() - reference_sum_fast(prototypes))
    # Values are about 1e-3. Float32 spaces numbers near 229 by 1.5e-5, which is what gram subtracts.
    assert np.sqrt(np.mean(np.square(errors))) < (4e-5 if form == "gram" else 1e-8)


@BOTH_FORMS
def test_identical_prototypes_reach_the_maximum(form):
    assert inter_prototype_loss(torch.ones(10, 4), form=form).item() == pytest.approx(90, rel=1e-6)
    assert inter_prototype_loss(torch.ones(10, 4), form=form, reduction="mean").item() == pytest.approx(0.9, rel=1e-6)


@BOTH_FORMS
def test_permutation_scale_sign_and_rotation_change_nothing(form):
    prototypes = random_prototypes(25, 10)
    loss = inter_prototype_loss(prototypes, form=form).item()
    generator = torch.Generator().manual_seed(9)
    order = torch.randperm(25, generator=generator)
    factors = torch.randn(25, 1, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(10, 10, generator=generator, dtype=torch.float64))
    for changed in (prototypes[order], prototypes * factors, prototypes @ rotation, prototypes * 1e-6):
        assert inter_prototype_loss(changed, form=form).item() == pytest.approx(loss, rel=1e-11)


@BOTH_FORMS
def test_gradient_is_orthogonal_to_every_prototype(form):
    prototypes = random_prototypes(20, 8).requires_grad_()
    inter_prototype_loss(prototypes, form=form).backward()
    radial = (prototypes.grad * prototypes.detach()).sum(dim=1)
    assert radial.abs().max() < 1e-11
    assert prototypes.grad.norm() > 1


@BOTH_FORMS
@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_none_or_one_prototype(n, form, reduction):
    prototypes = torch.ones(n, 4, requires_grad=True)
    loss = inter_prototype_loss(prototypes, form=form, reduction=reduction)
    assert loss.shape == ()
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(prototypes.grad, torch.zeros(n, 4))


@BOTH_FORMS
def test_zero_length_prototypes_count_for_nothing(form):
    prototypes = random_prototypes(6, 4, dtype=torch.float32)
    rest = inter_prototype_loss(prototypes[1:], form=form).item()
    prototypes[0] = 0
    prototypes.requires_grad_()
    loss = inter_prototype_loss(prototypes, form=form)
    loss.backward()
    assert loss.item() == pytest.approx(rest, rel=1e-6)
    assert torch.equal(prototypes.grad[0], torch.zeros(4))
    assert torch.isfinite(prototypes.grad).all()
    assert prototypes.grad[1:].abs().max() > 0.01


@BOTH_FORMS
def test_float32_inside_autocast(form):
    base = random_prototypes(40, 24, dtype=torch.float32)

    def run(context):
        prototypes = base.clone().requires_grad_()
        with context:
            loss = inter_prototype_loss(prototypes, form=form)
        loss.backward()
        return loss, prototypes.grad

    plain = run(torch.autocast("cpu", enabled=False))
    cast = run(torch.autocast("cpu", dtype=torch.bfloat16))
    assert cast[0].dtype == torch.float32
    assert torch.equal(plain[0], cast[0])
    assert torch.equal(plain[1], cast[1])


@BOTH_FORMS
def test_half_precision_input_is_widened_first(form):
    prototypes = random_prototypes(20, 12).to(torch.bfloat16)
    assert torch.equal(inter_prototype_loss(prototypes, form=form), inter_prototype_loss(prototypes.float(), form=form))


def simplex(d):
    """The d + 1 corners of the regular simplex in d dimensions: every cosine is -1/d."""
    corners = np.eye(d + 1) - 1 / (d + 1)
    _, _, axes = np.linalg.svd(corners)
    return torch.tensor(corners @ axes[:d].T)


@BOTH_FORMS
def test_frames_that_reach_the_welch_bound(form):
    d = 7
    frames = {
        "simplex": simplex(d),
        "two bases": torch.cat([torch.eye(d), torch.linalg.qr(random_prototypes(d, d))[0]]).double(),
        "mercedes": torch.tensor(
            [[math.cos(a), math.sin(a)] for a in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)]
        ).double(),
    }
    for name, frame in frames.items():
        n, width = frame.shape
        bound = n * n / width - n
        assert welch_bound(n, width) == pytest.approx(bound)
        assert inter_prototype_loss(frame, form=form).item() == pytest.approx(bound, abs=1e-6), name


def test_no_prototypes_fall_below_the_welch_bound():
    for n, d in ((3, 5), (20, 5), (200, 16)):
        assert inter_prototype_loss(random_prototypes(n, d, shared=0.0)).item() >= welch_bound(n, d)


def test_descent_reaches_the_welch_bound():
    prototypes = random_prototypes(12, 4, seed=8).requires_grad_()
    optimizer = torch.optim.Adam([prototypes], lr=0.05)
    for _ in range(250):
        optimizer.zero_grad()
        loss = inter_prototype_loss(prototypes)
        loss.backward()
        optimizer.step()
    assert welch_bound(12, 4) == 24
    assert loss.item() == pytest.approx(24, abs=1e-3)


def test_auto_takes_the_cheaper_form(monkeypatch):
    taken = []
    original = torch.Tensor.fill_diagonal_
    monkeypatch.setattr(torch.Tensor, "fill_diagonal_", lambda self, value: (taken.append(1), original(self, value))[1])
    for n, d, pairs in ((8, 8, True), (9, 8, False), (4, 8, True)):
        taken.clear()
        inter_prototype_loss(random_prototypes(n, d))
        assert bool(taken) is pairs


def test_clear_errors():
    with pytest.raises(ConfigError, match=r"\(4,\)"):
        inter_prototype_loss(torch.zeros(4))
    with pytest.raises(ConfigError, match="int64"):
        inter_prototype_loss(torch.zeros(4, 2, dtype=torch.int64))
    with pytest.raises(ConfigError, match="reduction must be one of sum, mean, got 'max'"):
        inter_prototype_loss(torch.zeros(4, 2), reduction="max")
    with pytest.raises(ConfigError, match="form must be one of"):
        inter_prototype_loss(torch.zeros(4, 2), form="both")
    with pytest.raises(ConfigError, match="n=3 and d=0"):
        welch_bound(3, 0)
