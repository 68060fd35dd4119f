"""File names of real repos, and the rows that they make."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.common.errors import NotFound
from shoal.common.library.naming import family_of, owner_of
from shoal.common.library.quantization import (
    Grouping,
    gguf_label,
    group_files,
    label_of_config,
    label_of_name,
    labels_of,
)

GIB = 1 << 30


def group(*names: str, config: dict[str, Any] | None = None, repo_id: str = "") -> Grouping:
    return group_files(((name, GIB) for name in names), config=config, repo_id=repo_id)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("llama-2-7b-chat.Q5_K_S.gguf", "Q5_K_S"),
        ("qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf", "Q4_K_M"),
        ("Qwen3-30B-A3B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("Qwen3-30B-A3B-UD-Q6_K_XL.gguf", "UD-Q6_K_XL"),
        ("DeepSeek-R1-UD-IQ1_S-00001-of-00003.gguf", "UD-IQ1_S"),
        ("DeepSeek-V3-0324-UD-TQ1_0.gguf", "UD-TQ1_0"),
        ("gemma-2-9b-it-IQ2_XS.gguf", "IQ2_XS"),
        ("gemma-2-9b-it-IQ3_XXS.gguf", "IQ3_XXS"),
        ("gemma-2-9b-it-IQ4_NL.gguf", "IQ4_NL"),
        ("gemma-2-9b-it-Q6_K.gguf", "Q6_K"),
        ("gemma-2-9b-it-Q6_K_L.gguf", "Q6_K_L"),
        ("gemma-2-9b-it-Q8_0.gguf", "Q8_0"),
        ("gemma-2-9b-it-Q4_0_8_8.gguf", "Q4_0_8_8"),
        ("gemma-2-9b-it-f32.gguf", "F32"),
        ("mistral-7b-bf16.gguf", "BF16"),
        ("mistral-7b-fp16.gguf", "F16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("gpt-oss-120b-MXFP4_MOE-00001-of-00003.gguf", "MXFP4_MOE"),
        ("model-f16-q4_0.gguf", "Q4_0"),  # the last one counts
        ("Q4_K_M/model-00001-of-00004.gguf", "Q4_K_M"),  # the folder's, where the name tells nothing
        ("ggml-model.gguf", ""),
        ("seq6_kernel.gguf", ""),  # never a part of a word
        ("XQ4_K_M2.gguf", ""),
        ("tinyllama-1.1b-chat-v1.0.Q2_K.gguf", "Q2_K"),
    ],
)
def test_what_a_gguf_name_tells(name: str, label: str) -> None:
    assert gguf_label(name) == label


def test_shards_are_one_row_with_the_summed_size() -> None:
    found = group(
        "BF16/DeepSeek-R1.BF16-00001-of-00002.gguf",
        "BF16/DeepSeek-R1.BF16-00002-of-00002.gguf",
        "DeepSeek-R1-Q4_K_M/DeepSeek-R1-Q4_K_M-00001-of-00003.gguf",
        "DeepSeek-R1-Q4_K_M/DeepSeek-R1-Q4_K_M-00003-of-00003.gguf",
        "README.md",
    )
    rows = {row.label: row for row in found.variants}
    assert rows["BF16"].bytes == 2 * GIB
    assert (rows["BF16"].shards, rows["BF16"].missing) == (2, 0)
    assert (rows["Q4_K_M"].shards, rows["Q4_K_M"].missing) == (2, 1)
    assert found.default == rows["BF16"], "one that lacks a shard is not picked"
    assert found.rest == ("README.md",)


def test_parts_of_the_old_kind_are_one_row() -> None:
    found = group("falcon-180b.Q4_K_M.gguf-split-a", "falcon-180b.Q4_K_M.gguf-split-b", "grok-1.Q2_K.gguf.part1of3")
    assert [(row.label, row.shards, row.missing) for row in found.variants] == [("Q4_K_M", 2, 0), ("Q2_K", 1, 2)]


def test_sidecars_are_rows_of_their_own() -> None:
    found = group("gemma-3-4b-it-Q4_K_M.gguf", "mmproj-F16.gguf", "Qwen2-VL.mmproj-q8_0.gguf", "mtp-draft-Q8_0.gguf")
    assert labels_of(found) == ("Q4_K_M",)
    assert sorted(row.name for row in found.sidecars) == ["Qwen2-VL.mmproj-q8_0", "mmproj-F16", "mtp-draft-Q8_0"]


@pytest.mark.parametrize(
    ("labels", "picked"),
    [
        (["Q2_K", "Q4_K_M", "Q4_K_S", "Q8_0"], "Q4_K_M"),
        (["Q2_K", "Q4_0", "Q8_0"], "Q4_0"),
        (["UD-Q4_K_XL", "UD-Q6_K_XL"], "UD-Q4_K_XL"),
        (["IQ4_XS", "Q8_0"], "IQ4_XS"),  # the first
        (["Q8_0", "BF16"], "BF16"),
    ],
)
def test_the_default_pick(labels: list[str], picked: str) -> None:
    found = group(*(f"model-{label}.gguf" for label in labels))
    assert found.default is not None
    assert found.default.label == picked


def test_a_label_is_matched_as_a_whole_and_whatever_its_case() -> None:
    found = group("m-Q6_K.gguf", "m-UD-Q6_K_XL.gguf", "m-f16.gguf")
    assert [row.files for row in found.select("q6_k")] == [("m-Q6_K.gguf",)]
    assert [row.files for row in found.select("ud-q6_k_xl")] == [("m-UD-Q6_K_XL.gguf",)]
    assert [row.label for row in found.select("fp16")] == ["F16"]
    with pytest.raises(NotFound, match=r"there is .*UD-Q6_K_XL") as error:
        found.select("Q6")
    assert error.value.exit_code == 3
    with pytest.raises(NotFound, match="no weights"):
        group("README.md").select("Q4_K_M")


def test_variants_of_safetensors() -> None:
    found = group(
        *("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"),
        *("vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors"),
        *("text_encoder/model.fp16-00001-of-00002.safetensors", "text_encoder/model.fp16-00002-of-00002.safetensors"),
        *("text_encoder/model.safetensors.index.fp16.json", "model_index.json"),
        *("text_encoder_2/model-00001-of-00001.bf16.safetensors", "unet/flax_model.msgpack", "unet/model.onnx"),
    )
    rows = {row.label: row for row in found.variants}
    assert set(rows) == {"SAFETENSORS", "FP16", "BF16", "FLAX", "ONNX"}
    assert (len(rows["FP16"].files), rows["FP16"].bytes) == (5, 5 * GIB)
    assert found.default == rows["SAFETENSORS"]
    assert found.files_for(rows["FP16"])[-1] == "model_index.json"
    assert found.rest == ("model_index.json",)


def test_weights_in_several_formats() -> None:
    found = group(
        *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"),
        *("pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "training_args.bin", "tf_model.h5"),
        *("config.json", "tokenizer.json"),
        config={"torch_dtype": "bfloat16"},
    )
    assert labels_of(found) == ("BF16", "PYTORCH", "TENSORFLOW")
    assert found.default is not None and found.default.label == "BF16"
    assert found.rest == ("config.json", "tokenizer.json", "training_args.bin")


@pytest.mark.parametrize(
    ("config", "label", "bits"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "AWQ", 4),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8, "group_size": 32}}, "GPTQ", 8),
        ({"quantization_config": {"quant_method": "exl2", "bits": 4.65}}, "EXL2", 4.65),
        ({"quantization_config": {"quant_method": "fp8", "fmt": "e4m3"}}, "FP8", 8),
        ({"quantization_config": {"quant_method": "fbgemm_fp8"}}, "FP8", 8),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "BNB-4BIT", 4),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "MXFP4", None),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, "NVFP4", None),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
                }
            },
            "W4A16",
            4,
        ),
        (
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "config_groups": {
                        "group_0": {"weights": {"num_bits": 8, "type": "float"}, "input_activations": {"num_bits": 8}}
                    },
                }
            },
            "FP8",
            8,
        ),
        ({"quantization": {"group_size": 64, "bits": 4}}, "4BIT", 4),
        ({"torch_dtype": "float16"}, "FP16", None),
        ({"text_config": {"dtype": "bfloat16"}}, "BF16", None),
        ({"quantization_config": "what"}, "", None),
        ({"quantization_config": {"quant_method": ["awq"], "bits": "4"}}, "", None),
        (
            {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": [1]}},
            "COMPRESSED-TENSORS",
            None,
        ),
        ({"torch_dtype": 7}, "", None),
        ({}, "", None),
        (None, "", None),
    ],
)
def test_what_the_configuration_tells(config: dict[str, Any] | None, label: str, bits: float | None) -> None:
    assert label_of_config(config) == (label, bits)


@pytest.mark.parametrize(
    ("repo_id", "label"),
    [
        ("TheBloke/Mistral-7B-Instruct-v0.2-AWQ", "AWQ"),
        ("Qwen/Qwen2.5-72B-Instruct-GPTQ-Int4", "GPTQ"),
        ("turboderp/Llama-3-8B-exl2", "EXL2"),
        ("neuralmagic/Meta-Llama-3-8B-FP8", "FP8"),
        ("unsloth/llama-3-8b-bnb-4bit", "BNB-4BIT"),
        ("mlx-community/Qwen3-8B-4bit", "4BIT"),
        ("acme/drawquest", ""),
        ("acme/tiny", ""),
    ],
)
def test_what_a_repos_name_tells(repo_id: str, label: str) -> None:
    assert label_of_name(repo_id) == label


def test_the_configuration_wins_over_the_name() -> None:
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    assert labels_of(group("model.safetensors", config=config, repo_id="acme/tiny-AWQ")) == ("GPTQ",)
    assert labels_of(group("model.safetensors", repo_id="acme/tiny-AWQ")) == ("AWQ",)
    assert labels_of(group("model.safetensors", config={"dtype": "float16"}, repo_id="acme/tiny-AWQ")) == ("AWQ",)


@pytest.mark.parametrize(
    ("repo_id", "family"),
    [
        ("meta-llama/Llama-3.1-70B", "Llama-3.1"),
        ("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "Llama-3.1"),
        ("Qwen/Qwen2.5-Coder-7B-Instruct-GGUF", "Qwen2.5-Coder"),
        ("bartowski/Qwen_Qwen3-30B-A3B-GGUF", "Qwen3"),
        ("mistralai/Mixtral-8x7B-v0.1", "Mixtral"),
        ("microsoft/phi-4", "phi-4"),
        ("TheBloke/Mistral-7B-Instruct-v0.2-AWQ", "Mistral"),
        ("acme/tiny", "tiny"),
        ("gpt2", "gpt2"),
        ("acme/7B", "7B"),
    ],
)
def test_the_family_of_a_name(repo_id: str, family: str) -> None:
    assert family_of(repo_id) == family


def test_the_owner_of_a_name() -> None:
    assert (owner_of("acme/tiny"), owner_of("gpt2")) == ("acme", "")


@given(st.lists(st.tuples(st.text(min_size=1, max_size=40), st.none() | st.integers(0, 1 << 50)), max_size=12))
def test_every_file_is_in_one_place_whatever_its_name(files: list[tuple[str, int | None]]) -> None:
    files = list(dict(files).items())
    found = group_files(files)
    placed = [path for row in (*found.variants, *found.sidecars) for path in row.files] + list(found.rest)
    assert sorted(placed) == sorted(path for path, _ in files)
    total = sum(row.bytes for row in (*found.variants, *found.sidecars)) + found.rest_bytes
    assert total == sum(size or 0 for _, size in files)
