"""Texts as ids of tokens: attention against torch's own with a key mask, padding without a say, and whole jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from espalier_api.artifact import Manifest
from espalier_api.engines import Architecture
from espalier_api.preprocessing import Preprocessing, Tokens
from espalier_trainer.data.dataset import Dataset
from espalier_trainer.engines.torch import architectures
from espalier_trainer.engines.torch.layers import layer_names, residual_names
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.preprocessing import Preprocessor
from tests.unit.trainer import jobs
from tests.unit.trainer.test_trainer_architectures import differs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Prove

TOKENS = Tokens(vocabulary=20, length=9, padding=3)
NETWORK = {"tokenTransformer": {"dim": 12, "depth": 2, "heads": 3}}


def build(tokens: Tokens | None = TOKENS, features: int = 9) -> nn.Module:
    torch.manual_seed(0)
    model = architectures.build(Architecture.model_validate(NETWORK), features, 4, tokens)
    with torch.no_grad():
        for parameter in model.parameters():  # far from the small values of a fresh network
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def texts(n: int = 33, seed: int = 0) -> torch.Tensor:
    """Ids of different lengths, padded; the last row is nothing but padding."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(0, 20, (n, 9))
    ids[ids == 3] = 4
    for row, length in zip(ids, draw.integers(1, 10, n), strict=True):
        row[length:] = 3
    ids[-1] = 3
    return torch.tensor(ids, dtype=torch.float32)


def test_the_graph_answers_as_the_network_does() -> None:
    model = build()
    assert differs(model, texts()) < 1e-5
    assert differs(model, texts()[:1]) < 1e-5
    assert differs(model, texts()[-1:]) < 1e-5  # nothing but padding


def test_masked_attention_is_torchs_own() -> None:
    """The same weights and mask in torch.nn.MultiheadAttention give the same output."""
    attention = build().get_submodule("blocks.0.attend.inner").double()
    oracle = nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        parts = (attention.query, attention.key, attention.value)
        oracle.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        oracle.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        oracle.out_proj.load_state_dict(attention.out.state_dict())
    x, hidden = torch.randn(5, 9, 12, dtype=torch.float64), texts(6)[:5] == 3
    unseen = (hidden.double() * -1e9)[:, None, None, :]
    assert torch.allclose(attention(x, unseen), oracle(x, x, x, hidden, need_weights=False)[0], atol=1e-12)


def test_what_padding_holds_has_no_say() -> None:
    """Another embedding of padding, other positions behind the text: the same answers."""
    model, ids = build(), texts()[:-1]
    ids = ids[(ids[:, 5:] == 3).all(1)]
    before = model(ids)
    with torch.no_grad():
        model.tokens.embedding.weight[3] += 100.0
        model.tokens.positions[5:] -= 50.0
    assert len(ids) > 5
    assert torch.allclose(model(ids), before, atol=1e-6)


def test_parts_have_the_names_that_blocks_rely_on() -> None:
    model = build()
    assert residual_names(model) == [f"blocks.{i}.{part}" for i in range(2) for part in ("attend", "feed")]
    assert layer_names(model) == [f"blocks.{i}.feed.inner.{part}" for i in range(2) for part in ("expand", "contract")]
    assert {"tokens.embedding.weight", "tokens.positions", "head.weight"} <= {
        name for name, _ in model.named_parameters()
    }


def test_ids_need_their_network_and_a_network_its_ids() -> None:
    with pytest.raises(InvalidConfigError, match=r"R41: engine.torch.architecture.tokenTransformer"):
        build(None)
    with pytest.raises(InvalidConfigError, match=r"data.preprocessing.tokens.length: 9 tokens, and the data has 7"):
        build(features=7)


def test_ids_are_left_alone_constant_ones_too() -> None:
    x = texts().numpy()
    x[:, 0] = 5
    train = Dataset(tuple(f"t_{i}" for i in range(9)), ("u", "v"), x, np.arange(len(x)) % 2)
    made = Preprocessor.fit(train, Preprocessing(tokens=TOKENS))
    assert (made.apply(x) == x).all()
    mean, deviation = made.moments(x)
    assert (set(mean), set(deviation)) == ({3.0}, {0.0})
    again = Preprocessor.from_json(json.loads(json.dumps(made.to_json())))
    assert again.declared.tokens == TOKENS


# --- jobs -------------------------------------------------------------------------------------------------------------
LENGTH, VOCABULARY = 12, 30


def sentences(n: int = 600, seed: int = 0) -> pa.Table:
    """A text is about the one of two topics whose words it has more of; where they stand says nothing, and most words are neither's."""
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 2, n)
    ids = draw.integers(10, VOCABULARY, (n, LENGTH))
    for row, topic in zip(ids, label, strict=True):
        row[draw.choice(LENGTH - 4, 3, replace=False)] = draw.integers(1, 5, 3) + 5 * topic
        row[draw.integers(LENGTH - 4, LENGTH + 1) :] = 0
    return pa.table({**{f"tokens_{i}": ids[:, i] for i in range(LENGTH)}, "label": label})


def spec(**changes: Any) -> dict[str, Any]:
    data = {
        "snapshot": {"uri": "s3://datasets/tiny/"},
        "target": "label",
        "features": {"include": ["tokens_*"]},
        "split": {"validation": 0.2, "calibration": 0.15, "test": 0.25, "seed": 3},
        "preprocessing": {"tokens": {"vocabulary": VOCABULARY, "length": LENGTH}},
    }
    torch = {
        "architecture": {"tokenTransformer": {"dim": 16, "depth": 1, "heads": 2}},
        "optimizer": {"adamw": {"learningRate": 0.01}},
        "epochs": 20,
        "batchSize": 32,
    }
    return {"data": data, "engine": {"torch": torch}, "regularizers": {}, **changes}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    return jobs.stage(tmp_path, sentences())


def test_a_network_learns_topics_and_is_served(folder: Path, proof: Prove) -> None:
    blocks = {
        "weightDecay": {"strength": 0.01, "target": {"include": ["tokens.embedding.weight", "blocks.*"]}},
        "dropout": {"p": 0.1},
        "augmentation": {"policy": "tabular.swapNoise", "probability": 0.05},
        "weightAveraging": {"decay": 0.9},
        "calibration": {},
    }
    result = jobs.train(folder, **spec(regularizers=blocks))
    assert result.exit_code == 0, result.message
    assert result.metrics["accuracy"].value > 0.9
    version = folder / jobs.VERSION
    task = Manifest.model_validate_json((version / "manifest.json").read_bytes()).task
    assert task.tokens is not None
    assert (task.tokens.vocabulary, task.tokens.padding) == (VOCABULARY, 0)
    kinds = {one["kind"] for one in json.loads((version / "metrics.json").read_text())["notes"]["corruptions"]}
    assert kinds == {"featureDropout"}  # noise would make ids that nobody wrote


def test_private_golden_inputs_are_ids_of_nobody(folder: Path) -> None:
    jobs.stage(folder, sentences(120))
    short = spec(regularizers={"privacy": {"epsilon": 50}})
    short["engine"]["torch"]["epochs"] = 1
    result = jobs.train(folder, **short)
    assert result.exit_code == 0, result.message
    golden = np.load(folder / jobs.VERSION / "golden.npz")["input"]
    assert set(np.unique(golden)) <= set(range(VOCABULARY))


@pytest.mark.parametrize(
    "value, where",
    [
        (VOCABULARY, f"token id {VOCABULARY}.0 is no whole number from 0 to 29"),
        (-1, "token id -1.0"),
        (2.5, "token id 2.5"),
    ],
)
def test_ids_outside_of_the_vocabulary_are_named(folder: Path, value: float, where: str) -> None:
    table = sentences()
    column = table["tokens_4"].to_numpy().astype(np.float64)
    column[7] = value
    jobs.stage(folder, table.set_column(4, "tokens_4", [column]))
    result = jobs.train(folder, **spec())
    assert result.exit_code == 44
    assert "row 7, column 'tokens_4': " in result.message
    assert where in result.message


def test_a_text_of_another_length_and_an_attack_are_refused(folder: Path) -> None:
    told = spec()
    told["data"] = {**told["data"], "features": {"exclude": ["tokens_3"]}}
    result = jobs.train(folder, **told)
    assert result.exit_code == 44
    assert "data.preprocessing.tokens.length: 12 tokens, and data.features leaves 11 columns" in result.message
    result = jobs.train(folder, **spec(robustness={"epsilon": 0.1}))
    assert result.exit_code == 42
    assert "evaluation.robustness: ids of tokens have no ball" in result.message
