"""The model directory: what it holds, how it is written so that a kill cannot break it, how it is read.

Everything in it is JSON, safetensors or ONNX. ``diffembed.json`` (``ModelConfig``) says how vectors are made; beside
it stand a stock ``config.json`` + ``model.safetensors``, the tokenizer, and the small files that let
``sentence_transformers.SentenceTransformer(path)`` load the same directory. Reading needs no torch; ``save_model`` and
``load_backbone`` do. No remote code is ever run: a config with ``auto_map`` is refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from diffembed.errors import MissingExtraError, ModelError, TrainingError
from diffembed.models.files import atomic_directory, check_safetensors, write_json
from diffembed.text.batching import Pooling, readout
from diffembed.vectors.quantize import QUANTIZERS, Quantizer

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

Attention = Literal["bidirectional", "causal"]

FORMAT = 1
CONFIG_FILE = "diffembed.json"
WEIGHTS_FILE = "model.safetensors"
HEAD_FILE = "head.safetensors"
TOKENIZER_FILE = "tokenizer.json"
OURS = "diffembed"  # key of the first entry of a modules.json: the directory is nothing without this file
_NO_PART_OF_AN_ENCODER = r"(^|\.)position_ids$|^cls\."  # buffers and heads that BERT checkpoints carry
_TYPES: dict[str, Any] = {  # of the keys of diffembed.json that are not an int
    **dict.fromkeys(("name", "pooling", "attention", "quantizer", "query_prompt", "document_prompt"), str),
    **dict.fromkeys(("contextual", "normalize", "shift"), bool),
    **dict.fromkeys(("dims", "prefix_ids", "suffix_ids"), list),
    "mask_token_id": int | None,
    "manifest": dict,
}
TORCH_HINT = "this needs torch and transformers; add them with: pip install 'diffembed[train]'"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """``diffembed.json``: how a model directory turns text into vectors.

    Attributes:
        name: what the model is called.
        dims: trained widths, ascending; the last is the hidden size.
        contextual: chunks of a document are read together (late chunking).
        quantizer: ``tanh-int8`` (trained through) or ``none``.
        pooling: what of a span's tokens is its vector: their ``mean``, or the state of a token that is put after every
            text and chunk, the end token (``last``) or a ``mask`` token. ``modules`` only in memory:
            sentence-transformers' own modules pool and finish.
        attention: ``causal`` where a token sees only what stands before it; runs on torch alone.
        normalize: float32 output of a ``none`` model has length 1.
        max_tokens: longest sequence, prefix and suffix included.
        mask_token_id: what a masked token becomes; ``None`` for a model that was never trained to fill in.
        shift: a language model's state at i predicts token i + 1.
        eot_token_id: stands between the chunks of a document and is not pooled.
        prefix_ids, suffix_ids: put around every sequence and pooled with it (``[CLS]`` and ``[SEP]`` of a BERT).
        query_prompt, document_prompt: text put before every query or document and pooled with it.
        manifest: what the weights were made from: recipe, data, seeds, versions, steps, parents.
    """

    name: str
    dims: tuple[int, ...]
    max_tokens: int
    mask_token_id: int | None
    pad_token_id: int
    eot_token_id: int
    contextual: bool = False
    pooling: Pooling | Literal["modules"] = "mean"
    attention: Attention = "bidirectional"
    quantizer: Quantizer = "tanh-int8"
    normalize: bool = False
    shift: bool = True
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    query_prompt: str = ""
    document_prompt: str = ""
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def readout_ids(self) -> tuple[int, ...]:
        """What is put after every text and chunk to be its vector; nothing for ``mean``."""
        return readout(self.pooling, end_token_id=self.eot_token_id, mask_token_id=self.mask_token_id)

    def to_json(self) -> str:
        """The text of ``diffembed.json``. It does not speak of attention that is open, as it never did."""
        values = {"format": FORMAT, **asdict(self)}
        if self.attention == "bidirectional":
            del values["attention"]
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = CONFIG_FILE) -> ModelConfig:
        """Parse and check ``diffembed.json``.

        Raises:
            ModelError: not JSON, another format number, a key unknown or missing, a value that makes no sense.
        """
        data = _parse_object(text, source)
        found = data.pop("format", None)
        if found != FORMAT:
            raise ModelError(
                f"{source} has format {found!r}, this version reads format {FORMAT}; export the model again"
            )
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ModelError(f"{source} has unknown keys {', '.join(unknown)}; use the diffembed version that wrote it")
        for name, value in data.items():
            if not isinstance(value, _TYPES.get(name, int)) or (
                isinstance(value, list) and not all(isinstance(item, int) for item in value)
            ):
                raise ModelError(f"{source} has {name} {value!r}, which is of another type than it should be")
            if isinstance(value, list):
                data[name] = tuple(value)
        try:
            config = cls(**data)
        except TypeError:
            absent = sorted({"name", "dims", "max_tokens", "mask_token_id", "pad_token_id", "eot_token_id"} - set(data))
            raise ModelError(f"{source} lacks {', '.join(absent)}; export or save the model again") from None
        config._check(source)
        return config

    def _check(self, source: str) -> None:
        if not self.dims or list(self.dims) != sorted(set(self.dims)) or self.dims[0] < 1:
            raise ModelError(f"{source} has dims {list(self.dims)}; they must be positive and ascending")
        known = (("pooling", get_args(Pooling)), ("attention", get_args(Attention)), ("quantizer", QUANTIZERS))
        for key, words in known:
            if getattr(self, key) not in words:
                raise ModelError(
                    f"{source} asks for {key} {getattr(self, key)!r}; known are {' or '.join(map(repr, words))}"
                )
        if self.pooling == "mask" and self.mask_token_id is None:
            raise ModelError(
                f"{source} has pooling 'mask' and no mask_token_id, the token that it puts after every text and reads"
            )
        if self.readout_ids and self.suffix_ids:
            raise ModelError(
                f"{source} has pooling {self.pooling!r}, which reads a token that it puts after every text, and "
                "suffix_ids, which would stand after it; only one of them can be"
            )
        room = self.max_tokens - len(self.prefix_ids) - len(self.suffix_ids) - len(self.readout_ids)
        if room < 1:
            raise ModelError(f"{source} has max_tokens {self.max_tokens}, which leaves no room for text; correct it")


def read_model_config(path: str | Path) -> ModelConfig:
    """Check a model directory and read its ``diffembed.json``, without torch.

    Checks that ``diffembed.json``, ``config.json``, ``tokenizer.json`` and ``model.safetensors`` are there and whole
    (JSON parses, the weights file is as long as its header says), and that special tokens lie inside the table.

    Raises:
        ModelError: names the file and the mend.
    """
    root = Path(path)
    if not root.is_dir():
        raise ModelError(f"model directory {root} does not exist; give a directory, a hub id or 'default'")
    if not (root / CONFIG_FILE).exists():
        if (root / "modules.json").exists() or (root / "config.json").exists():
            raise ModelError(
                f"{root} has no {CONFIG_FILE}: Encoder may load it as it is (docs/models.md), but here a model "
                f"directory of diffembed's is needed; make one of it with: diffembed export {root} --into DIR"
            )
        raise ModelError(f"{root} is not a model directory: {CONFIG_FILE} is missing; copy the whole directory again")
    config = ModelConfig.from_json(_read_text(root / CONFIG_FILE), str(root / CONFIG_FILE))
    stock = read_stock_config(root)
    _parse_object(_read_text(root / TOKENIZER_FILE), str(root / TOKENIZER_FILE))
    check_safetensors(root / WEIGHTS_FILE)
    if (stock.get("is_causal") is True) != (config.attention == "causal"):
        raise ModelError(
            f"{root}: {CONFIG_FILE} says that attention is {config.attention} and config.json has is_causal "
            f"{stock.get('is_causal')}; save the model again"
        )
    hidden, vocab = stock.get("hidden_size"), stock.get("vocab_size")
    if config.dims[-1] != hidden:
        raise ModelError(
            f"{root}: widest dims {config.dims[-1]} is not hidden_size {hidden} of config.json; save it again"
        )
    special = [("mask", config.mask_token_id), ("pad", config.pad_token_id), ("eot", config.eot_token_id)]
    special += [("prefix", i) for i in config.prefix_ids] + [("suffix", i) for i in config.suffix_ids]
    for name, token in special:
        if token is not None and not 0 <= token < int(vocab or 0):
            raise ModelError(f"{root}: {name}_token_id {token} lies outside the embedding table of {vocab} rows")
    return config


def read_stock_config(root: Path) -> dict[str, Any]:
    """``config.json`` as a dict; refuses one that asks for remote code (``auto_map``)."""
    data = read_json(root / "config.json")
    if "auto_map" in data:
        raise ModelError(
            f"{root / 'config.json'} has auto_map: it asks to run code from the model directory, which is never done; "
            "use a model of a stock architecture"
        )
    return data


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; ``ModelError`` where it is missing or damaged."""
    return _parse_object(_read_text(file), str(file))


def save_model(
    path: str | Path,
    backbone: PreTrainedModel,
    tokenizer: Tokenizer,
    config: ModelConfig,
    *,
    dtype: Literal["float32", "float16"] = "float32",
    card: str | None = None,
    head: torch.Tensor | None = None,
) -> Path:
    """Write a model directory in one step: whole or not at all, also under ``kill -9``.

    Args:
        path: the directory to make; one that exists is replaced.
        tokenizer: written as ``tokenizer.json``.
        config: written as ``diffembed.json``.
        backbone: a stock base model (or one with a head on a ``base_model``; the head is left out).
        dtype: how the weights stand on disk; models load as float32 either way.
        card: text of ``README.md``; a few lines about the config when absent.
        head: ``[vocab, hidden]`` output matrix of a language model that does not tie it to its token table; it stands
            in a file of its own, which embedding does not need.

    Raises:
        ModelError: the config's last width is not the backbone's.
        TrainingError: it could not be written (a full disk); what stood at ``path`` before is whole.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from diffembed.models.modules_file import ended, tokenizer_config, write_sentence_transformers_files

    base = backbone.base_model
    stock: dict[str, Any] = base.config.to_dict()  # type: ignore[union-attr, operator]
    hidden = int(stock["hidden_size"])
    if config.dims[-1] != hidden:
        raise ModelError(
            f"dims end at {config.dims[-1]} but the backbone is {hidden} wide; the last width must be equal"
        )
    for private in ("auto_map", "_name_or_path", "_attn_implementation", "torch_dtype"):
        stock.pop(private, None)
    stock |= {"is_causal": config.attention == "causal", "dtype": "float32", "architectures": [type(base).__name__]}
    on_disk = getattr(torch, dtype)
    tensors = {name: t.detach().to("cpu", on_disk).contiguous() for name, t in base.state_dict().items()}

    target = Path(path)
    try:
        with atomic_directory(target) as folder:
            save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
            if head is not None:
                save_file({"weight": head.detach().to("cpu", on_disk).contiguous()}, folder / HEAD_FILE)
            for file in folder.iterdir():
                file.chmod(0o644)  # safetensors makes them readable by their owner only
            write_json(folder / "config.json", stock)
            # not tokenizer.save: that raises a bare Exception where the disk is full
            (folder / TOKENIZER_FILE).write_text(ended(tokenizer, config).to_str(pretty=True), encoding="utf-8")
            write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer, config))
            (folder / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
            write_sentence_transformers_files(folder, config)
            (folder / "README.md").write_text(card or default_card(config), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"model directory {target} was not written ({error}); nothing of it is left, and what stood there before "
            "and the last checkpoint are whole: free space on the disk, then run it again"
        ) from None
    return target


def load_backbone(
    path: str | Path, *, attn_implementation: str = "sdpa", dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """The stock ``transformers`` model of a directory: its mask as ``config.json`` says (probed), in eval mode.

    Args:
        attn_implementation: what the model runs on.
        dtype: of the weights; ``None`` is float32.

    Raises:
        ModelError: a file is missing, truncated or asks for remote code; tensors do not fit the architecture; a late
            token changes no early state, or does where the model is causal.
        MissingExtraError: torch is not installed.
    """
    root = Path(path)
    causal = read_stock_config(root).get("is_causal") is True
    try:
        import torch
        from transformers import AutoConfig

        from diffembed.models.backbone import require_attention
        from diffembed.models.weights import load_stock
    except ImportError:
        raise MissingExtraError(TORCH_HINT) from None
    model = load_stock(
        root,
        AutoConfig.from_pretrained(root, trust_remote_code=False, local_files_only=True),
        attn_implementation=attn_implementation,
        dtype=dtype or torch.float32,
        unused=_NO_PART_OF_AN_ENCODER,
        causal=causal,
    )
    require_attention(model, causal=causal)
    return model


def load_head(path: str | Path) -> torch.Tensor | None:
    """The output matrix ``[vocab, hidden]`` float32 of a language model that does not tie it; else ``None``.

    Raises:
        ModelError: the file is damaged.
    """
    file = Path(path) / HEAD_FILE
    if not file.exists():
        return None
    if set(check_safetensors(file)) != {"weight"}:
        raise ModelError(f"{file} holds other tensors than 'weight'; copy or save the model again")
    from diffembed.models.weights import read_tensor

    return read_tensor(file, "weight")


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The directory's tokenizer, ready for user text.

    Truncation and padding saved in the file are switched off (limits are the encoder's), and special tokens written
    in a text are read as plain characters: no input can mask, separate or end itself.
    """
    from tokenizers import Tokenizer

    file = Path(path) / TOKENIZER_FILE
    text = _read_text(file)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"{file} is not a tokenizer that this version reads ({error}); copy it again") from None
    return ready_tokenizer(tokenizer)


def ready_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """Switch off truncation, padding and the reading of special tokens in text; changes and returns ``tokenizer``."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def default_card(config: ModelConfig) -> str:
    """A short ``README.md`` for a directory that nobody has described yet."""
    return (
        "---\nlibrary_name: diffembed\npipeline_tag: feature-extraction\n"
        "tags: [sentence-transformers, feature-extraction]\n---\n\n"
        f"# {config.name}\n\n"
        f"Widths: {', '.join(map(str, config.dims))}. Tokens: up to {config.max_tokens}. "
        f"Pooling: {config.pooling}. Quantizer: {config.quantizer}. "
        f"Contextual: {'yes' if config.contextual else 'no'}.\n\n"
        f'```python\nfrom diffembed import Encoder\nEncoder.load("PATH").encode_documents(["a text"])\n```\n'
    )


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelError(f"{file} is missing; copy the whole model directory again") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} cannot be read ({error}); copy it again") from None


def _parse_object(text: str, source: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelError(f"{source} is not whole JSON (line {error.lineno}: {error.msg}); copy it again") from None
    if not isinstance(data, dict):
        raise ModelError(f"{source} holds {type(data).__name__}, an object was expected; copy it again")
    return data
