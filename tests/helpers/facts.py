"""
Facts about the world that cards, recipes and guides state, each with its source.

A fact about a checkpoint is a pair of what its card must contain and where that was read; a card must not contain what
`FALSE_CLAIMS` lists for it.
"""

from typing import NamedTuple

PAPER = "Won, Hung, Le: A Foundation Model for Music Informatics, ICASSP 2024, arXiv 2311.03318"
MUSICFM_README = "README of github.com/minzwon/musicfm, commit b83ebed"
MUSICFM_HUB = "metadata of huggingface.co/minzwon/MusicFM"
MUQ_README = "README of github.com/tencent-ailab/MuQ, January 2025, and its file LICENSE_weights"
MULAN_CONFIG = "config.json of huggingface.co/OpenMuQ/MuQ-MuLan-large"
MERT_CARD = "card of huggingface.co/m-a-p/MERT-v1-330M"
MERT_README = "README of github.com/yizhilll/MERT"
MERT_CODE = "mert_fairseq/config/pretrain/MERT_RVQ-VAE_CQT_330M.yaml of github.com/yizhilll/MERT"
MERT2_CARD = "card of huggingface.co/m-a-p/MERT-v2-30s"
FMA_README = (
    "README of github.com/mdeff/fma: fma_large has 106 574 tracks of 30 s, fma_full the whole tracks, 343 days"
)
MSD_SITE = "millionsongdataset.com: features and metadata; the data set does not include any audio"


class Fact(NamedTuple):
    """What a text must contain, in any layout of its lines, and where that was read."""

    claim: str
    source: str


CHECKPOINT_FACTS = {
    "musicfm-fma": [
        Fact("README states that it was trained on FMA-large", MUSICFM_README),
        Fact("paper, and the README elsewhere, give 8 000 hours of FMA data", f"{PAPER}; {MUSICFM_README}"),
        Fact("FMA-large consists of clips of 30 s, about 890 hours", FMA_README),
        Fact("Creative Commons licenses", f"{MUSICFM_README}; {FMA_README}"),
        Fact("scores for FM9 (Table 1)", PAPER),
        Fact("replaced the file on February 13, 2024", f"{MUSICFM_README}: earlier checkpoints were incorrect"),
        Fact("**Weights:** MIT", f"{MUSICFM_README}; {MUSICFM_HUB}"),
        Fact("relatively low performance in key detection", f"{MUSICFM_README}, Limitations"),
    ],
    "musicfm-msd": [
        Fact("on the entire Million Song Dataset", MUSICFM_README),
        Fact("features and metadata of commercial recordings but no audio", MSD_SITE),
        Fact("authors have published no scores for these weights", f"{MUSICFM_README}: not introduced in the paper"),
        Fact("performs better than the FMA version", MUSICFM_README),
        Fact("**Weights:** MIT", f"{MUSICFM_README}; {MUSICFM_HUB}"),
        Fact("relatively low performance in key detection", f"{MUSICFM_README}, Limitations"),
    ],
    "muq-large-msd-iter": [
        Fact("trained on the Million Song Dataset", MUQ_README),
        Fact("features and metadata of commercial recordings but no audio", MSD_SITE),
        Fact("may not reach the scores in the paper", MUQ_README),
        Fact("**Weights:** CC-BY-NC-4.0", MUQ_README),
    ],
    "mert-v1-330m": [
        Fact("160 000 hours (MERT-v1-330M) and 20 000 hours (MERT-v1-95M)", MERT_CARD),
        Fact("clips of 5 s", MERT_CARD),
        Fact("**Weights:** CC-BY-NC-4.0", f"{MERT_CARD}: MIT until June 2, 2023"),
    ],
    "mert-v2-30s": [
        Fact("up to 30 s", MERT2_CARD),
        Fact("scores on the card of its authors", MERT2_CARD),
        Fact("**Weights:** CC-BY-NC-4.0", MERT2_CARD),
        Fact("gated repository", MERT2_CARD),
    ],
    "muq-mulan-large": [
        Fact("clips of 10 s", MULAN_CONFIG),
        Fact("512 values for a song or a text", MULAN_CONFIG),
        Fact("English or Chinese", MUQ_README),
        Fact('"music-text pairs"', MUQ_README),
        Fact("**Weights:** CC-BY-NC-4.0", MUQ_README),
    ],
}

# What earlier cards stated and the sources do not support.
FALSE_CLAIMS = [
    "scores in the paper of its authors apply",
    "scores that its authors published apply",
    "are weakest on key",
    "trained it on the audio of the Million Song Dataset",
    "mostly Creative Commons",
    "mentions the Million Song Dataset",
]

# Table 1 of the paper: encoder, layers, tokens per second, crop in seconds, tokens. The paper gives sizes of 330M and
# 660M; 12 conformer layers have 330M with the published front end, and BEST-RQ, which FM8 follows, has 24.
TABLE_1 = {
    "fm1": ("bert", 24, 75, 5, "kmeans"),
    "fm2": ("bert", 24, 75, 5, "random_projection"),
    "fm3": ("bert", 24, 75, 30, "random_projection"),
    "fm4": ("conformer", 12, 75, 5, "random_projection"),
    "fm5": ("conformer", 12, 75, 30, "random_projection"),
    "fm6": ("conformer", 12, 50, 30, "random_projection"),
    "fm7": ("conformer", 12, 25, 30, "random_projection"),
    "fm8": ("conformer", 24, 25, 30, "random_projection"),
    "fm9": ("conformer", 12, 25, 30, "random_projection"),
}

# Setting → value and source, for the recipes of all rows of Table 1 unless a row below differs.
TRAINING = {
    "learning_rate": (1e-4, PAPER),
    "warmup_steps": (30000, PAPER),
    "lr_scheduler_type": ("constant_with_warmup", "our choice: the paper mentions no decay"),
    "optim": ("adamw_torch", f"{PAPER}: Adam, which AdamW is without weight decay"),
    "weight_decay": (0.0, f"{PAPER}: Adam"),
    "max_grad_norm": (1.0, f"our choice: the paper mentions no clipping; 1.0 in {MERT_CODE}"),
    "bf16": (True, f"{PAPER}: mixed precision"),
    "statistics": ("global", "github.com/minzwon/musicfm: one mean and standard deviation for all mel bands"),
}
MASKS = {
    "mask_type": ("noise", PAPER),
    "mask_prob": (0.6, f"{PAPER}; model/musicfm_25hz.py of github.com/minzwon/musicfm"),
    "mask_seconds": (0.4, f"{PAPER}; the same file"),
    "mask_noise_std": (0.1, "model/musicfm_25hz.py of github.com/minzwon/musicfm"),
    "codebook_size": (8192, PAPER),
    "codebook_dim": (16, PAPER),
    "mixup_prob": (0.0, f"{PAPER} mentions none"),
    "cqt_loss_weight": (0.0, f"{PAPER} mentions none"),
}
ROW_SETTINGS = {
    "fm1": {
        "mask_type": ("embedding", "arXiv 2306.00107 (MERT)"),
        "mask_prob": (0.8, MERT_CODE),
        "mask_seconds": (5 / 75, f"{MERT_CODE}: spans of 5 frames"),
        "codebook_size": ([300, 200], "arXiv 2306.00107: k-means on log-mel and on chroma"),
        "mixup_prob": (0.5, MERT_CODE),
        "mixup_seconds": ([0.5, 1.5], f"{MERT_CODE}: 12000 to 36000 samples"),
        "mixup_max_excerpts": (3, f"{MERT_CODE}: 1 to 3"),
        "cqt_loss_weight": (1.0, f"{MERT_CODE}: the second of loss_weights; its spectrogram has other units"),
        "hidden_dropout": (0.0, MERT_CODE),
        "attention_dropout": (0.0, MERT_CODE),
        "activation_dropout": (0.0, MERT_CODE),
    },
    "fm7": {"codebook_size": (4096, "the published checkpoint")},
    "fm9": {"codebook_size": (4096, "the published checkpoint")},
}

# Fine-tuning: setting → value and source.
FINETUNING = {
    "beat": {"label_rate": (20, PAPER), "crop_seconds": (6, PAPER)},
    "chord": {"label_rate": (8, PAPER), "crop_seconds": (12, PAPER)},
    "structure": {"label_rate": (5, PAPER), "crop_seconds": (24, PAPER)},
    "key": {"label_rate": (0.5, PAPER), "crop_seconds": (12, PAPER)},
    "tagging": {"crop_seconds": (29.1, PAPER)},
    "full": {"learning_rate": (1e-4, MUSICFM_README), "encoder_learning_rate": (1e-5, MUSICFM_README)},
}
