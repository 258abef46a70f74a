"""How the opened sums of a training become a model: optimiser, schedule, average. Post-processing: it costs no privacy."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from common.part import Part, Positive

Decay = Annotated[Decimal, Field(ge=0, lt=1, max_digits=24)]


class Momentum(Part):
    """Gradient descent with momentum: velocity = momentum * velocity + gradient."""

    kind: Literal["momentum"]
    momentum: Decay


class Adam(Part):
    """Adam with bias correction; `damping` is what its source calls epsilon, added to the root of the second moment.

    Source: Kingma and Ba 2015, Algorithm 1.
    """

    kind: Literal["adam"]
    beta_1: Decay
    beta_2: Decay
    damping: Positive


class Constant(Part):
    """The learning rate of every step is the study's."""

    kind: Literal["constant"]


class WarmUpCosine(Part):
    """The learning rate rises linearly to the study's over `warm_up_steps`, then falls along half a cosine.

    It would reach zero one step after the last. Source: Loshchilov and Hutter 2017, without restarts.
    """

    kind: Literal["warm-up-cosine"]
    warm_up_steps: Annotated[int, Field(ge=0, le=100_000)]


class SecondHalf(Part):
    """The final model is the mean of the models after the steps of the second half. Source: Polyak and Juditsky 1992."""

    kind: Literal["second-half"]


class MovingAverage(Part):
    """The final model is an exponential moving average: a model k steps before the last weighs decay**k; weights sum to one."""

    kind: Literal["moving-average"]
    decay: Annotated[Decimal, Field(gt=0, lt=1, max_digits=24)]


class Finetune(Part):
    """The first part of the recipe `finetune`: how many of the study's steps train the head alone, and how fast."""

    head_steps: Annotated[int, Field(ge=1, le=100_000)]
    head_learning_rate: Positive


Optimiser = Annotated[Momentum | Adam, Field(discriminator="kind")]
Schedule = Annotated[Constant | WarmUpCosine, Field(discriminator="kind")]
Average = Annotated[SecondHalf | MovingAverage, Field(discriminator="kind")]
