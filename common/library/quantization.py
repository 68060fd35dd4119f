"""Which files of a repo belong together: one selectable row a quantization, shards summed up, sidecars apart. Pure.

GGUF names follow ``[sidecar-]base-size-finetune-version-encoding-type-shard.gguf`` only loosely (ggml's docs/gguf.md says itself
that it cannot be parsed back), so the label is found as the Hub's own page finds it: an optional ``UD-``, a known quantization, an
optional size letter, in upper case, and the last match wins. Labels are compared as a whole, never as a part of a name: ``q6_k``
is not ``UD-Q6_K_XL``.

AWQ, GPTQ, EXL, FP8 and the like are told by ``config.json``; where that is not known, by the repo's name. Safetensors variants
(``model.fp16.safetensors``, as diffusers and transformers name them) are told by their file names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ..errors import NotFound

GGUF, SAFETENSORS, PYTORCH, TENSORFLOW, FLAX, ONNX = "gguf", "safetensors", "pytorch", "tensorflow", "flax", "onnx"

_GGUF_LABEL = re.compile(
    r"(?<![A-Z0-9])(?:UD-)?"
    r"(?:BF16|FP?16|FP?32|FP8|NVFP4|MXFP4(?:_MOE)?|TQ[12]_0"
    r"|IQ[1-6]_(?:XXS|XS|S|M|L|XL|NL|KSS|KS|KT|KL|K)(?:_R4|_R8)?"
    r"|Q[1-8]_K(?:_(?:XXS|XS|S|M|L|XL))?"
    r"|Q[1-8]_[01](?:_[48]_[48])?(?:_(?:S|M|L|XL))?)"
    r"(?![A-Z0-9])"
)
_SHARD = re.compile(r"[-_.](\d{5,6})-of-(\d{5,6})$")
_OLD_GGUF_PART = re.compile(r"\.gguf[-.](?:split-([a-z])|part(\d+)of(\d+))$", re.IGNORECASE)
_SIDECAR = re.compile(r"(?:^|(?<=[-_.]))(?:mmproj)(?=[-_.]|$)|^(?:mtp|imatrix)(?=[-_.]|$)", re.IGNORECASE)
_WEIGHTS = {
    ".gguf": GGUF,
    ".safetensors": SAFETENSORS,
    ".bin": PYTORCH,
    ".pt": PYTORCH,
    ".pth": PYTORCH,
    ".ckpt": PYTORCH,
    ".h5": TENSORFLOW,
    ".msgpack": FLAX,
    ".onnx": ONNX,
    ".onnx_data": ONNX,
}
_NOT_WEIGHTS = re.compile(
    r"(?:^|/)(?:training_args|optimizer|scheduler|rng_state\w*|random_states\w*|vocab|spiece|tokenizer)\.",
    re.IGNORECASE,
)
_INDEX = re.compile(r"\.(?:safetensors|bin)\.index(?:\.([A-Za-z0-9_]+))?\.json$")
_VARIANT = re.compile(
    r"(?<![A-Za-z0-9])(bf16|fp?16|fp?32|fp8(?:_e\dm\d(?:fn|fnuz)?)?|nvfp4|nf4|int8|int4|non_ema)(?![A-Za-z0-9])"
)
_NAME_LABELS = tuple(
    re.compile(rf"(?<![A-Za-z0-9])(?:{label})(?![A-Za-z0-9])", re.IGNORECASE)
    for label in (
        *("AWQ", "GPTQ", "EXL2", "EXL3", "NVFP4", "MXFP4", "FP8", "HQQ", "AQLM", "BNB[-_]4BIT", "BNB[-_]8BIT"),
        *(r"W\dA\d{1,2}", "INT8", "INT4", r"[2-8]BIT"),
    )
)
_DTYPES = {"bfloat16": "BF16", "float16": "FP16", "float32": "FP32", "float8_e4m3fn": "FP8"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One selectable row: weights that belong together.

    label is what `select` compares ("Q4_K_M", "AWQ", "FP16"); kind one of the formats of this module; name what people see
    (the stem without shard and suffix); files paths below the repo; bytes their sum (unknown sizes count 0); shards 0 for one
    file; missing how many shards are not there; bits per weight where the configuration says so.
    """

    label: str
    kind: str
    name: str
    files: tuple[str, ...]
    bytes: int
    shards: int = 0
    missing: int = 0
    bits: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Grouping:
    """The files of a repo. default is the row to pick when nobody says which, None where there are no weights."""

    variants: tuple[Variant, ...] = ()
    sidecars: tuple[Variant, ...] = ()  # projectors (mmproj), draft heads (mtp), importance matrices
    rest: tuple[str, ...] = ()  # configuration, tokenizer, texts, and whatever else is no weight
    rest_bytes: int = 0
    default: Variant | None = None

    def select(self, label: str) -> tuple[Variant, ...]:
        """The rows with this label, whatever its case. Raises NotFound that lists what there is."""
        wanted = normal_label(label)
        found = tuple(row for row in (*self.variants, *self.sidecars) if normal_label(row.label) == wanted)
        if found:
            return found
        there = ", ".join(dict.fromkeys(row.label for row in self.variants)) or "no weights that could be told apart"
        raise NotFound(f"quantization {label}", cause="the repo has none of this name", remedy=f"there is {there}")

    def files_for(self, row: Variant) -> tuple[str, ...]:
        """What to fetch for a row: its weights; for all but GGUF, which is whole in itself, the configuration and texts as well."""
        return row.files if row.kind == GGUF else (*row.files, *self.rest)


@dataclass(slots=True)
class _Row:
    label: str
    kind: str
    name: str
    files: list[str] = field(default_factory=list[str])
    bytes: int = 0
    shard_of: dict[str, tuple[set[int], int]] = field(default_factory=dict[str, tuple[set[int], int]])

    def add(self, path: str, size: int | None, stem: str, shard: tuple[int, int] | None) -> None:
        self.files.append(path)
        self.bytes += size or 0
        if shard:
            self.shard_of.setdefault(stem, (set(), shard[1]))[0].add(shard[0])

    def variant(self, bits: float | None) -> Variant:
        missing = sum(max(0, total - len(seen)) for seen, total in self.shard_of.values())
        return Variant(
            label=self.label,
            kind=self.kind,
            name=self.name,
            files=tuple(self.files),
            bytes=self.bytes,
            shards=sum(len(seen) for seen, _ in self.shard_of.values()),
            missing=missing,
            bits=bits,
        )


def normal_label(label: str) -> str:
    """Two labels mean the same when these agree: case does not count, ``fp16`` is ``F16``, ``bnb_4bit`` is ``bnb-4bit``."""
    text = label.strip().upper()
    text = re.sub(r"^FP(16|32)$", r"F\1", text)
    return text.replace("BNB_", "BNB-")


def gguf_label(path: str) -> str:
    """The quantization that a GGUF file's name tells, else its folder's, in upper case; "" where neither does."""
    name = path.rpartition("/")[2]
    for text in (name, path.rpartition("/")[0].rpartition("/")[2]):
        found = _GGUF_LABEL.findall(text.upper())
        if found:
            return re.sub(r"(?<![A-Z])FP(16|32)$", r"F\1", cast(str, found[-1]))
    return ""


def group_files(
    files: Iterable[tuple[str, int | None]], *, config: Mapping[str, Any] | None = None, repo_id: str = ""
) -> Grouping:
    """Put the files of a repo into rows.

    Args: files are paths below the repo with their sizes in bytes; config is the parsed ``config.json``, None where it is not
    known; repo_id ("ORG/NAME") tells the quantization where config does not.
    """
    untagged, bits = label_of_config(config)
    untagged = untagged if bits or untagged not in ("", *_DTYPES.values()) else label_of_name(repo_id) or untagged
    rows: dict[tuple[str, ...], _Row] = {}
    sidecars: dict[tuple[str, ...], _Row] = {}
    indexes: list[tuple[str, int | None, str, str]] = []
    rest: list[str] = []
    rest_bytes = 0
    for path, size in sorted(files):
        folder, _, name = path.rpartition("/")
        kind = _kind_of(path)
        if (index := _INDEX.search(name)) is not None:
            tag = (index[1] or _tag(name[: index.start()])).upper()
            indexes.append((path, size, SAFETENSORS if ".safetensors." in name else PYTORCH, tag))
            continue
        if not kind:
            rest.append(path)
            rest_bytes += size or 0
            continue
        stem, shard = _stem_and_shard(name)
        if kind == GGUF:
            label = gguf_label(path) or stem
            into = sidecars if _SIDECAR.search(stem) else rows
            into.setdefault((kind, folder, stem, label), _Row(label, kind, stem)).add(path, size, stem, shard)
        else:
            tag = _tag(stem).upper()
            label = tag or (untagged or "SAFETENSORS" if kind == SAFETENSORS else kind.upper())
            row = rows.setdefault((kind, tag), _Row(label, kind, f"{kind} {tag}".strip()))
            row.add(path, size, f"{folder}/{stem}", shard)
    for path, size, kind, tag in indexes:
        row = rows.get((kind, tag))
        if row is None:
            rest.append(path)
            rest_bytes += size or 0
        else:
            row.files.append(path)
            row.bytes += size or 0
    order = sorted(rows.items(), key=lambda item: (item[0][0] != SAFETENSORS, item[0][0] != GGUF, item[0]))
    variants = tuple(row.variant(bits if row.kind == SAFETENSORS else None) for _, row in order)
    return Grouping(
        variants=variants,
        sidecars=tuple(row.variant(None) for row in sidecars.values()),
        rest=tuple(rest),
        rest_bytes=rest_bytes,
        default=_default(variants),
    )


def label_of_config(config: Mapping[str, Any] | None) -> tuple[str, float | None]:
    """The quantization that ``config.json`` tells ("AWQ", "FP8"), else its type ("BF16"), and the bits per weight; "" and None
    where it says nothing. Nothing in it is trusted to have the right type."""
    if not isinstance(config, Mapping):
        return "", None
    quantization: Any = config.get("quantization_config") or config.get("compression_config")
    if isinstance(quantization, Mapping):
        return _label_of_quantization(cast("Mapping[str, Any]", quantization))
    own: Any = config.get("quantization")
    if isinstance(own, Mapping) and (bits := _number(cast("Mapping[str, Any]", own).get("bits"))):
        return f"{bits:g}BIT", bits  # as MLX writes it
    text: Any = config.get("text_config")
    parts = [config, cast("Mapping[str, Any]", text)] if isinstance(text, Mapping) else [config]
    for part in parts:
        dtype = part.get("torch_dtype") or part.get("dtype")
        if isinstance(dtype, str) and dtype.removeprefix("torch.") in _DTYPES:
            return _DTYPES[dtype.removeprefix("torch.")], None
    return "", None


def _label_of_quantization(quantization: Mapping[str, Any]) -> tuple[str, float | None]:
    method = quantization.get("quant_method")
    bits = _number(quantization.get("bits")) or _number(quantization.get("w_bit"))
    if not isinstance(method, str):
        algorithm = quantization.get("quant_algo")
        return (algorithm.upper() if isinstance(algorithm, str) else ""), bits
    if method == "bitsandbytes":
        bits = 4.0 if quantization.get("load_in_4bit") else 8.0
        return f"BNB-{bits:g}BIT", bits
    if method == "compressed-tensors":
        return _label_of_groups(quantization)
    if method == "modelopt" and isinstance(quantization.get("quant_algo"), str):
        return str(quantization["quant_algo"]).upper(), bits
    if method in ("fp8", "fbgemm_fp8"):
        return "FP8", 8.0
    return method.upper(), bits


def _label_of_groups(quantization: Mapping[str, Any]) -> tuple[str, float | None]:
    """compressed-tensors: ``W4A16`` and the like, or FP8, as its authors name their repos."""
    groups: Any = quantization.get("config_groups")
    for group in cast("Mapping[str, Any]", groups).values() if isinstance(groups, Mapping) else ():
        weights: Any = cast("Any", group).get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping):
            continue
        known = cast("Mapping[str, Any]", weights)
        bits = _number(known.get("num_bits"))
        if known.get("type") == "float" and bits == 8:
            return "FP8", bits
        inputs: Any = cast("Mapping[str, Any]", group).get("input_activations")
        activations = (
            _number(cast("Mapping[str, Any]", inputs).get("num_bits")) if isinstance(inputs, Mapping) else 16.0
        )
        if bits:
            return f"W{bits:g}A{activations or 16:g}", bits
    return "COMPRESSED-TENSORS", None


def label_of_name(repo_id: str) -> str:
    """The quantization that a repo's name tells ("ORG/NAME-AWQ"); "" where it tells none."""
    name = repo_id.rpartition("/")[2]
    for label in _NAME_LABELS:
        if found := label.search(name):
            return found[0].upper().replace("BNB_", "BNB-")
    return ""


def labels_of(grouping: Grouping) -> tuple[str, ...]:
    """The labels of a grouping's rows, each once, in the order of the rows."""
    return tuple(dict.fromkeys(row.label for row in grouping.variants))


def _kind_of(path: str) -> str:
    name = path.rpartition("/")[2].lower()
    if _NOT_WEIGHTS.search(path):
        return ""
    if _OLD_GGUF_PART.search(name):
        return GGUF
    return _WEIGHTS.get(name[name.rfind(".") :], "") if "." in name else ""


def _stem_and_shard(name: str) -> tuple[str, tuple[int, int] | None]:
    """The name without suffix and shard, and the shard's number (from 1) and count."""
    if old := _OLD_GGUF_PART.search(name):
        if old[1]:  # "-split-a": nothing says how many there are
            return name[: old.start()], (ord(old[1].lower()) - ord("a") + 1, 0)
        return name[: old.start()], (int(old[2]), int(old[3]))
    stem = name[: name.rfind(".")]
    tail = _SHARD.search(stem)
    if tail is None:
        middle = re.search(r"-(\d{5})-of-(\d{5})(?=\.)", stem)  # model-00001-of-00002.fp16.safetensors
        if middle is None:
            return stem, None
        return stem[: middle.start()] + stem[middle.end() :], (int(middle[1]), int(middle[2]))
    return stem[: tail.start()], (int(tail[1]), int(tail[2]))


def _tag(stem: str) -> str:
    found = _VARIANT.findall(stem.lower())
    tag = cast(str, found[-1]) if found else ""
    return re.sub(r"^f(16|32)$", r"fp\1", tag)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 64 else None


def _default(variants: Sequence[Variant]) -> Variant | None:
    """Q4_K_M, else another of four bits, else the first; one that lacks shards only when there is nothing else."""
    whole = [row for row in variants if not row.missing] or list(variants)
    plain = [row for row in whole if row.kind != GGUF] or whole
    for row in whole:
        if row.label == "Q4_K_M":
            return row
    for row in whole:
        if row.kind == GGUF and row.label.removeprefix("UD-").startswith("Q4"):
            return row
    return plain[0] if plain else None
