"""What a repo's name tells: its owner, and the family of models that it belongs to. Pure."""

from __future__ import annotations

import re

from .quantization import label_of_name

_SIZE = re.compile(r"(?:\d+x)?\d+(?:[._]\d+)?[bm](?:-a\d+(?:\.\d+)?b)?|e\d+b|a\d+b", re.IGNORECASE)
_NOT_FAMILY = frozenset(
    {
        *(
            "gguf",
            "awq",
            "gptq",
            "exl2",
            "exl3",
            "fp8",
            "fp16",
            "bf16",
            "fp32",
            "int4",
            "int8",
            "mlx",
            "hf",
            "onnx",
            "bnb",
        ),
        *(
            "instruct",
            "chat",
            "base",
            "it",
            "pt",
            "sft",
            "dpo",
            "rlhf",
            "preview",
            "quantized",
            "imatrix",
            "i1",
            "dynamic",
        ),
        *("4bit", "8bit", "6bit", "safetensors", "thinking", "uncensored", "abliterated", "unsloth"),
    }
)
_PUBLISHERS = ("meta-", "google-", "microsoft-", "nvidia-", "mistralai-", "deepseek-ai-")


def owner_of(repo_id: str) -> str:
    """``ORG`` of ``ORG/NAME``; "" for a repo without one."""
    return repo_id.rpartition("/")[0]


def family_of(repo_id: str) -> str:
    """The family of a repo's name: what stands before its size and before words about its training and packing.

    ``bartowski/Meta-Llama-3.1-8B-Instruct-GGUF`` and ``meta-llama/Llama-3.1-70B`` are both ``Llama-3.1``. A guess for grouping.
    """
    name = repo_id.rpartition("/")[2]
    for prefix in _PUBLISHERS:
        if name.lower().startswith(prefix) and len(name) > len(prefix):
            name = name[len(prefix) :]
    # Some who quantize put the publisher before the name: "Qwen_Qwen3-8B-GGUF".
    doubled = re.match(r"([A-Za-z]+)[_-](?=\1)", name, re.IGNORECASE)
    if doubled:
        name = name[doubled.end() :]
    kept: list[str] = []
    for word in name.split("-"):
        if _SIZE.fullmatch(word) or word.lower() in _NOT_FAMILY or label_of_name(word):
            break
        kept.append(word)
    return "-".join(kept) or name
