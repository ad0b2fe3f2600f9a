"""Losses over two and three processes, in chunks and in parts, against one process and against plain formulas."""

from __future__ import annotations

import copy
import math

import pytest
import sharded_losses as cases
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from interproto_lib.errors import ConfigError
from interproto_lib.losses import HEADS, RowSGD, build_head, inter_prototype, inter_prototype_loss
from interproto_lib.losses.partial_fc import drawn_rows
from interproto_lib.losses.ranks import average_over_ranks, gather_rows, rank, shard_rows, world_size

SIZES = (3, 2)
OVER_PROCESSES = pytest.mark.parametrize("n_processes", SIZES)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process of each group found."""
    return cases.in_processes(SIZES, tmp_path_factory.mktemp("processes"))


def whole(results, name, step, quantity):
    """A quantity of a step over all processes, put together."""
    return torch.cat([result["heads"][name]["steps"][step][quantity] for result in results])


def tolerances(case):
    # Float32: the gradient of an arc is steep, and a scale of 16 stands before it.
    return {"rtol": 2e-4, "atol": 2e-5} if case.get("dtype") == torch.float32 else {"rtol": 1e-8, "atol": 1e-11}


# --- heads ------------------------------------------------------------------------------------------


@OVER_PROCESSES
@pytest.mark.parametrize("name", cases.CASES)
def test_a_head_over_processes_equals_one_process(found, name, n_processes):
    """Loss, classes predicted, gradients and what is remembered; one process goes part by part, densely if it can."""
    case, results = cases.CASES[name], found[n_processes]
    is_partial = "rate" in case
    alone = cases.train(case, cases.config_of(case, chunk=case["chunk"] if is_partial else 0), dense=not is_partial)
    close = tolerances(case)
    for step, expected in enumerate(alone["steps"]):
        for result in results:
            assert result["heads"][name]["steps"][step]["loss"] == pytest.approx(expected["loss"], rel=close["rtol"])
            assert result["heads"][name]["steps"][step]["is_sparse"] == is_partial
        assert torch.equal(whole(results, name, step, "predicted"), expected["predicted"])
        for quantity in ("embeddings", "prototypes"):
            torch.testing.assert_close(whole(results, name, step, quantity), expected[quantity], **close)
        drawn = [row for result in results for row in result["heads"][name]["steps"][step]["drawn"]]
        assert drawn == expected["drawn"]
    for result in results:
        torch.testing.assert_close(result["heads"][name]["state"], alone["state"], **close)


def formula_row(kind, x, prototypes, y, looked_at, *, config, state):
    """Logits of one image, class by class, from the formulas; tensors, so that they can be differentiated."""
    looked_at = sorted({*looked_at, y})
    s, m, length = config.scale, config.margin, x.norm()
    raw = {j: x @ prototypes[j] for j in looked_at}
    c = {j: raw[j] / length / prototypes[j].norm() for j in looked_at}
    if kind == "softmax":
        return raw
    if kind == "adaface":
        c = {j: value.clamp(-0.999, 0.999) for j, value in c.items()}
    z = {j: s * value for j, value in c.items()}
    own = c[y]
    turned = (own.acos() + m).cos()
    if kind in ("arcface", "broadface", "curricularface"):
        z[y] = s * (turned if own.acos() + m < math.pi else own - m * math.sin(m))
    if kind == "cosface":
        z[y] = s * (own - m)
    if kind == "curricularface":
        z |= {j: s * v * (state + v) for j, v in c.items() if j != y and v > turned}
    if kind in ("mv_am", "mv_arc"):
        border = own - m if kind == "mv_am" else turned
        t = config.mv_hard_weight
        z |= {j: s * ((t + 1) * v + t) for j, v in c.items() if j != y and v > border}
        z[y] = s * border
    if kind == "sphereface":
        k = math.floor(m * own.detach().acos() / math.pi)
        z = {j: length * v for j, v in c.items()}
        z[y] = length * (state * own + (-1) ** k * (m * own.acos()).cos() - 2 * k) / (1 + state)
    if kind == "adaface":
        mean, std = state
        q = ((length.detach() - mean) / (std + 1e-3) * config.adaface_concentration).clamp(-1, 1)
        z[y] = s * ((own.acos() - m * q).clamp(1e-3, math.pi - 1e-3).cos() - (m + m * q))
    return z


def formula_loss(kind, images, prototypes, labels, looked_at, *, config, state):
    losses = []
    for x, y in zip(images, labels, strict=True):
        z = formula_row(kind, x, prototypes, y, looked_at, config=config, state=state)
        losses.append(torch.stack(list(z.values())).logsumexp(0) - z[y])
    return torch.stack(losses).mean()


def brought_up_to_date(kind, before, images, prototypes, labels, *, step):
    """What a part of a step is looked at with, by the formulas."""
    if kind == "sphereface":
        return max(5.0, 1000 / (1 + 0.12 * step))
    if kind == "curricularface":
        own = [x @ prototypes[y] / x.norm() / prototypes[y].norm() for x, y in zip(images, labels, strict=True)]
        return 0.99 * before + 0.01 * torch.stack(own).mean()
    if kind == "adaface":
        lengths = torch.stack([x.norm() for x in images])
        return torch.stack([0.99 * before[0] + 0.01 * lengths.mean(), 0.99 * before[1] + 0.01 * lengths.std()])
    return None


@pytest.mark.parametrize("name", [name for name, case in cases.CASES.items() if "dtype" not in case])
def test_a_head_over_processes_equals_the_formulas(found, name):
    """In float64, image by image and class by class; the gradients by automatic differentiation of that."""
    case, results = cases.CASES[name], found[3]
    config, kind = cases.config_of(case), case["kind"]
    memory = {"curricularface": torch.zeros(()).double(), "adaface": torch.tensor([20.0, 100.0]).double()}.get(kind)
    queue = []
    for step, of_first in enumerate(results[0]["heads"][name]["steps"]):
        looked_at = list(range(case["n"]))
        if "rate" in case:
            drawn = drawn_rows(
                range(case["n"]), torch.empty(0, dtype=torch.int64), rate=case["rate"], seed=config.seed, step=step
            )
            looked_at = drawn.places.tolist()
            assert 0 < len(looked_at) < case["n"]
        embeddings, labels, prototypes = cases.step_of(case, step)
        embeddings.requires_grad_()
        prototypes.requires_grad_()
        losses, memories, joining = [], [], []
        for images, identities in zip(embeddings, labels.tolist(), strict=True):
            state = brought_up_to_date(kind, memory, images.detach(), prototypes.detach(), identities, step=step)
            memories.append(state)
            known = {"config": config, "state": state}
            if kind == "broadface":
                past = [x + x.norm() / then.norm() * (prototypes[y].detach() - then) for x, then, y in queue]
                everyone = [y for _, _, y in queue] + identities
                of_batch = formula_loss(kind, images, prototypes.detach(), identities, looked_at, **known)
                of_all = formula_loss(kind, past + list(images.detach()), prototypes, everyone, looked_at, **known)
                losses.append(of_batch + of_all)
                joining += [(x, prototypes[y].detach(), y) for x, y in zip(images.detach(), identities, strict=True)]
            else:
                losses.append(formula_loss(kind, images, prototypes, identities, looked_at, **known))
        queue = (queue + joining)[-config.broadface_queue :]
        if memory is not None:
            memory = torch.stack(memories).mean(dim=0)
        loss = torch.stack(losses).mean()
        loss.backward()
        assert of_first["loss"] == pytest.approx(loss.item(), rel=1e-9)
        for quantity, leaf in (("embeddings", embeddings), ("prototypes", prototypes)):
            expected = leaf.grad.flatten(0, 1) if quantity == "embeddings" else leaf.grad
            torch.testing.assert_close(whole(results, name, step, quantity), expected, rtol=1e-7, atol=1e-10)
    state = results[-1]["heads"][name]["state"]
    if kind == "curricularface":
        assert state["progress"].item() == pytest.approx(memory.item(), rel=1e-12)
    if kind == "adaface":
        assert [state["norm_mean"].item(), state["norm_std"].item()] == pytest.approx(memory.tolist(), rel=1e-12)
    if kind == "broadface":
        assert len(queue) == 25 < 2 * cases.N_PARTS * cases.PART


# One half of BroadFace's loss holds the prototypes fixed, the other the embeddings: see the formulas.
@pytest.mark.parametrize("kind", [kind for kind in HEADS if kind != "broadface"])
def test_gradcheck_in_chunks(kind):
    embeddings, labels, prototypes = cases.step_of({"n": 5}, 0)
    # AdaFace's quality carries no gradient: it is clipped for all lengths here.
    head = build_head(cases.settings(kind, softmax_chunk=2, adaface_concentration=1e4)).double().eval()
    leaves = embeddings[0].requires_grad_(), prototypes.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: head(x, w, labels[0]).loss, leaves)


def both_ways(kind, embeddings, prototypes, labels, *, chunk, **changes):
    """Loss, classes and gradients: all logits at once, and in chunks."""
    found = []
    for size in (0, chunk):
        head = build_head(cases.settings(kind, softmax_chunk=size, embedding_dim=prototypes.shape[1], **changes))
        leaves = embeddings.clone().requires_grad_(), prototypes.clone().requires_grad_()
        loss, predicted = head(*leaves, labels)
        loss.backward()
        found.append((loss.detach(), predicted, leaves[0].grad, leaves[1].grad))
    return found


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("chunk", [1, 4, 6])
def test_any_chunk_size_gives_the_same(kind, chunk):
    """In float32; with a margin of 0 as well, where that is a margin of the loss."""
    embeddings, labels, prototypes = cases.step_of({"n": 7, "dtype": torch.float32}, 1)
    margins = [{}] if kind == "sphereface" else [{}, {"margin": 0.0}]
    for changes in margins:
        once, chunked = both_ways(kind, embeddings.flatten(0, 1), prototypes, labels.flatten(), chunk=chunk, **changes)
        torch.testing.assert_close(chunked, once, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_edges(kind):
    """Embeddings on their prototype, opposite to it, of no length, tiny, huge; a prototype of no length."""
    prototypes = torch.cat([torch.eye(4), torch.zeros(1, 4)])
    embeddings = torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 0], [0, 1e-30, 0, 0], [3e4, 3e4, 0, 0]])
    labels = torch.tensor([0, 0, 1, 1, 4])
    once, chunked = both_ways(kind, embeddings, prototypes, labels, chunk=2)
    assert all(torch.isfinite(value).all() for value in chunked)
    assert torch.equal(chunked[0], once[0]) or chunked[0].item() == pytest.approx(once[0].item(), rel=1e-6)
    assert torch.equal(chunked[1], once[1])


def test_logits_far_below_and_above_do_not_overflow():
    """Plain softmax of inner products of +-10^5: the loss is their difference."""
    prototypes = torch.tensor([[1e5, 0.0], [-1e5, 0.0], [0.0, 1.0]])
    loss = build_head(cases.settings("softmax", softmax_chunk=1, embedding_dim=2))(
        torch.tensor([[1.0, 0.0]]), prototypes, torch.tensor([1])
    ).loss
    assert loss.item() == pytest.approx(2e5)


def test_equal_scores_are_taken_for_the_lowest_class():
    prototypes = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    for chunk in (1, 2, 3):
        head = build_head(cases.settings("arcface", softmax_chunk=chunk, embedding_dim=2))
        assert head(torch.tensor([[2.0, 0.0]]), prototypes, torch.tensor([3])).predicted.tolist() == [1]


@OVER_PROCESSES
def test_losses_are_float32_under_autocast(found, n_processes):
    for result in found[n_processes]:
        plain, under = result["autocast"]
        assert [value.dtype for value in under] == [torch.float32, torch.float32, torch.bfloat16, torch.float32]
        assert all(torch.equal(one, other) for one, other in zip(plain, under, strict=True))


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that operations make, forward and backward; views of others are none."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            for value in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(value, torch.Tensor) and not value.is_sparse:
                    self.numbers = max(self.numbers, value.numel())
        return result


@pytest.mark.parametrize("kind", HEADS)
def test_no_matrix_of_all_logits_is_made(kind):
    b, n, d, chunk = 64, 1000, 5, 40
    labels = torch.randint(0, n, (b,), generator=torch.Generator().manual_seed(0))
    largest = {}
    for size, rate in ((0, 1.0), (chunk, 1.0), (chunk, 0.2)):
        config = cases.settings(kind, softmax_chunk=size, partial_fc_rate=rate)
        embeddings, prototypes = (cases.numbers(r, r, d, dtype=torch.float32).requires_grad_() for r in (b, n))
        with LargestTensor() as seen:
            build_head(config)(embeddings, prototypes, labels).loss.backward()
        largest[size, rate] = seen.numbers
    assert largest[0, 1.0] >= b * n
    assert largest[chunk, 1.0] == n * d  # the gradient of the prototypes; a chunk has b * chunk = n * d / 1.95 logits
    assert largest[chunk, 0.2] <= b * chunk


# --- partial FC -------------------------------------------------------------------------------------


def test_a_step_draws_its_share_and_the_classes_of_the_batch():
    labels = torch.tensor([5, 99_999, 5])
    found = drawn_rows(range(100_000), labels, rate=0.1, seed=1, step=0)
    assert 9_700 < found.is_drawn.sum() < 10_300
    assert (found.places.diff() > 0).all()
    assert set(labels.tolist()) <= set(found.places.tolist())
    assert set(found.places[~found.is_drawn].tolist()) <= {5, 99_999}
    # Draws of other steps and seeds are independent: a tenth of these is drawn again.
    for other in ({"seed": 1, "step": 1}, {"seed": 2, "step": 0}):
        again = drawn_rows(range(100_000), labels, rate=0.1, **other)
        both = set(found.places.tolist()) & set(again.places.tolist())
        assert 850 < len(both) < 1_150


def test_every_class_is_drawn_equally_often():
    counts = torch.zeros(200)
    for step in range(2000):
        counts[drawn_rows(range(200), torch.empty(0, dtype=torch.int64), rate=0.25, seed=7, step=step).places] += 1
    # Binomial: 500 of 2,000 each, standard deviation 19.4; chi-squared over 200 classes about 200 +- 20.
    chi_squared = ((counts - 500) ** 2 / (2000 * 0.25 * 0.75)).sum()
    assert 120 < chi_squared < 300


def test_the_draw_does_not_depend_on_the_shards():
    labels = torch.tensor([3, 40, 96])
    whole_draw = drawn_rows(range(97), labels, rate=0.2, seed=0, step=5)
    for n_processes in (2, 5):
        parts = [shard_rows(97, n_processes, number) for number in range(n_processes)]
        places = [drawn_rows(rows, labels, rate=0.2, seed=0, step=5).places + rows.start for rows in parts]
        assert torch.equal(torch.cat(places), whole_draw.places)


def test_only_rows_looked_at_learn():
    """Rows without gradient keep value and momentum bit by bit; the others are those of a plain loop."""
    head = build_head(cases.settings("cosface", partial_fc_rate=0.3))
    prototypes = torch.nn.Parameter(cases.numbers(0, 40, cases.D, dtype=torch.float32))
    optimizer = RowSGD([prototypes], lr=0.1, momentum=0.9, weight_decay=0.01)
    values, velocities = prototypes.detach().double().clone(), torch.zeros(40, cases.D, dtype=torch.float64)
    for step in range(4):
        before = prototypes.detach().clone()
        held = optimizer.state[prototypes]["momentum_buffer"].clone() if step else torch.zeros_like(before)
        optimizer.zero_grad()
        for part in range(2):  # two parts of a step: their gradients are added
            labels = torch.randint(0, 40, (4,), generator=torch.Generator().manual_seed(10 * step + part))
            head(cases.numbers(step, 4, cases.D, dtype=torch.float32), prototypes, labels, step=step).loss.backward()
        gradient = prototypes.grad.to_dense().double()
        rows = sorted(set(prototypes.grad.coalesce().indices()[0].tolist()))
        optimizer.step()
        for row in rows:
            velocities[row] = 0.9 * velocities[row] + gradient[row] + 0.01 * values[row]
            values[row] = values[row] - 0.1 * velocities[row]
        others = [row for row in range(40) if row not in rows]
        assert len(others) > 10
        assert torch.equal(prototypes[others], before[others])
        momentum = optimizer.state[prototypes]["momentum_buffer"]
        assert torch.equal(momentum[others], held[others])
        torch.testing.assert_close(prototypes.detach().double(), values, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(momentum.double(), velocities, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_dense_gradients_step_as_plain_sgd(momentum):
    leaves = [torch.nn.Parameter(cases.numbers(0, 6, 3, dtype=torch.float32)) for _ in range(2)]
    chosen = {"lr": 0.2, "momentum": momentum, "weight_decay": 0.05}
    optimizers = RowSGD([leaves[0]], **chosen), torch.optim.SGD([leaves[1]], **chosen)
    for step in range(3):
        for leaf, optimizer in zip(leaves, optimizers, strict=True):
            optimizer.zero_grad()
            (leaf * cases.numbers(step, 6, 3, dtype=torch.float32)).sum().backward()
            optimizer.step()
        torch.testing.assert_close(*leaves)


def test_row_sgd_goes_on_from_its_state():
    def steps(leaf, optimizer, numbers):
        for number in numbers:
            rows = torch.tensor([[number, number + 1]])
            values = cases.numbers(number, 2, 3, dtype=torch.float32)
            leaf.grad = torch.sparse_coo_tensor(rows, values, leaf.shape, check_invariants=True)
            optimizer.step()

    def started(values):
        leaf = torch.nn.Parameter(values.clone())
        return leaf, RowSGD([leaf], 0.1, momentum=0.9, weight_decay=0.01)

    one, optimizer = started(cases.numbers(0, 6, 3, dtype=torch.float32))
    steps(one, optimizer, range(2))
    other, again = started(one.detach())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(one, optimizer, range(2, 5))
    steps(other, again, range(2, 5))
    assert torch.equal(one, other)


def test_row_sgd_says_which_numbers_are_out_of_range():
    leaf = torch.nn.Parameter(torch.zeros(2, 2))
    for wrong in ({"lr": -1.0}, {"lr": 0.1, "momentum": 1.0}, {"lr": 0.1, "weight_decay": -0.1}):
        with pytest.raises(ConfigError, match="RowSGD"):
            RowSGD([leaf], **wrong)


# --- Inter-Prototype loss ---------------------------------------------------------------------------


@OVER_PROCESSES
@pytest.mark.parametrize("name", cases.IP_CASES)
def test_the_inter_prototype_loss_over_processes(found, name, n_processes):
    n, d, reduction, scope, dtype = cases.IP_CASES[name]
    prototypes, in_scope = cases.prototypes_in_scope(n, d, scope, dtype)
    prototypes.requires_grad_()
    unit = prototypes[in_scope].double() / prototypes[in_scope].double().norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T).fill_diagonal_(0)
    expected = cosines.square().sum() / (1 if reduction == "sum" else len(in_scope) ** 2)
    (gradient,) = torch.autograd.grad(2 * expected, prototypes)
    results = [result["inter_prototype"][name] for result in found[n_processes]]
    assert (min(result["n_held"] for result in results) == 0) == (scope == "child")
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    for result in results:
        assert result["dtype"] == dtype
        assert result["loss"] == results[0]["loss"] == pytest.approx(expected.item(), rel=close["rtol"])
    torch.testing.assert_close(torch.cat([result["gradient"] for result in results]), gradient, **close)


def test_one_process_may_say_that_its_rows_are_all():
    prototypes = cases.numbers(0, 9, 4)
    assert torch.equal(inter_prototype_loss(prototypes, n_total=9), inter_prototype_loss(prototypes))
    for wrong in (8, 10):
        with pytest.raises(ConfigError, match="n_total"):
            inter_prototype_loss(prototypes, n_total=wrong)


@pytest.mark.parametrize("rows", [1, 3, 29, 64])
def test_the_gram_form_takes_prototypes_a_few_at_a_time(monkeypatch, rows):
    """Value, gradient and second derivative are those of all at once; the forward pass copies no more than it says."""
    prototypes = cases.numbers(0, 29, 5).requires_grad_()
    direction = cases.numbers(1, 29, 5)

    def derivatives(form):
        loss = inter_prototype_loss(prototypes, form=form)
        (first,) = torch.autograd.grad(loss, prototypes, create_graph=True)
        (second,) = torch.autograd.grad((first * direction).sum(), prototypes)
        (plain,) = torch.autograd.grad(inter_prototype_loss(prototypes, form=form), prototypes)
        return loss.detach(), first.detach(), second, plain

    expected = derivatives("pairs")
    monkeypatch.setitem(inter_prototype.ROWS_AT_A_TIME, "cpu", rows)
    torch.testing.assert_close(derivatives("gram"), expected, rtol=1e-9, atol=1e-9)
    with LargestTensor() as seen:
        inter_prototype_loss(prototypes, form="gram")
    assert seen.numbers == max(min(rows, 29) * 5, 5 * 5)


def test_partial_fc_with_the_inter_prototype_loss_of_all():
    """A sparse gradient of two parts and a dense one add up; all rows then learn."""
    prototypes = torch.nn.Parameter(cases.numbers(0, 30, cases.D))
    head = build_head(cases.settings("cosface", partial_fc_rate=0.2)).double()
    total = torch.zeros_like(prototypes)
    for part in range(2):
        embeddings, labels = cases.numbers(part, 4, cases.D), torch.tensor([1, 2, 3, part])
        loss = head(embeddings, prototypes, labels).loss
        total += torch.autograd.grad(loss, prototypes, retain_graph=True)[0].to_dense()
        if part:
            pushed = inter_prototype_loss(prototypes)
            total += torch.autograd.grad(pushed, prototypes, retain_graph=True)[0]
            loss = loss + pushed
        loss.backward()
        assert prototypes.grad.is_sparse == (part == 0)
    torch.testing.assert_close(prototypes.grad, total)
    before = prototypes.detach().clone()
    RowSGD([prototypes], 0.1).step()
    torch.testing.assert_close(prototypes.detach(), before - 0.1 * total)


# --- ranks ------------------------------------------------------------------------------------------


@OVER_PROCESSES
def test_what_processes_agree_on(found, n_processes):
    results = [result["ranks"] for result in found[n_processes]]
    own = torch.stack([torch.tensor([1.0 + number, -3.0 * number]) for number in range(n_processes)])
    rows = torch.cat([torch.arange(4.0).view(2, 2) + 10 * number for number in range(n_processes)])
    for number, result in enumerate(results):
        assert result["place"] == (number, n_processes)
        assert torch.equal(result["own"], own[number])
        assert torch.equal(result["sum"], own.sum(dim=0))
        torch.testing.assert_close(result["mean"], own.mean(dim=0))
        assert torch.equal(result["max"], own.max(dim=0).values)
        assert torch.equal(result["gathered"], rows)
        assert result["labels"].tolist() == [value for other in range(n_processes) for value in (other, 7)]
        # Row i's gradients over the processes add up to (i + 1)(1 + ... + n), and count n times.
        expected = torch.tensor([2 * number + 1.0, 2 * number + 2.0]) * sum(range(1, n_processes + 1)) * n_processes
        assert torch.equal(result["gradient"], expected[:, None].expand(2, 2))


def test_without_processes_nothing_is_sent():
    value = torch.ones(2, requires_grad=True)
    assert (rank(), world_size()) == (0, 1)
    assert average_over_ranks(value) is value
    assert gather_rows(value) is value


@pytest.mark.parametrize(("n", "n_processes"), [(10, 3), (12, 3), (2, 3), (0, 2), (7, 7), (9, 4)])
def test_shards_are_those_of_torch_chunk(n, n_processes):
    found = [list(shard_rows(n, n_processes, number)) for number in range(n_processes)]
    chunks = [chunk.tolist() for chunk in torch.arange(n).chunk(n_processes)]
    assert found == chunks + [[] for _ in range(n_processes - len(chunks))]


def test_shards_out_of_range():
    for wrong in ((-1, 2, 0), (5, 0, 0), (5, 2, 2), (5, 2, -1)):
        with pytest.raises(ConfigError, match="rank"):
            shard_rows(*wrong)


@OVER_PROCESSES
def test_calls_that_cannot_be_right_are_refused_by_every_process(found, n_processes):
    for result in found[n_processes]:
        said = result["refusals"]
        assert "outside [0, 7)" in said["label"]
        assert f"{n_processes} processes" in said["rows missing"]
        assert "cannot be those" in said["rows of others"]
        assert "pairs" in said["pairs"]


def test_one_process_holds_all_prototypes():
    embeddings, labels, prototypes = cases.step_of({"n": 7}, 0)
    head = build_head(cases.settings("arcface"))
    with pytest.raises(ConfigError, match="holds all 7"):
        head(embeddings[0], prototypes, labels[0], rows=range(7, 14))


def test_labels_in_chunks_are_checked():
    embeddings, labels, prototypes = cases.step_of({"n": 7}, 0)
    head = build_head(cases.settings("arcface", softmax_chunk=2))
    with pytest.raises(ConfigError, match="outside"):
        head(embeddings[0], prototypes, labels[0] - 7)
    with pytest.raises(ConfigError, match="integers"):
        head(embeddings[0], prototypes, labels[0].double())
    with pytest.raises(ConfigError, match="shape"):
        head(embeddings[0], prototypes, labels[0, :2])
    with pytest.raises(ConfigError, match="dimensions"):
        head(embeddings[0], prototypes[:, :3], labels[0])
