"""How a convolution walks over its input: kernel, stride, padding, dilation, groups; and the patches that it sees."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Geometry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The constants of a Conv1d, Conv2d or Conv3d with zero padding; `weight` is (out, in / groups, *kernel)."""

    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> "Geometry":
        """Return the constants of `module`, whose padding is numbers and zeros."""
        return cls(
            weight=tuple(module.weight.shape),
            stride=tuple(module.stride),
            padding=tuple(int(width) for width in module.padding),
            dilation=tuple(module.dilation),
            groups=module.groups,
        )

    @property
    def kernel(self) -> tuple[int, ...]:
        """Return the kernel's size along each axis."""
        return self.weight[2:]

    @property
    def size(self) -> int:
        """Return the number of weights."""
        return math.prod(self.weight)

    def backward(
        self, inputs: Tensor, outputs: Tensor, weight: Tensor, *, mask: list[bool], groups: int | None = None
    ) -> Tensor:
        """Return the one gradient that `mask` names (input, weight) from the library's own backward."""
        parts = torch.ops.aten.convolution_backward(
            outputs,
            inputs,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            transposed=False,
            output_padding=[0] * len(self.kernel),
            groups=groups or self.groups,
            output_mask=mask,
        )
        found: Tensor = parts[mask.index(True)]
        return found

    def forward(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution."""
        found: Tensor = torch.ops.aten.convolution(
            inputs,
            weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            transposed=False,
            output_padding=[0] * len(self.kernel),
            groups=self.groups,
        )
        return found

    def padded(self, inputs: Tensor) -> Tensor:
        """Return the input with its border of zeros, contiguous."""
        if not any(self.padding):
            return inputs.contiguous()
        return nn.functional.pad(inputs, [width for width in reversed(self.padding) for _ in range(2)])

    def patches(self, inputs: Tensor) -> Tensor:
        """Return what each output position sees, (row, in * kernel elements, position)."""
        seen = self._windows(inputs)
        return seen.reshape(len(seen), math.prod(seen.shape[1 : 2 + len(self.kernel)]), -1)

    def _windows(self, inputs: Tensor) -> Tensor:
        """Return a view without copies, (row, in, *kernel, *out)."""
        padded = self.padded(inputs)
        rows, channels, *sizes = padded.shape
        strides, axes = padded.stride(), range(len(self.kernel))
        out = [(sizes[at] - self.dilation[at] * (self.kernel[at] - 1) - 1) // self.stride[at] + 1 for at in axes]
        return padded.as_strided(
            (rows, channels, *self.kernel, *out),
            (
                *strides[:2],
                *(strides[2 + at] * self.dilation[at] for at in axes),
                *(strides[2 + at] * self.stride[at] for at in axes),
            ),
        )

    def meetings(self, *, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> list[list[tuple[slice, slice]]]:
        """Return, for each axis and kernel element along it, which outputs meet an input in the image, and those inputs."""
        along: list[list[tuple[slice, slice]]] = []
        for at, width in enumerate(self.kernel):
            step, found = self.stride[at], []
            for element in range(width):
                start = element * self.dilation[at] - self.padding[at]  # the input that output 0 meets
                first = max(0, -(start // step))
                last = min(outputs[at] - 1, (inputs[at] - 1 - start) // step)
                if last < first:
                    found.append((slice(0, 0), slice(0, 0)))
                else:
                    found.append((slice(first, last + 1), slice(first * step + start, last * step + start + 1, step)))
            along.append(found)
        return along

    def offsets(self, inputs: Tensor, *, out: tuple[int, ...]) -> list[Tensor]:
        """Return, for each kernel element in order, the part of the padded input that meets the outputs, (row, in, *out)."""
        padded = self.padded(inputs)
        cuts = []
        for number in range(math.prod(self.kernel)):
            place, left = [], number
            for width in reversed(self.kernel):
                place.append(left % width)
                left //= width
            starts = [step * self.dilation[at] for at, step in enumerate(reversed(place))]
            cut = [slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(starts, out, self.stride, strict=True)]
            cuts.append(padded[(slice(None), slice(None), *cut)])
        return cuts
