"""Tiny random models of many families, saved as their libraries save them: what a hub id becomes after the download."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["[PAD]", "[CLS]", "[UNK]", "[SEP]", "a", "cat", "dog", "red", "big", "photo", "of", "the", "on", "mat"]
LAYERS: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT: dict[str, Any] = {**LAYERS, "vocab_size": len(WORDS), "max_position_embeddings": 16}
VISION: dict[str, Any] = {**LAYERS, "image_size": 32, "patch_size": 8}
SPEECH: dict[str, Any] = {
    **LAYERS, "conv_dim": (16, 16), "conv_stride": (10, 16), "conv_kernel": (20, 16),
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
CLASSES = {0: "cat", 1: "dog", 2: "mat"}
PROMPTS = {"query": "photo of ", "document": "the ", "other": "red "}


def save_tokenizer(folder: Path, padding_side: str = "right", *, length: int = 16, pair: str | None = None) -> None:
    """Save a tokenizer of words for so many tokens; `pair` is the template of two texts, of cross-encoders."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 1), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=length,
        padding_side=padding_side,
    ).save_pretrained(folder)


def spread(model: Any) -> Any:
    """Weights large enough that inputs matter: at their usual start all embeddings are nearly the same."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4)
    return model


def save_clip(folder: Path) -> None:
    text = {**TEXT, "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 0}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8)
    spread(transformers.CLIPModel(config)).save_pretrained(folder)
    crop: Any = {"height": 32, "width": 32}
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)
    save_tokenizer(folder)


def save_siglip(folder: Path) -> None:
    config = transformers.SiglipConfig(text_config=TEXT, vision_config=VISION)
    spread(transformers.SiglipModel(config)).save_pretrained(folder)
    transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    save_tokenizer(folder)


def save_siglip2(folder: Path) -> None:
    vision = {**LAYERS, "patch_size": 16, "num_patches": 256}  # as the processor of the library has it
    config = transformers.Siglip2Config(text_config=TEXT, vision_config=vision)
    spread(transformers.Siglip2Model(config)).save_pretrained(folder)
    transformers.Siglip2ImageProcessorPil(patch_size=16, max_num_patches=256).save_pretrained(folder)
    save_tokenizer(folder)


def save_clap(folder: Path) -> None:
    """Windows of a second at 16 kHz."""
    sizes = {"window_size": 4, "num_mel_bins": 16, "spec_size": 64, "patch_size": 2, "patch_stride": 2, "freq_ratio": 2}
    layers = {"hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [2, 2], "num_attention_heads": [2, 2]}
    text = {**TEXT, "max_position_embeddings": 40, "pad_token_id": 0}
    config = transformers.ClapConfig(text_config=text, audio_config=sizes | layers, projection_dim=8)
    torch.manual_seed(1)
    transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=16_000,
        max_length_s=1,
        hop_length=320,
        frequency_max=8000,
        truncation="rand_trunc",
    ).save_pretrained(folder)
    save_tokenizer(folder)


def save_bert(folder: Path) -> None:
    spread(transformers.BertModel(transformers.BertConfig(**TEXT))).save_pretrained(folder)
    save_tokenizer(folder)


def save_llama(folder: Path) -> None:
    """Each token sees only those before it, and its tokenizer would pad on the left."""
    config = transformers.LlamaConfig(**TEXT, bos_token_id=1, eos_token_id=3, pad_token_id=0)
    spread(transformers.LlamaModel(config)).save_pretrained(folder)
    save_tokenizer(folder, padding_side="left")


def save_sentence(folder: Path) -> None:
    plain = folder.with_name("sentence-plain")
    save_bert(plain)
    first = Transformer(str(plain), max_seq_length=12, do_lower_case=True)
    modules = [first, Pooling(16, pooling_mode=("cls", "mean")), Dense(32, 6), Normalize()]
    SentenceTransformer(modules=modules, device="cpu", prompts=PROMPTS).save(str(folder))


def save_router(folder: Path) -> None:
    """Queries and documents go through networks of their own."""
    plain, other = folder.with_name("router-query"), folder.with_name("router-document")
    save_bert(plain)
    save_bert(other)
    router = Router.for_query_document(
        query_modules=[Transformer(str(plain)), Pooling(16, "mean")],
        document_modules=[Transformer(str(other)), Pooling(16, "mean")],
    )
    SentenceTransformer(modules=[router, Normalize()], device="cpu").save(str(folder))


def save_picture_processor(folder: Path) -> None:
    size: Any = {"height": 32, "width": 32}
    transformers.ViTImageProcessorPil(size=size).save_pretrained(folder)


def save_dinov2(folder: Path) -> None:
    config = transformers.Dinov2Config(**{**LAYERS, "image_size": 32, "patch_size": 8, "mlp_ratio": 2})
    spread(transformers.Dinov2Model(config)).save_pretrained(folder)
    save_picture_processor(folder)


def save_vit(folder: Path) -> None:
    """A classifier, which reads the first token: there are no weights of a pooler."""
    config = transformers.ViTConfig(**VISION, id2label=CLASSES, label2id={name: key for key, name in CLASSES.items()})
    spread(transformers.ViTForImageClassification(config)).save_pretrained(folder)
    save_picture_processor(folder)


def save_convnext(folder: Path) -> None:
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32)
    spread(transformers.ConvNextModel(config)).save_pretrained(folder)
    save_picture_processor(folder)


def save_resnet(folder: Path) -> None:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
        id2label=CLASSES, label2id={name: key for key, name in CLASSES.items()},
    )  # fmt: skip
    spread(transformers.ResNetForImageClassification(config)).save_pretrained(folder)
    save_picture_processor(folder)


def save_wav2vec2(folder: Path) -> None:
    spread(transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**SPEECH))).save_pretrained(folder)
    extractor: Any = transformers.Wav2Vec2FeatureExtractor
    extractor().save_pretrained(folder)


def save_hubert(folder: Path) -> None:
    config = transformers.HubertConfig(**SPEECH, feat_extract_norm="layer")
    spread(transformers.HubertModel(config)).save_pretrained(folder)
    extractor: Any = transformers.Wav2Vec2FeatureExtractor
    extractor(return_attention_mask=True).save_pretrained(folder)


def save_ast(folder: Path) -> None:
    config = transformers.ASTConfig(**LAYERS, max_length=64, num_mel_bins=32)
    spread(transformers.ASTModel(config)).save_pretrained(folder)
    extractor: Any = transformers.ASTFeatureExtractor
    extractor(max_length=64, num_mel_bins=32).save_pretrained(folder)


def save_whisper(folder: Path) -> None:
    config = transformers.WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=16, vocab_size=len(WORDS), max_source_positions=50,
        pad_token_id=0, bos_token_id=1, eos_token_id=3, decoder_start_token_id=1,
    )  # fmt: skip
    spread(transformers.WhisperModel(config)).save_pretrained(folder)
    extractor: Any = transformers.WhisperFeatureExtractor
    extractor(feature_size=16, chunk_length=1).save_pretrained(folder)


def save_videomae(folder: Path) -> None:
    config = transformers.VideoMAEConfig(**VISION, num_frames=4)
    spread(transformers.VideoMAEModel(config)).save_pretrained(folder)
    size: Any = {"height": 32, "width": 32}
    transformers.VideoMAEVideoProcessor(size=size, do_center_crop=False, do_sample_frames=False).save_pretrained(folder)


def save_timm(folder: Path) -> None:
    import timm

    model = spread(timm.create_model("test_resnet"))  # of the 1000 classes of ImageNet
    timm.models.save_for_hf(model, folder, safe_serialization=True, data_config={"input_size": (3, 64, 64)})
    config = json.loads((folder / "config.json").read_text())
    del config["model_args"]  # which those on the hub do not have
    (folder / "config.json").write_text(json.dumps(config))


def save_omni(folder: Path) -> None:
    """EmbeddingGemma 2: texts, pictures, sounds and videos in one space."""
    from transformers.models.embedding_gemma2 import (
        EmbeddingGemma2Config,
        EmbeddingGemma2Model,
        EmbeddingGemma2Processor,
        EmbeddingGemma2TextConfig,
    )
    from transformers.models.embedding_gemma2.video_processing_embedding_gemma2 import EmbeddingGemma2VideoProcessor
    from transformers.models.gemma4 import Gemma4AudioConfig, Gemma4AudioFeatureExtractor, Gemma4VisionConfig
    from transformers.models.gemma4.image_processing_gemma4 import Gemma4ImageProcessor

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<|image|>", "<|image>", "<image|>", "<|audio|>", "<|audio>"]
    special += ["<audio|>", "<|video|>", "<mask>"]
    words = [*special, *WORDS[4:], *"bcdefghijklmnopqrstuvwxyz0123456789:|"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
        mask_token="<mask>", model_max_length=4096, extra_special_tokens={
            "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
            "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
        },
    )  # fmt: skip
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    config = EmbeddingGemma2Config(
        text_config=EmbeddingGemma2TextConfig(
            **heads, vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            hidden_size_per_layer_input=16, embedding_dim=24, layer_types=["sliding_attention", "full_attention"],
            max_position_embeddings=4096,
        ),
        vision_config=Gemma4VisionConfig(**heads, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                                         position_embedding_size=1024),
        audio_config=Gemma4AudioConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                                       subsampling_conv_channels=[128, 4], output_proj_dims=32),
        image_token_id=4, boi_token_id=5, eoi_token_id=6, audio_token_id=7, boa_token_id=8, eoa_token_index=9,
        video_token_id=10,
    )  # fmt: skip
    bare = folder.with_name("omni-bare")
    EmbeddingGemma2Model(config).save_pretrained(bare)
    EmbeddingGemma2Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessor(),
        tokenizer=tokenizer,
        video_processor=EmbeddingGemma2VideoProcessor(),
    ).save_pretrained(bare)
    modules = [Transformer(str(bare)), Pooling(24, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu", prompts=PROMPTS).save(str(folder))


CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} {% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] in ['image', 'video'] %}"
    "<|vision_start|><|{{ part['type'] }}_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>{% endfor %}"
)


def save_qwen(folder: Path) -> None:
    """Qwen3-VL as an embedding model: pictures, words, videos, and pictures with words go through one chat template."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special += ["<|image_pad|>", "<|video_pad|>"]
    words = [*special, "[UNK]", "user", "system", *WORDS[4:], *"<>.0123456789", "seconds"]
    vocabulary = {word: number for number, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, pad_token="<|endoftext|>", unk_token="[UNK]", additional_special_tokens=special[1:],
        model_max_length=4096,
    )  # fmt: skip
    config = transformers.Qwen3VLConfig(
        text_config={
            "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
        },
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
            "num_position_embeddings": 64, "deepstack_visual_indexes": [0], "patch_size": 16,
        },
        image_token_id=vocabulary["<|image_pad|>"], video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"], vision_end_token_id=vocabulary["<|vision_end|>"],
    )  # fmt: skip
    bare = folder.with_name("qwen-bare")
    spread(transformers.Qwen3VLModel(config)).save_pretrained(bare)
    size: Any = {"shortest_edge": 32 * 32, "longest_edge": 128 * 128}
    processor: Any = transformers.Qwen3VLProcessor
    processor(
        image_processor=Qwen2VLImageProcessorPil(patch_size=16, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size=size, cap_pixels_per_frame=True),
        chat_template=CHAT,
    ).save_pretrained(bare)
    modules = [Transformer(str(bare)), Pooling(32, "lasttoken"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))


MAKERS: dict[str, Callable[[Path], None]] = {
    "clip": save_clip, "siglip": save_siglip, "siglip2": save_siglip2, "clap": save_clap, "bert": save_bert,
    "llama": save_llama, "sentence": save_sentence, "router": save_router, "dinov2": save_dinov2, "vit": save_vit,
    "convnext": save_convnext, "resnet": save_resnet, "wav2vec2": save_wav2vec2, "hubert": save_hubert, "ast": save_ast,
    "whisper": save_whisper, "videomae": save_videomae, "timm": save_timm, "omni": save_omni, "qwen": save_qwen,
}  # fmt: skip
NEED_TORCHVISION = ("omni", "qwen", "timm", "videomae")


def saved_model(root: Path, kind: str) -> Path:
    """Return the folder of a model of a kind, made when it is first asked for; skip where its processors cannot run."""
    if kind in NEED_TORCHVISION and importlib.util.find_spec("torchvision") is None:
        pytest.skip(f"{kind} needs torchvision and timm, which make install puts beside the environment")
    if not (root / kind).exists():
        torch.manual_seed(0)
        MAKERS[kind](root / kind)
    return root / kind
