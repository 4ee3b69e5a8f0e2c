"""The first screen of a run: devices, parameters, cost, data."""

import re
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddx.data import Dataset
from ddx.runtime import devices, hosts
from ddx.system import joined
from ddx.training.state import TrainState


def describe_run(config: ConfigDict, data: Dataset, shapes: TrainState, flops: float | None) -> str:
    """Network, process, loss, batch and length of a run with a state of these shapes; `flops` are a device's a step."""
    batch, parts, steps = config.train.batch_size, devices.count(), config.train.num_steps
    split = f"{batch} images = {parts} x {batch // parts}"
    if config.train.accumulation > 1:
        split += f", in {config.train.accumulation} parts"
    params = joined(shapes.frozen, shapes.params)
    trained, total = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (shapes.params, params))
    some = f", {trained:,} of them trained, the others from {config.train.backbone}" if shapes.frozen else ""
    return "\n".join(
        [
            f"network  {total:,} parameters{some}, {config.model.dtype}",
            parameter_table(params),
            f"process  {describe_process(config)}",
            f"loss     {describe_loss(config)}",
            f"batch    {split}" + (f"; {flops * parts / 1e9:,.1f} GFLOP a step" if flops else ""),
            f"length   {steps:,} steps, {steps * batch / data.num_examples:,.1f} epochs",
        ]
    )


def parameter_table(params: Any) -> str:
    """Parameters by part of the network: its modules and their count, one line a part."""
    parts: dict[str, list[Any]] = {}
    for name, leaves in params.items():
        parts.setdefault(_part(name), []).extend(jax.tree.leaves(leaves))
    rows = [
        (part, len(parts[part]), sum(int(np.prod(x.shape)) for x in parts[part])) for part in sorted(parts, key=_place)
    ]
    rows.append(("total", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"  {part:<{width}}  {arrays:>4} arrays  {count:>13,}" for part, arrays, count in rows)


def _part(module: str) -> str:
    """'down_1_block_0' and 'down_1_attn_0' belong to 'down_1', 'temb_dense0' to 'temb', 'block_3' to 'block'."""
    match = re.match(r"(down_\d+|up_\d+|mid|temb|head|block|out)", module)
    return match[1] if match else module


def _place(part: str) -> tuple[int, int]:
    """Where a part stands on an image's way through the network."""
    name, _, level = part.partition("_")
    if name == "up":
        return 4, -int(level)
    if name == "down":
        return 2, int(level)
    return {"temb": 0, "conv_in": 1, "patch_in": 1, "mid": 3, "block": 3, "norm_out": 5, "out": 5}.get(part, 6), 0


def describe_devices() -> str:
    """Such as '8 x TPU v3 (tpu)' or '32 x TPU v3 (tpu) on 4 hosts'."""
    every = devices.every()
    on_hosts = f" on {hosts.count()} hosts" if hosts.count() > 1 else ""
    return f"{len(every)} x {every[0].device_kind} ({every[0].platform}){on_hosts}"


def describe_process(config: Any) -> str:
    """Such as 'cosine, T = 1000' or 'blurring, T = 1000, blur up to 20 pixels'."""
    process = config.process
    if process.kind == "ddpm":
        return f"{process.schedule}{' to zero terminal SNR' * process.zero_terminal_snr}, T = {process.num_steps}"
    if process.kind == "rectified_flow":
        return f"{process.kind}, T = {process.num_steps}"
    return f"{process.kind}, T = {process.num_steps}, blur up to {process.sigma_blur_max:g} pixels"


def describe_loss(config: Any) -> str:
    """Such as 'hybrid of eps, variance range, weight min_snr, times loss_second_moment'."""
    loss = config.loss
    parts = [f"{loss.objective} of {loss.prediction}"]
    parts += [f"variance {loss.variance}"] * (loss.objective != "simple")
    parts += [f"weight {loss.weight}"] * (loss.weight != "none")
    parts += [f"times {loss.times}"] * (loss.times != "uniform")
    return ", ".join(parts)


def flops_per_step(lowered: Any, parts: int = 1) -> float | None:
    """Floating-point operations of one step on one device before optimisation, by XLA's count; None if it has none.

    `lowered` is `Program.lower`'s. Of what is in a loop XLA counts one: of the steps, whose number is data, and of the
    `parts` of a batch whose gradients are averaged (`ddx.training.step.parts_in_loop`). The little that a step does but
    once, such as its update, is counted for each part too.
    """
    cost = lowered.cost_analysis()
    return cost["flops"] * parts if cost and "flops" in cost else None
