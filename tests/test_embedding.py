"""Embeddings: each image once, the same whatever the batch, and the way to disk and back."""

import numpy as np
import pytest
import torch
from toy import toy_dataset

from interproto_lib.analysis import embedding
from interproto_lib.analysis.embedding import (
    Embeddings,
    embed_dataset,
    embed_images,
    load_backbone,
    load_embeddings,
    save_embeddings,
)
from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError, RunError
from interproto_lib.runs import RunFolder
from interproto_lib.training import train


@pytest.fixture(scope="module")
def dataset():
    return toy_dataset(n_identities=10, n_heldout=8, n_images=8)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    config = TrainConfig(
        backbone="tiny",
        embedding_dim=16,
        epochs=4,
        batch_size=16,
        threads=1,
        device="cpu",
        precision="float32",
        keep_every_epoch=True,
    )
    return train(config, dataset, tmp_path_factory.mktemp("exp") / "arcface-s0", progress="none")


def plain_vectors(backbone, images, mirrored=False):
    """The definition, image by image, in float64."""
    backbone = backbone.double().eval()
    rows = []
    for image in images:
        x = torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            f = backbone(x) + (backbone(x.flip(3)) if mirrored else 0)
        rows.append((f / f.norm()).numpy()[0])
    return np.stack(rows)


def test_embeddings_follow_the_definition_whatever_the_batch(run, dataset):
    images = dataset.images[:23]
    for flip, mirrored in (("none", False), ("sum", True)):
        wanted = plain_vectors(load_backbone(run), images, mirrored)
        for batch_size in (1, 7, 64):
            found = embed_images(load_backbone(run), images, batch_size=batch_size, flip=flip)
            np.testing.assert_allclose(found, wanted, atol=3e-6)
            assert found.dtype == np.float32


def test_progress_counts_images(run, dataset):
    said = []
    embed_images(
        load_backbone(run), dataset.images[:20], batch_size=8, progress=lambda done, of: said.append((done, of))
    )
    assert said == [(8, 20), (16, 20), (20, 20)]


@pytest.mark.parametrize(("precision", "n_first"), [("float32", 8), ("bfloat16", 16)])
def test_images_at_a_time_follow_the_precision(run, dataset, precision, n_first):
    threads, said = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)
        embed_images(
            load_backbone(run),
            dataset.images[:20],
            precision=precision,
            progress=lambda done, of: said.append((done, of)),
        )
    finally:
        torch.set_num_threads(threads)
    assert said[0] == (n_first, 20)
    assert said[-1] == (20, 20)


def test_some_rows_are_embedded_in_the_order_asked_for(run, dataset):
    every = embed_images(load_backbone(run), dataset.images[:30])
    rows = np.array([7, 3, 3, 29, 0])
    said = []
    some = embed_images(
        load_backbone(run), dataset.images, rows=rows, batch_size=2, progress=lambda done, of: said.append((done, of))
    )
    np.testing.assert_allclose(some, every[rows], atol=1e-6)
    assert said == [(2, 5), (4, 5), (5, 5)]
    with pytest.raises(ConfigError, match="no images"):
        embed_images(load_backbone(run), dataset.images, rows=np.array([], dtype=np.int64))


def test_a_dataset_is_embedded_on_the_runs_device_or_another(run, dataset, monkeypatch):
    used, said = [], []

    def noting(backbone, images, *, device, **further):
        used.append(str(device))
        return embed_images(backbone, images, device="cpu", **further)

    monkeypatch.setattr(embedding, "embed_images", noting)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    embed_dataset(run, dataset, progress=lambda done, of: said.append((done, of)))
    embed_dataset(run, dataset, device="auto")
    embed_dataset(run, dataset, device="cuda:1", flip="sum")
    assert used == ["cpu", "cuda", "cuda:1"]
    assert said[-1] == (len(dataset), len(dataset))
    with pytest.raises(ConfigError, match="'cuda:2': this machine has 2 GPUs, counted from 0"):
        embed_dataset(run, dataset, device="cuda:2")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_embeddings(run, dataset):
    on_gpu, on_cpu = (embed_dataset(run, dataset, device=device).vectors for device in ("cuda", "cpu"))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=5e-3)  # convolutions may round to TF32 there


def test_embeddings_come_back_as_they_were_saved(run, dataset):
    embeddings = embed_dataset(run, dataset)
    save_embeddings(embeddings, run)
    back = load_embeddings(run)
    assert np.array_equal(back.vectors, embeddings.vectors)
    assert back.manifest.equals(dataset.manifest)


def test_what_is_missing_is_named(run, tmp_path):
    with pytest.raises(RunError, match=r"Run notebooks/02_train\.ipynb"):
        load_embeddings(RunFolder(tmp_path))
    with pytest.raises(RunError, match=r"backbone-0099.*keep_every_epoch=True"):
        load_backbone(run, epoch=99)
    with pytest.raises(ConfigError, match="flip='both'"):
        embed_images(load_backbone(run), np.zeros((1, 56, 56, 3), np.uint8), flip="both")
    with pytest.raises(ConfigError, match="no images"):
        embed_images(load_backbone(run), np.zeros((0, 56, 56, 3), np.uint8))
    with pytest.raises(ConfigError, match="do not fit"):
        Embeddings(np.zeros((2, 3), np.float32), toy_dataset().manifest)
