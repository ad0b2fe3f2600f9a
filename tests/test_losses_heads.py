"""SphereFace, CurricularFace, MV-Softmax, AdaFace and BroadFace against loops written from their formulas."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
import torch.nn.functional as F

from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError
from interproto_lib.losses import (
    HEADS,
    NormStatistics,
    adaface_logits,
    arcface_logits,
    batch_statistics,
    broadface_loss,
    build_head,
    compensated,
    cosface_logits,
    cosine_similarities,
    curricularface_logits,
    mv_softmax_logits,
    sphereface_annealing,
    sphereface_logits,
    updated_statistics,
)

B, N, D = 9, 6, 5
MARGINS = {"sphereface": 4.0, "softmax": 0.0, "normface": 0.0, "cosface": 0.35, "mv_am": 0.35, "adaface": 0.4}


def batch(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(B, D, generator=generator, dtype=torch.float64) * 3
    prototypes = torch.randn(N, D, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, N, (B,), generator=generator)
    return embeddings.to(dtype), prototypes.to(dtype), labels


def settings(kind, **changes):
    scale = 1.0 if kind in ("softmax", "sphereface") else 16.0
    chosen = {"margin_loss": kind, "scale": scale, "margin": MARGINS.get(kind, 0.5), "embedding_dim": D}
    return TrainConfig(**{**chosen, **changes})


def cosine(x, w):
    return sum(a * b for a, b in zip(x, w, strict=True)) / math.hypot(*x) / math.hypot(*w)


def turned(c, m):
    return math.cos(math.acos(c) + m)


def arcface_target(c, m):
    return turned(c, m) if math.acos(c) + m < math.pi else c - m * math.sin(m)


def sphereface_row(cosines, y, norm, *, m, annealing):
    theta = math.acos(cosines[y])
    k = math.floor(m * theta / math.pi)
    psi = (-1) ** k * math.cos(m * theta) - 2 * k
    row = [norm * c for c in cosines]
    row[y] = norm * (annealing * cosines[y] + psi) / (1 + annealing)
    return row


def curricular_row(cosines, y, *, t, s, m):
    border = turned(cosines[y], m)
    row = [s * (c * (t + c) if c > border else c) for c in cosines]
    row[y] = s * (border if cosines[y] > math.cos(math.pi - m) else cosines[y] - m * math.sin(math.pi - m))
    return row


def mv_row(cosines, y, *, arc, s, m, t, adaptive, easy):
    border = turned(cosines[y], m) if arc else cosines[y] - m
    row = [s * (((t + 1) * c + t if adaptive else c + t) if c > border else c) for c in cosines]
    row[y] = s * (cosines[y] if easy and cosines[y] <= 0 else border)
    return row


def adaface_row(cosines, y, norm, *, mean, std, s, m, h):
    quality = max(-1.0, min(1.0, (min(max(norm, 0.001), 100) - mean) / (std + 1e-3) * h))
    clipped = [max(-0.999, min(0.999, c)) for c in cosines]
    angle = min(max(math.acos(clipped[y]) - m * quality, 1e-3), math.pi - 1e-3)
    row = [s * c for c in clipped]
    row[y] = s * (math.cos(angle) - (m + m * quality))
    return row


def cross_entropy(rows, labels):
    total = 0.0
    for row, y in zip(rows, labels, strict=True):
        top = max(row)
        total += top + math.log(sum(math.exp(z - top) for z in row)) - row[y]
    return total / len(rows)


def loop(kind, embeddings, prototypes, labels, *, config, state):
    """Loss of a batch, one float at a time; `state` is t, (mean, std) or the annealing as the head should have it."""
    rows = []
    for x, y in zip(embeddings.tolist(), labels.tolist(), strict=True):
        cosines = [cosine(x, w) for w in prototypes.tolist()]
        s, m, norm = config.scale, config.margin, math.hypot(*x)
        if kind == "sphereface":
            rows.append(sphereface_row(cosines, y, norm, m=int(m), annealing=state))
        elif kind == "curricularface":
            rows.append(curricular_row(cosines, y, t=state, s=s, m=m))
        elif kind in ("mv_am", "mv_arc"):
            weights = {"t": config.mv_hard_weight, "adaptive": config.mv_adaptive, "easy": config.mv_easy_margin}
            rows.append(mv_row(cosines, y, arc=kind == "mv_arc", s=s, m=m, **weights))
        else:
            rows.append(adaface_row(cosines, y, norm, mean=state[0], std=state[1], s=s, m=m, h=0.333))
    return cross_entropy(rows, labels.tolist())


def expected_state(kind, embeddings, prototypes, labels, *, step=0, before=None):
    """What a head remembers when it uses it: updated before use, by the formulas."""
    if kind == "sphereface":
        return max(5.0, 1000 / (1 + 0.12 * step))
    own = [cosine(x, prototypes.tolist()[y]) for x, y in zip(embeddings.tolist(), labels.tolist(), strict=True)]
    if kind == "curricularface":
        return 0.01 * statistics.fmean(own) + 0.99 * (before or 0.0)
    if kind == "adaface":
        norms = [math.hypot(*x) for x in embeddings.tolist()]
        mean, std = before or (20.0, 100.0)
        return 0.01 * statistics.fmean(norms) + 0.99 * mean, 0.01 * statistics.stdev(norms) + 0.99 * std
    return None


NEW = ("sphereface", "curricularface", "mv_am", "mv_arc", "adaface")
VARIANTS = [
    *((kind, {}) for kind in NEW),
    ("mv_am", {"mv_adaptive": False}),
    ("mv_am", {"mv_easy_margin": True}),
    ("mv_arc", {"mv_adaptive": False, "mv_easy_margin": True, "mv_hard_weight": 0.4}),
    ("curricularface", {"margin": 1.4}),
]


@pytest.mark.parametrize(("kind", "changes"), VARIANTS)
def test_three_batches_equal_the_loop(kind, changes):
    config = settings(kind, **changes)
    head = build_head(config).double()
    state = None
    for step in range(3):
        embeddings, prototypes, labels = batch(seed=step)
        state = expected_state(kind, embeddings, prototypes, labels, step=step, before=state)
        loss, predicted = head(embeddings, prototypes, labels)
        assert loss.item() == pytest.approx(
            loop(kind, embeddings, prototypes, labels, config=config, state=state), rel=1e-9
        )
        assert torch.equal(predicted, cosine_similarities(embeddings, prototypes).argmax(1))


@pytest.mark.parametrize("kind", NEW)
def test_the_gradient_is_that_of_the_loop(kind):
    """Central differences of the loop in float64, with what is remembered held fixed."""
    config = settings(kind)
    embeddings, prototypes, labels = batch(seed=7)
    state = expected_state(kind, embeddings, prototypes, labels)
    embeddings.requires_grad_()
    build_head(config).double()(embeddings, prototypes, labels).loss.backward()
    eps = 1e-6
    for place in ((0, 0), (3, 2), (8, 4)):
        values = []
        for sign in (1, -1):
            moved = embeddings.detach().clone()
            moved[place] += sign * eps
            values.append(_loss_with_fixed_quality(kind, moved, embeddings.detach(), prototypes, labels, config, state))
        assert embeddings.grad[place].item() == pytest.approx((values[0] - values[1]) / (2 * eps), rel=2e-4, abs=1e-7)


def _loss_with_fixed_quality(kind, moved, before, prototypes, labels, config, state):
    """AdaFace's quality carries no gradient: the loop takes it from the embeddings before they were moved."""
    if kind != "adaface":
        return loop(kind, moved, prototypes, labels, config=config, state=state)
    rows = []
    for x, old, y in zip(moved.tolist(), before.tolist(), labels.tolist(), strict=True):
        cosines = [cosine(x, w) for w in prototypes.tolist()]
        weights = {"mean": state[0], "std": state[1], "s": config.scale, "m": config.margin, "h": 0.333}
        rows.append(adaface_row(cosines, y, math.hypot(*old), **weights))
    return cross_entropy(rows, labels.tolist())


@pytest.mark.parametrize("kind", NEW)
def test_gradients_of_the_functions(kind):
    embeddings, prototypes, labels = batch(seed=3)
    config = settings(kind)
    state, lengths = expected_state(kind, embeddings, prototypes, labels), embeddings.norm(dim=1)

    def loss(x, w):
        cosines = cosine_similarities(x, w)
        if kind == "sphereface":
            logits = sphereface_logits(cosines, labels, x.norm(dim=1), margin_factor=4, annealing=state)
        elif kind == "curricularface":
            logits = curricularface_logits(cosines, labels, progress=state, scale=config.scale, margin_rad=0.5)
        elif kind in ("mv_am", "mv_arc"):
            logits = mv_softmax_logits(cosines, labels, variant=kind[3:], scale=config.scale, margin=config.margin)
        else:
            fixed = NormStatistics(*(torch.tensor(value, dtype=torch.float64) for value in state))
            logits = adaface_logits(cosines, labels, lengths, statistics=fixed, scale=16.0, margin=0.4)
        return F.cross_entropy(logits, labels)

    assert torch.autograd.gradcheck(loss, (embeddings.requires_grad_(), prototypes.requires_grad_()))


# --- limits -----------------------------------------------------------------------------------------


def test_limits():
    embeddings, prototypes, labels = batch(seed=1)
    cosines, norms = cosine_similarities(embeddings, prototypes), embeddings.norm(dim=1)
    close = torch.testing.assert_close
    close(
        mv_softmax_logits(cosines, labels, scale=64.0, margin=0.35, hard_weight=0.0, easy_margin=False),
        cosface_logits(cosines, labels, margin=0.35),
    )
    close(
        sphereface_logits(cosines, labels, norms, margin_factor=1, annealing=0.0),
        embeddings @ F.normalize(prototypes).T,
    )
    close(sphereface_logits(cosines, labels, norms, annealing=1e12), cosines * norms[:, None])
    hardless = curricularface_logits(cosines.clamp_min(-1), labels, progress=1.0)
    easy = cosines <= (cosines.gather(1, labels[:, None]).acos() + 0.5).cos()
    easy.scatter_(1, labels[:, None], True)
    close(hardless[easy], arcface_logits(cosines, labels)[easy])
    # At q = 0 AdaFace is CosFace; at q = -1 its angle is ArcFace's, without a margin on the cosine.
    at_mean = NormStatistics(norms.mean(), norms.std())
    average = torch.full_like(norms, norms.mean().item())
    close(
        adaface_logits(cosines, labels, average, statistics=at_mean, margin=0.4),
        cosface_logits(cosines, labels, margin=0.4),
    )
    shortest = torch.full_like(norms, 1e-3)
    low = NormStatistics(torch.tensor(90.0).double(), torch.tensor(1.0).double())
    angle = cosines.gather(1, labels[:, None]).acos()
    expected = 64 * (angle + 0.4).clamp_max(math.pi - 1e-3).cos()
    close(adaface_logits(cosines, labels, shortest, statistics=low, margin=0.4).gather(1, labels[:, None]), expected)


def test_psi_falls_without_a_jump_from_1_to_1_minus_2m():
    theta = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    logits = sphereface_logits(
        theta.cos()[:, None], torch.zeros(2001, dtype=torch.int64), torch.ones(2001).double(), annealing=0.0
    )[:, 0]
    assert logits[0].item() == pytest.approx(1)
    assert logits[-1].item() == pytest.approx(1 - 2 * 4)
    steps = logits.diff()
    assert (steps <= 1e-12).all()
    assert steps.abs().max() < 4 * math.pi / 2000 + 1e-9


def test_annealing():
    assert sphereface_annealing(10) == pytest.approx(1000 / 2.2)
    assert sphereface_annealing(3, start=8.0, decay=1.0, lowest=1.5) == 2.0


# --- BroadFace --------------------------------------------------------------------------------------


def arcface_loop(embeddings, prototypes, labels, *, s, m):
    rows = []
    for x, y in zip(embeddings.tolist(), labels.tolist(), strict=True):
        cosines = [cosine(x, w) for w in prototypes.tolist()]
        row = [s * c for c in cosines]
        row[y] = s * arcface_target(cosines[y], m)
        rows.append(row)
    return cross_entropy(rows, labels.tolist())


def moved_along(x, then, now):
    ratio = math.hypot(*x) / math.hypot(*then)
    return [e + ratio * (new - old) for e, new, old in zip(x, now, then, strict=True)]


def test_broadface_equals_the_loop_while_prototypes_move():
    config = settings("broadface", broadface_queue=20)
    head = build_head(config).double()
    queue = []
    for step in range(4):
        embeddings, prototypes, labels = batch(seed=step)
        past = [
            [
                e + math.hypot(*x) / math.hypot(*old) * (now - was)
                for e, now, was in zip(x, prototypes.tolist()[y], old, strict=True)
            ]
            for x, old, y in queue
        ]
        everybody = torch.tensor([*past, *embeddings.tolist()], dtype=torch.float64)
        identities = torch.tensor([*(y for _, _, y in queue), *labels.tolist()])
        expected = arcface_loop(embeddings, prototypes, labels, s=16.0, m=0.5)
        expected += arcface_loop(everybody, prototypes, identities, s=16.0, m=0.5)
        assert head(embeddings, prototypes, labels).loss.item() == pytest.approx(expected, rel=1e-9)
        queue += [(x, prototypes.tolist()[y], y) for x, y in zip(embeddings.tolist(), labels.tolist(), strict=True)]
        queue = queue[-20:]
    assert len(queue) == 20 < 4 * B


def test_broadface_splits_its_gradients():
    embeddings, prototypes, labels = batch()
    queued, queued_labels = batch(seed=5)[0], batch(seed=5)[2]
    x, w = embeddings.clone().requires_grad_(), prototypes.clone().requires_grad_()
    broadface_loss(x, w, labels, queued=queued, queued_labels=queued_labels, scale=16.0)[0].backward()
    alone_x = embeddings.clone().requires_grad_()
    F.cross_entropy(arcface_logits(cosine_similarities(alone_x, prototypes), labels, scale=16.0), labels).backward()
    torch.testing.assert_close(x.grad, alone_x.grad)
    alone_w = prototypes.clone().requires_grad_()
    everybody, identities = torch.cat([queued, embeddings]), torch.cat([queued_labels, labels])
    F.cross_entropy(
        arcface_logits(cosine_similarities(everybody, alone_w), identities, scale=16.0), identities
    ).backward()
    torch.testing.assert_close(w.grad, alone_w.grad)


def test_an_empty_queue_is_arcface():
    embeddings, prototypes, labels = batch()
    grads = {}
    for kind in ("arcface", "broadface"):
        x, w = embeddings.clone().requires_grad_(), prototypes.clone().requires_grad_()
        loss = build_head(settings(kind, broadface_queue=50)).double()(x, w, labels).loss
        loss.backward()
        grads[kind] = (loss, x.grad, w.grad)
    assert grads["broadface"][0].item() == pytest.approx(2 * grads["arcface"][0].item())
    torch.testing.assert_close(grads["broadface"][1:], grads["arcface"][1:])


def test_a_batch_larger_than_the_queue_leaves_its_last_images():
    head = build_head(settings("broadface", broadface_queue=4)).double()
    embeddings, prototypes, labels = batch()
    head(embeddings, prototypes, labels)
    torch.testing.assert_close(head.queue, embeddings[-4:])
    assert head.queue_labels.tolist() == labels[-4:].tolist()


def test_compensation_of_a_prototype_without_length():
    moved = compensated(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, 2))
    assert moved.tolist() == [[1, 1]]


# --- every head -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HEADS)
def test_gradients_are_finite_at_the_edges(kind):
    prototypes = torch.eye(3, requires_grad=True)
    embeddings = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 0, 0], [1e-30, 0, 0], [1e4, 1e4, 0]], requires_grad=True)
    head = build_head(settings(kind, embedding_dim=3, broadface_queue=8))
    for _ in range(2):
        loss = head(embeddings, prototypes, torch.tensor([0, 0, 0, 1, 2])).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(embeddings.grad).all()
    assert torch.isfinite(prototypes.grad).all()


@pytest.mark.parametrize("kind", HEADS)
def test_autocast_changes_nothing(kind):
    embeddings, prototypes, labels = batch(dtype=torch.float32)
    plain = build_head(settings(kind, broadface_queue=8))(embeddings, prototypes, labels).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = build_head(settings(kind, broadface_queue=8))(embeddings, prototypes, labels).loss
    assert under.dtype == torch.float32
    assert torch.equal(plain, under)


@pytest.mark.parametrize("kind", HEADS)
def test_state_goes_on_exactly(kind):
    one = build_head(settings(kind, broadface_queue=13))
    for seed in range(3):
        one(*batch(seed=seed, dtype=torch.float32))
    other = build_head(settings(kind, broadface_queue=13))
    other.load_state_dict(one.state_dict())
    for seed in range(3, 6):
        a = one(*batch(seed=seed, dtype=torch.float32)).loss
        assert torch.equal(a, other(*batch(seed=seed, dtype=torch.float32)).loss)


@pytest.mark.parametrize("kind", HEADS)
def test_nothing_is_remembered_outside_training(kind):
    head = build_head(settings(kind, broadface_queue=13)).eval()
    first = head(*batch(dtype=torch.float32)).loss
    assert torch.equal(first, head(*batch(dtype=torch.float32)).loss)


@pytest.mark.parametrize("kind", HEADS)
def test_labels_out_of_range(kind):
    embeddings, prototypes, labels = batch(dtype=torch.float32)
    with pytest.raises(ConfigError, match="outside"):
        build_head(settings(kind))(embeddings, prototypes, labels + N)


def test_statistics_of_lengths():
    norms = torch.tensor([1.0, 3.0, 500.0])
    found = batch_statistics(norms)
    assert found.mean.item() == pytest.approx(104 / 3)
    assert found.std.item() == pytest.approx(statistics.stdev([1, 3, 100]))
    updated = updated_statistics(NormStatistics(torch.tensor(20.0), torch.tensor(100.0)), found)
    assert updated.mean.item() == pytest.approx(0.01 * 104 / 3 + 0.99 * 20)
    with pytest.raises(ConfigError, match="two images"):
        batch_statistics(norms[:1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, y, n: sphereface_logits(c, y, n, margin_factor=0), "whole number"),
        (lambda c, y, n: sphereface_logits(c, y, n, annealing=-1.0), "annealing"),
        (lambda c, y, n: sphereface_logits(c, y, n[:2]), "norms"),
        (lambda c, y, n: curricularface_logits(c, y, progress=0.0, margin_rad=4.0), "margin"),
        (lambda c, y, n: mv_softmax_logits(c, y, variant="cos"), "variant"),
        (lambda c, y, n: mv_softmax_logits(c, y, hard_weight=-1.0), "hard_weight"),
        (lambda c, y, n: adaface_logits(c, y, n, statistics=batch_statistics(n), margin=2.0), "margin"),
        (lambda c, y, n: adaface_logits(c, y, n, statistics=batch_statistics(n), concentration=0.0), "concentration"),
        (lambda c, y, n: adaface_logits(c, y, n[:1], statistics=batch_statistics(n)), "norms"),
    ],
)
def test_numbers_out_of_range(call, message):
    embeddings, prototypes, labels = batch()
    with pytest.raises(ConfigError, match=message):
        call(cosine_similarities(embeddings, prototypes), labels, embeddings.norm(dim=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin_loss": "sphereface", "scale": 64.0, "margin": 4.0}, "scale"),
        ({"margin_loss": "sphereface", "scale": 1.0, "margin": 0.5}, "whole number"),
        ({"mv_hard_weight": -0.1}, "mv_hard_weight"),
        ({"curricular_momentum": 1.5}, "curricular_momentum"),
        ({"broadface_queue": 0}, "broadface_queue"),
        ({"adaface_concentration": 0.0}, "adaface_concentration"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**changes)


# --- another implementation -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # its SphereFace, under numpy 2
@pytest.mark.parametrize("kind", ["arcface", "cosface", "sphereface", "normface"])
def test_equal_to_pytorch_metric_learning(kind):
    """Its prototypes are columns, its angular margins degrees, its SphereFace has no annealing."""
    from pytorch_metric_learning import losses

    embeddings, prototypes, labels = batch(seed=2)
    # Angles at which its clamp and its missing fall-back beyond pi make no difference.
    embeddings = embeddings + 3 * prototypes[labels]
    theirs = {
        "arcface": lambda: losses.ArcFaceLoss(N, D, margin=math.degrees(0.5), scale=16.0),
        "cosface": lambda: losses.CosFaceLoss(N, D, margin=0.35, scale=16.0),
        "sphereface": lambda: losses.SphereFaceLoss(N, D, margin=4, scale=1.0),
        "normface": lambda: losses.NormalizedSoftmaxLoss(N, D, temperature=1 / 16.0),
    }[kind]().double()
    theirs.W.data.copy_(prototypes.T)
    changes = {"sphereface_lambda_start": 0.0, "sphereface_lambda_min": 0.0} if kind == "sphereface" else {}
    x, y = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    ours = build_head(settings(kind, **changes)).double()(x, prototypes, labels).loss
    ours.backward()
    expected = theirs(y, labels)
    expected.backward()
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-8)
