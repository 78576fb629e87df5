"""The forward of a step in which a request keeps what layers add to its rows.

Letters: T query rows of the step, Q of them computed in a layer, H hidden size, P pages,
G page size.

Source:
    dLLM-Cache, arXiv 2506.06295; see ``cache/policies/dllm.py``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from starr_engine import ops
from starr_engine.attention.base import AttentionBackend
from starr_engine.cache.feature_pool import FeaturePool
from starr_engine.cache.pool import KVPool
from starr_engine.engine.feature_rows import FeatureRows
from starr_engine.engine.step_batch import StepBatch
from starr_engine.models.base import DiffusionModel


def feature_forward(
    model: DiffusionModel,
    kv_pool: KVPool,
    feature_pool: FeaturePool,
    backend: AttentionBackend,
    batch: StepBatch,
    observe: Callable[[int, Tensor], None],
) -> Tensor:
    """As the model's own forward, but layers behind the first may compute fewer rows.

    They compute the values of all rows, choose by them, and take what the layer adds to the rows
    not chosen from the feature pages. Other requests of the batch are computed in full. Attention
    is planned twice, for the first layer and for the others; nothing waits for the device.
    ``observe`` is told each layer's number and values [T, K, D] before these are stored.

    Returns:
        [T, H] after the final norm.
    """
    features, slots = batch.features, batch.attention.slot_mapping
    assert features is not None
    partial = features.partial
    whole = backend.plan(batch.attention)
    reduced = whole if partial is None else backend.plan(partial.attention)
    rows = model.embed(batch.input_ids)
    rotations = model.rotations(batch.positions, rows.dtype)
    for index, (layer, rotation) in enumerate(zip(model.layers, rotations, strict=True)):
        keys, values = kv_pool.layer(index)
        normed = layer.normed(rows)
        value = layer.value(normed)
        observe(index, value)
        if index == 0 or partial is None:
            picked, step, turned = None, whole, rotation
        else:
            picked, step = partial.choose(value, values), reduced
            turned = rotation.take(picked)
        query, key = layer.query_key(_take(normed, picked), turned)
        ops.store_rows(value.flatten(1), values.flatten(2), slots)
        ops.store_rows(key.flatten(1), keys.flatten(2), _take(slots, picked))
        mixed = step.attend(query, key, _take(value, picked), keys, values)
        attended = layer.attention_output(mixed)
        if index == 0:
            rows = rows + attended
            rows = layer.finished(rows + layer.feed_forward(rows), None)
            continue
        attention_pages, feed_pages = feature_pool.layer(index)
        rows = rows + _completed(attended, picked, attention_pages, features)
        fed = layer.feed_forward(_take(rows, picked))
        rows = layer.finished(rows + _completed(fed, picked, feed_pages, features), None)
    return model.final_norm(rows)


def _take(rows: Tensor, picked: Tensor | None) -> Tensor:
    return rows if picked is None else rows.index_select(0, picked)


def _completed(
    added: Tensor, picked: Tensor | None, pages: Tensor, features: FeatureRows
) -> Tensor:
    """Keep what a layer adds to rows, and put in what it had added to those it did not compute.

    Args:
        added: [Q, H].
        picked: [Q] int64 flat rows, all different; None for all rows.
        pages: [P, G, H]. Written to.
        features: Of the step.

    Returns:
        [T, H].
    """
    ops.store_rows(added, pages, _take(features.slots, picked))
    if picked is None:
        return added
    partial = features.partial
    assert partial is not None
    completed = added.new_empty((len(features.slots), added.shape[1]))
    completed.index_copy_(0, picked, added)
    # The chosen ones were stored just now, so that they come out as they went in.
    return completed.index_copy_(0, partial.rows, ops.gather_rows(pages, partial.slots))
