"""The supported layers as autograd functions: the gradient of their input goes on, that of their weight goes onto the tape.

The batch's weight gradient, which plain training computes here, is never formed. Where the tape rounds (mixed precision), the
products forward and back to the input are of rounded numbers; patients' weight gradients are full ones, of the rounded inputs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from client.engine import kernels
from client.engine.choice import fastest
from client.engine.geometry import Geometry
from client.engine.tape import Tape
from common.networks.standardised import StandardisedConv2d, StandardisedConv3d

__all__ = ["CONVOLUTIONS", "LAYERS", "Forward"]

Forward = Callable[[Tensor], Tensor]
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, StandardisedConv2d, StandardisedConv3d)
Nothing = tuple[None, ...]


class _Convolve(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, module: Convolution, tape: Tape) -> Tensor:
        used, standardised = weight, None
        if isinstance(module, StandardisedConv2d | StandardisedConv3d):
            standardised = module.standardised()
            used, _ = standardised
        inputs, used = tape.rounded(inputs), tape.rounded(used)
        ctx.save_for_backward(inputs, used)
        ctx.standardised, ctx.module, ctx.tape = standardised, module, tape
        shift = None if bias is None else tape.rounded(bias)
        return Geometry.of(module).forward(inputs, used, shift).to(weight.dtype)

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, *Nothing]:
        inputs, used = ctx.saved_tensors
        module, tape, outputs = ctx.module, ctx.tape, grad_outputs[0].contiguous()
        geometry = Geometry.of(module)
        onward = None
        if ctx.needs_input_grad[0]:  # the first layer's never is
            onward = geometry.backward(inputs, tape.rounded(outputs), used, mask=[True, False, False]).to(outputs.dtype)
        if module.bias is not None and module.bias.requires_grad:
            tape.put(module.bias, _per_patient(outputs.flatten(2).sum(2), tape))
        if module.weight.requires_grad:
            inputs = inputs.to(outputs.dtype)
            name = fastest(
                geometry,
                rows=len(inputs),
                views=tape.views,
                inputs=tuple(inputs.shape[1:]),
                outputs=tuple(outputs.shape[1:]),
                device=str(inputs.device),
                threads=torch.get_num_threads(),
            )
            found = kernels.gradients(name, inputs, outputs, geometry=geometry, views=tape.views, standardised=ctx.standardised)
            tape.put(module.weight, found)
        return onward, None, None, None, None


class _Linear(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, module: nn.Linear, tape: Tape) -> Tensor:
        inputs, used = tape.rounded(inputs), tape.rounded(weight)
        ctx.save_for_backward(inputs, used)
        ctx.module, ctx.tape = module, tape
        return nn.functional.linear(inputs, used, None if bias is None else tape.rounded(bias)).to(weight.dtype)

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, *Nothing]:
        inputs, used = ctx.saved_tensors
        module, tape, outputs = ctx.module, ctx.tape, grad_outputs[0].contiguous()
        left = outputs.view(tape.patients, -1, outputs.shape[-1])  # positions of a sequence and views alike
        if module.bias is not None and module.bias.requires_grad:
            tape.put(module.bias, left.sum(1))
        if module.weight.requires_grad:
            right = inputs.to(outputs.dtype).reshape(tape.patients, -1, inputs.shape[-1])
            tape.put(module.weight, kernels.linear(left, right))
        onward = (tape.rounded(outputs) @ used).to(outputs.dtype) if ctx.needs_input_grad[0] else None
        return onward, None, None, None, None


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, module: nn.GroupNorm, tape: Tape) -> Tensor:
        inputs = inputs.contiguous()
        rows, channels = inputs.shape[:2]
        found, mean, deviation = torch.native_group_norm(
            inputs, weight, bias, rows, channels, inputs[0, 0].numel(), module.num_groups, module.eps
        )
        ctx.save_for_backward(inputs, weight, mean, deviation)
        ctx.module, ctx.tape = module, tape
        return found

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, *Nothing]:
        """Fold the rows into the channels: the library then returns the gradients of gain and shift per row, at no cost."""
        inputs, weight, mean, deviation = ctx.saved_tensors
        module, tape = ctx.module, ctx.tape
        (rows, channels), positions = inputs.shape[:2], inputs[0, 0].numel()
        shape, groups = (1, rows * channels, positions), rows * module.num_groups
        onward, gain, shift = torch.ops.aten.native_group_norm_backward(
            grad_outputs[0].contiguous().view(shape),
            inputs.view(shape),
            mean.view(1, groups),
            deviation.view(1, groups),
            weight.repeat(rows),
            1,
            rows * channels,
            positions,
            groups,
            [True, True, True],
        )
        _put_affine(module, tape, gain=gain.view(rows, channels), shift=shift.view(rows, channels))
        return onward.view_as(inputs), None, None, None, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, module: nn.LayerNorm, tape: Tape) -> Tensor:
        found, mean, deviation = torch.native_layer_norm(inputs, list(module.normalized_shape), weight, bias, module.eps)
        ctx.save_for_backward(inputs, weight, mean, deviation)
        ctx.module, ctx.tape = module, tape
        return found

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, *Nothing]:
        inputs, weight, mean, deviation = ctx.saved_tensors
        module, tape, outputs = ctx.module, ctx.tape, grad_outputs[0].contiguous()
        rows, size = len(inputs), weight.numel()
        shaped = outputs.view(rows, -1, size)
        normal = ((inputs - mean) * deviation).reshape(rows, -1, size)
        _put_affine(module, tape, gain=(shaped * normal).sum(1), shift=shaped.sum(1))
        onward, _, _ = torch.ops.aten.native_layer_norm_backward(
            outputs, inputs, list(module.normalized_shape), mean, deviation, weight, None, [True, False, False]
        )
        return onward, None, None, None, None


LAYERS: dict[type[nn.Module], type[torch.autograd.Function]] = {
    **dict.fromkeys(CONVOLUTIONS, _Convolve),
    nn.Linear: _Linear,
    nn.GroupNorm: _GroupNorm,
    nn.LayerNorm: _LayerNorm,
}


def _per_patient(rows: Tensor, tape: Tape) -> Tensor:
    return rows if tape.views == 1 else rows.view(tape.patients, tape.views, -1).sum(1)


def _put_affine(module: nn.GroupNorm | nn.LayerNorm, tape: Tape, *, gain: Tensor, shift: Tensor) -> None:
    parts: tuple[tuple[nn.Parameter | None, Tensor], ...] = ((module.weight, gain), (module.bias, shift))
    for parameter, rows in parts:
        if parameter is not None and parameter.requires_grad:
            tape.put(parameter, _per_patient(rows, tape))
