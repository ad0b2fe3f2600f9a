"""The settings of a training run, checked when they are made, and the two published readings as presets."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from interproto_lib.errors import ConfigError
from interproto_lib.setting_checks import checked_type, refuse_unknown, require

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MarginLoss = Literal[
    "softmax",
    "normface",
    "cosface",
    "arcface",
    "sphereface",
    "curricularface",
    "mv_am",
    "mv_arc",
    "adaface",
    "broadface",
]
AgeMethodName = Literal["none", "oe_cnn", "ae_cnn", "dal", "mtlface"]
Decorrelation = Literal["absolute", "square"]
InterPrototypeScope = Literal["none", "child", "all"]
Reduction = Literal["sum", "mean"]
Schedule = Literal["milestones", "cosine"]
Precision = Literal["auto", "float32", "bfloat16"]
ThresholdChoice = Literal["validation", "ten_fold", "best_on_test"]
EpochChoice = Literal["validation", "last", "best_on_test"]
Flip = Literal["none", "sum", "concatenate"]
Settings = typing.TypeVar("Settings", bound="DataclassInstance")

UNDECISIVE_SETTINGS: frozenset[str] = frozenset(
    {"device", "threads", "softmax_chunk", "log_every_steps", "checkpoint_every_steps", "wandb"}
)
"""Training settings that do not decide what a training computes, only where it runs and what it records on the way.

A run may go on, or be given back, with other values of these; every other setting must be as it was. Device, threads
and the softmax's chunks change the order of additions, hence the last bits of a result, never its meaning; so does the
number of processes, which is no setting. `keep_every_epoch` is not among them: it decides which files a run has."""

INTER_PROTOTYPE_SETTINGS: frozenset[str] = frozenset(
    {"inter_prototype", "ip_reduction", "ip_weight", "min_child_images", "child_below_years", "unlabelled_as_years"}
)
"""Training settings of the Inter-Prototype loss: runs with and without it that are equal otherwise differ in these."""


def from_namespace(settings: type[Settings], namespace: Mapping[str, Any], **named: Any) -> Settings:
    """Make settings from the variables of a notebook, where every setting is a parameter.

    Args:
        settings: A dataclass of settings, such as `TrainConfig`.
        namespace: Usually `globals()`; other names in it are left alone.
        **named: Fields whose variable has another name.

    Returns:
        The settings.

    Raises:
        ConfigError: A setting has no variable, or a value is wrong.

    Example:
        >>> notebook = {"name": "C20", "seed": 1, "data": 2}
        >>> @dataclass
        ... class Sampling:
        ...     name: str
        ...     pair_seed: int
        >>> from_namespace(Sampling, notebook, pair_seed=notebook["seed"])
        Sampling(name='C20', pair_seed=1)
    """
    names = [field.name for field in dataclasses.fields(settings) if field.name not in named]
    missing = [name for name in names if name not in namespace]
    if missing:
        raise ConfigError(f"No variable for the setting {', '.join(missing)}. Add it to the notebook's parameters.")
    return settings(**{name: namespace[name] for name in names}, **named)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides what one training computes (Algorithm 1 of the paper and what it leaves open).

    The defaults are the built-in comparison on drawn faces, sized for a CPU; `TrainConfig.preset("paper")` and
    `TrainConfig.preset("official")` are the published settings.

    Attributes:
        backbone: Network, a name of `interproto_lib.models.BACKBONES`.
        embedding_dim: Length d of an embedding and of a prototype.
        dropout: Probability of zeroing a feature before the last linear layer, in backbones that have one.
        margin_loss: Loss on the logits, a name of `interproto_lib.losses.HEADS`.
        scale: Factor s on the cosines; 1 for `softmax` and `sphereface`, which have none.
        margin: Margin m: radians for `arcface`, `curricularface`, `broadface` and `mv_arc`, cosine for `cosface` and
            `mv_am`, both for `adaface`, a whole factor of the angle for `sphereface`; 0 for the others.
        mv_hard_weight: `mv_am`, `mv_arc`: weight t of hard negatives.
        mv_adaptive: `mv_am`, `mv_arc`: whether that weight grows with the cosine of the negative.
        mv_easy_margin: `mv_am`, `mv_arc`: spare images on the wrong side of their prototype the margin.
        curricular_momentum: `curricularface`: weight of the old value in the running mean t.
        adaface_concentration: `adaface`: h; lengths 1/h deviations from the mean have the highest or lowest quality.
        adaface_ema: `adaface`: weight of a batch in the running statistics of lengths.
        broadface_queue: `broadface`: how many past embeddings the classifier learns from.
        sphereface_lambda_start: `sphereface`: weight of the plain cosine at the first step.
        sphereface_lambda_decay: `sphereface`: how fast that weight falls.
        sphereface_lambda_min: `sphereface`: where it stays.
        inter_prototype: Prototypes that the Inter-Prototype loss pushes apart: `none`, those of `child` identities,
            or `all`.
        ip_reduction: `sum` over ordered pairs (Eq. 5) or `mean` over all n x n entries (the official code).
        ip_weight: Weight lambda of the Inter-Prototype loss (Eq. 7).
        age_method: Age-invariant method trained with, a name of `interproto_lib.methods.METHODS`, or `none`.
        age_weight: Weight of its age loss. Published: 0.001 for `oe_cnn` and `mtlface`, 0.1 for `dal`; not published
            for `ae_cnn`.
        dal_weight: `dal`: weight of the correlation between age and identity parts.
        dal_measure: `dal`: that correlation's `absolute` value (text) or its `square` (code).
        dal_opponent_steps: `dal`: steps in a round that look for the correlation.
        dal_steps: `dal`: steps in a round that train everything else.
        mtl_reversed_weight: `mtlface`: weight of the age loss on the identity part, behind a gradient reversal.
        min_child_images: An identity counts as a child identity from this many child images on.
        child_below_years: An image shows a child below this age in years.
        unlabelled_as_years: Age in years given to images without an age label; None leaves them unlabelled. The
            official code takes 30.
        epochs: Passes over the training images.
        batch_size: Images in a step, over all processes; the last, smaller batch of an epoch is dropped.
        batch_parts: Parts of a batch that go through the network at once, each with batch-normalisation statistics of
            its own; they are spread over the processes, and done one after another where there are more parts than
            processes (gradient accumulation).
        softmax_chunk: Prototypes that the softmax looks at at a time, which bounds its memory; 0 takes all at once.
        partial_fc_rate: Share of the negative prototypes that the softmax of a step looks at, drawn anew each step; 1
            takes all (partial FC, An et al., "Killing two birds with one stone", CVPR 2022).
        learning_rate: Learning rate after warm-up, before any decay.
        momentum: Momentum of SGD.
        weight_decay: L2 penalty on all parameters, prototypes and PReLU included, batch normalisation excepted.
        schedule: `milestones` divides the learning rate by 10 at each milestone; `cosine` lets it fall to 0.
        milestones: Epochs (counted from 0) at which the learning rate is divided by 10.
        warmup_epochs: Epochs, may be a fraction, over which the learning rate rises linearly to its value.
        flip: Mirror each training image with probability one half.
        precision: Autocast of the backbone: `float32`, `bfloat16`, or `auto`: bfloat16 where it is fast, on GPUs
            from Ampere on and on CPUs with AMX.
        channels_last: Keep images and convolutions in channels-last order.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:0` and so on.
        threads: CPU threads; 0 leaves PyTorch's choice.
        seed: Seed of initialisation, image order, flips and dropout.
        log_every_steps: Steps between two rows of metrics; losses stay on the device in between.
        checkpoint_every_steps: Steps between checkpoints within an epoch; 0 means at the end of each epoch only.
        keep_every_epoch: Keep the backbone of each epoch (to choose one afterwards; 175 MB each with IR-50).
        wandb: Log to Weights & Biases as well; honours WANDB_MODE=offline.

    `UNDECISIVE_SETTINGS` names those that a run may go on with at other values.
    """

    backbone: str = "small"
    embedding_dim: int = 128
    dropout: float = 0.0
    margin_loss: MarginLoss = "arcface"
    scale: float = 32.0
    margin: float = 0.3
    mv_hard_weight: float = 0.2
    mv_adaptive: bool = True
    mv_easy_margin: bool = False
    curricular_momentum: float = 0.99
    adaface_concentration: float = 0.333
    adaface_ema: float = 0.01
    broadface_queue: int = 32000
    sphereface_lambda_start: float = 1000.0
    sphereface_lambda_decay: float = 0.12
    sphereface_lambda_min: float = 5.0
    inter_prototype: InterPrototypeScope = "none"
    ip_reduction: Reduction = "mean"
    ip_weight: float = 1.0
    age_method: AgeMethodName = "none"
    age_weight: float = 0.001
    dal_weight: float = 0.1
    dal_measure: Decorrelation = "absolute"
    dal_opponent_steps: int = 20
    dal_steps: int = 50
    mtl_reversed_weight: float = 0.002
    min_child_images: int = 5
    child_below_years: float = 13.0
    unlabelled_as_years: float | None = None
    epochs: int = 14
    batch_size: int = 64
    batch_parts: int = 1
    softmax_chunk: int = 0
    partial_fc_rate: float = 1.0
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    warmup_epochs: float = 0.5
    flip: bool = True
    precision: Precision = "auto"
    channels_last: bool = True
    device: str = "auto"
    threads: int = 0
    seed: int = 0
    log_every_steps: int = 20
    checkpoint_every_steps: int = 0
    keep_every_epoch: bool = True
    wandb: bool = False

    def __post_init__(self) -> None:
        """Check types and ranges."""
        for field in dataclasses.fields(self):
            object.__setattr__(
                self, field.name, checked_type(field.name, getattr(self, field.name), _HINTS[field.name])
            )
        require(self.embedding_dim >= 2, "embedding_dim", self.embedding_dim, "at least 2")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        require(self.scale > 0, "scale", self.scale, "above 0")
        self._check_margin_loss()
        require(self.ip_weight >= 0, "ip_weight", self.ip_weight, "0 or more")
        for name in ("age_weight", "dal_weight", "mtl_reversed_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.dal_opponent_steps >= 0, "dal_opponent_steps", self.dal_opponent_steps, "0 or more")
        require(self.dal_steps >= 1, "dal_steps", self.dal_steps, "at least 1")
        require(self.min_child_images >= 1, "min_child_images", self.min_child_images, "at least 1")
        require(self.child_below_years > 0, "child_below_years", self.child_below_years, "above 0")
        if self.unlabelled_as_years is not None:
            require(
                self.unlabelled_as_years >= 0, "unlabelled_as_years", self.unlabelled_as_years, "0 or more, or None"
            )
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(self.batch_size >= 2, "batch_size", self.batch_size, "at least 2 (for batch normalisation)")
        require(self.batch_parts >= 1, "batch_parts", self.batch_parts, "at least 1")
        require(
            self.batch_size % self.batch_parts == 0 and self.batch_size >= 2 * self.batch_parts,
            "batch_parts",
            self.batch_parts,
            f"a number that divides batch_size={self.batch_size} into parts of two images or more",
        )
        require(self.softmax_chunk >= 0, "softmax_chunk", self.softmax_chunk, "0 or more")
        require(0 < self.partial_fc_rate <= 1, "partial_fc_rate", self.partial_fc_rate, "above 0, up to 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        rising = list(self.milestones) == sorted(set(self.milestones))
        require(
            rising and all(m >= 1 for m in self.milestones), "milestones", self.milestones, "rising epochs from 1 on"
        )
        if self.schedule == "cosine" and self.milestones:
            raise ConfigError(f"milestones={self.milestones} mean nothing with schedule='cosine'; drop one of the two")
        require(0 <= self.warmup_epochs <= self.epochs, "warmup_epochs", self.warmup_epochs, "between 0 and epochs")
        require(self.threads >= 0, "threads", self.threads, "0 or more")
        require(self.log_every_steps >= 1, "log_every_steps", self.log_every_steps, "at least 1")
        require(self.checkpoint_every_steps >= 0, "checkpoint_every_steps", self.checkpoint_every_steps, "0 or more")

    def _check_margin_loss(self) -> None:
        if self.margin_loss in ("softmax", "sphereface"):
            require(self.scale == 1, "scale", self.scale, f"1 for margin_loss={self.margin_loss!r}, which has none")
        if self.margin_loss in ("softmax", "normface"):
            require(self.margin == 0, "margin", self.margin, f"0 for margin_loss={self.margin_loss!r}")
        elif self.margin_loss == "sphereface":
            whole = self.margin >= 1 and self.margin == int(self.margin)
            require(whole, "margin", self.margin, "a whole number from 1 on for margin_loss='sphereface'")
        else:
            require(0 <= self.margin < math.pi / 2, "margin", self.margin, "in [0, pi/2)")
        require(self.mv_hard_weight >= 0, "mv_hard_weight", self.mv_hard_weight, "0 or more")
        require(0 <= self.curricular_momentum <= 1, "curricular_momentum", self.curricular_momentum, "in [0, 1]")
        require(self.adaface_concentration > 0, "adaface_concentration", self.adaface_concentration, "above 0")
        require(0 <= self.adaface_ema <= 1, "adaface_ema", self.adaface_ema, "in [0, 1]")
        require(self.broadface_queue >= 1, "broadface_queue", self.broadface_queue, "at least 1")
        for name in ("sphereface_lambda_start", "sphereface_lambda_decay", "sphereface_lambda_min"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> TrainConfig:
        """Make settings from a mapping, refusing names that do not exist.

        Args:
            settings: Field names and values; a list is taken for a tuple.

        Returns:
            The settings.

        Raises:
            ConfigError: A name is unknown or a value is wrong.
        """
        refuse_unknown(settings, _HINTS, what="training setting")
        return cls(**settings)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> TrainConfig:
        """Make the published settings: `paper`, `official`, or `official_ms1mv2`.

        Args:
            name: A name of `TRAINING_PRESETS`.
            **changes: Fields to set differently.

        Returns:
            The settings, with the Inter-Prototype loss on.

        Raises:
            ConfigError: The name is unknown or a change is wrong.

        Example:
            >>> TrainConfig.preset("official").milestones
            (28, 38, 46)
        """
        if name not in TRAINING_PRESETS:
            raise ConfigError(f"Unknown training preset {name!r}. Known presets: {', '.join(TRAINING_PRESETS)}.")
        return cls.from_dict({**TRAINING_PRESETS[name], **changes})

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as a dict that JSON and `from_dict` understand."""
        settings = dataclasses.asdict(self)
        settings["milestones"] = list(self.milestones)
        return settings


_HINTS: dict[str, Any] = typing.get_type_hints(TrainConfig)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a trained run is judged where the paper and the official code differ, and where both look at the test set.

    The defaults look at no pair that is judged: threshold and epoch are chosen on validation identities, people that
    are neither trained on nor judged. `EVALUATION_PRESETS` holds the published ways.

    Attributes:
        verification_threshold: `validation` takes the threshold that is best on pairs of validation identities, of the
            same kind as the pairs judged; `ten_fold` the one that is best on the other nine folds of the pairs judged;
            `best_on_test` the best one among the scores judged themselves, as the official code does (optimistic).
        epoch_choice: `validation` judges the epoch that is best on pairs of validation identities (needs
            `keep_every_epoch`, as does `best_on_test`); `last` the last epoch; `best_on_test` the best epoch of each
            test set on that test set, as the official code does (optimistic).
        gap_inclusive: True takes pairs with a gap of at least 20 (30) years, False of more than 20 (30).
        embedding_flip: What is embedded: `none` the image alone, as in the official code; `sum` image and mirror image,
            their embeddings added, as in insightface; `concatenate` both, one after the other.
        embedding_precision: Numbers that the network computes with: `float32`, or `bfloat16` by autocast.
    """

    verification_threshold: ThresholdChoice = "validation"
    epoch_choice: EpochChoice = "validation"
    gap_inclusive: bool = True
    embedding_flip: Flip = "none"
    embedding_precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Check types."""
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            checked_type(field.name, getattr(self, field.name), hints[field.name])


_PAPER: dict[str, Any] = {
    "backbone": "ir50",
    "embedding_dim": 512,
    "dropout": 0.6,
    "margin_loss": "arcface",
    "scale": 64.0,
    "margin": 0.5,
    "inter_prototype": "child",
    "ip_reduction": "sum",
    "ip_weight": 1.0,
    "min_child_images": 1,
    "epochs": 50,
    "batch_size": 64,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "milestones",
    "milestones": (28, 36, 46),
    "warmup_epochs": 0.0,
    "flip": True,
    "precision": "float32",
    "keep_every_epoch": False,
}
_OFFICIAL: dict[str, Any] = {
    **_PAPER,
    "backbone": "ir_se50",
    "ip_reduction": "mean",
    "min_child_images": 10,
    "milestones": (28, 38, 46),
    "unlabelled_as_years": 30.0,
    "keep_every_epoch": True,
}

TRAINING_PRESETS: dict[str, dict[str, Any]] = {
    "paper": _PAPER,
    "official": _OFFICIAL,
    "official_ms1mv2": {**_OFFICIAL, "epochs": 25, "milestones": (14, 19, 23)},
}
"""The paper's text and the official code as settings. Where they differ (Eq. 5's sum or a mean; which identities count
as child identities; ResNet-50 or IR-SE-50; milestones; MS1MV2's epochs; unlabelled images) each preset has its own
reading. The text says "classes containing child images", hence `min_child_images=1`, but its n_child = 229 is what 10
gives on CASIA-WebFace. Momentum, weight decay on prototypes, dropout and flips are stated by the code alone.
Precision is float32, because the official code trains without autocast and `auto` would take bfloat16 on a GPU."""

EVALUATION_PRESETS: dict[str, EvaluationConfig] = {
    "paper": EvaluationConfig(verification_threshold="ten_fold", epoch_choice="last", gap_inclusive=False),
    "official": EvaluationConfig(verification_threshold="best_on_test", epoch_choice="best_on_test"),
    "official_ms1mv2": EvaluationConfig(verification_threshold="best_on_test", epoch_choice="best_on_test"),
}
"""How the paper's text and the official code judge a run: "more than 20 years" against ">= 20", and the official
choice of threshold and epoch on the test set itself, about which the text is silent. All identities of the published
training sets are trained on, so none are left for validation: the text's part judges the last epoch, by folds."""

PAPER_SEEDS: tuple[int, ...] = (4885, 1234, 5678)
"""Seeds of the official code's three trials."""
