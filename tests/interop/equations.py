"""Equations of other codes' networks, from their tensors by name: ADM's, Improved DDPM's and DDIM's, with heads.

They are written down once, over the few operations of `Numpy` or `Torch`, and know nothing of ddx. Images are NCHW, as
there. `adm_layout` and `ddim_layout` are the tensors that such a network has, by name, with their shapes.
"""

import math

import numpy as np


class Numpy:
    """The operations, in float64."""

    def array(self, x):
        return np.asarray(x, np.float64 if np.asarray(x).dtype.kind == "f" else np.int64)

    def conv(self, x, weight, bias, stride=1, pad=(0, 0, 0, 0)):
        top, bottom, left, right = pad
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
        return np.moveaxis(np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))), -1, 1) + bias[:, None, None]

    def group_norm(self, x, weight, bias, epsilon):
        groups = x.reshape(len(x), 32, -1)
        normal = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + epsilon)
        shape = (-1,) + (1,) * (x.ndim - 2)
        return normal.reshape(x.shape) * weight.reshape(shape) + bias.reshape(shape)

    def silu(self, x):
        return x / (1 + np.exp(-x))

    def softmax(self, x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def halve(self, x):
        return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4

    def double(self, x):
        return x.repeat(2, 2).repeat(2, 3)

    def concatenate(self, xs):
        return np.concatenate(xs, 1)

    def einsum(self, rule, *xs):
        return np.einsum(rule, *xs, optimize=True)

    def numpy(self, x):
        return x


class Torch:
    """The operations, PyTorch's own, in float32."""

    def __init__(self):
        import torch

        self.torch, self.F = torch, torch.nn.functional

    def array(self, x):
        return self.torch.tensor(np.asarray(x, np.float32 if np.asarray(x).dtype.kind == "f" else np.int64))

    def conv(self, x, weight, bias, stride=1, pad=(0, 0, 0, 0)):
        top, bottom, left, right = pad
        return self.F.conv2d(self.F.pad(x, (left, right, top, bottom)), weight, bias, stride)

    def group_norm(self, x, weight, bias, epsilon):
        return self.F.group_norm(x, 32, weight, bias, epsilon)

    def silu(self, x):
        return self.F.silu(x)

    def softmax(self, x):
        return self.F.softmax(x, -1)

    def halve(self, x):
        return self.F.avg_pool2d(x, 2)

    def double(self, x):
        return self.F.interpolate(x, scale_factor=2, mode="nearest")

    def concatenate(self, xs):
        return self.torch.cat(list(xs), 1)

    def einsum(self, rule, *xs):
        return self.torch.einsum(rule, *xs)

    def numpy(self, x):
        return x.numpy()


class Network:
    """What the two families share: `tensors` by name, and the operations on them."""

    epsilon: float

    def __init__(self, ops, tensors):
        self.ops, self.tensors = ops, {name: ops.array(value) for name, value in tensors.items()}

    def has(self, name):
        return f"{name}.weight" in self.tensors

    def of(self, name):
        return self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]

    def conv(self, name, x, stride=1, pad=(1, 1, 1, 1)):
        return self.ops.conv(x, *self.of(name), stride, pad)

    def pointwise(self, name, x):
        weight, bias = self.of(name)
        return self.ops.einsum("oc,bchw->bohw", weight.reshape(weight.shape[:2]), x) + bias[:, None, None]

    def dense(self, name, x):
        weight, bias = self.of(name)
        return self.ops.einsum("oc,bc->bo", weight, x) + bias

    def norm(self, name, x):
        return self.ops.group_norm(x, *self.of(name), self.epsilon)

    def active(self, name, x):
        return self.ops.silu(self.norm(name, x))

    def attended(self, q, k, v):
        """(B, heads, channels, N) each."""
        weights = self.ops.softmax(self.ops.einsum("bhcq,bhck->bhqk", q, k) / math.sqrt(q.shape[2]))
        return self.ops.einsum("bhqk,bhck->bhcq", weights, v)

    def angles(self, t, dim, intervals):
        return np.asarray(t, np.float64)[:, None] * np.exp(-math.log(10_000) * np.arange(dim // 2) / intervals)


class Adm(Network):
    """The networks of improved-diffusion and guided-diffusion, and the head of Extended Analytic-DPM on them."""

    epsilon = 1e-5

    def __init__(self, ops, tensors, num_blocks, num_heads=1, head_channels=0, new_order=False):
        super().__init__(ops, tensors)
        self.num_blocks, self.num_heads, self.head_channels = num_blocks, num_heads, head_channels
        self.new_order = new_order

    def block(self, name, x, emb, resample=None):
        h = self.active(f"{name}.in_layers.0", x)
        if resample is not None:
            h, x = resample(h), resample(x)
        h = self.conv(f"{name}.in_layers.2", h)
        told = self.dense(f"{name}.emb_layers.1", self.ops.silu(emb))[:, :, None, None]
        if told.shape[1] == 2 * h.shape[1]:
            h = self.norm(f"{name}.out_layers.0", h) * (1 + told[:, : h.shape[1]]) + told[:, h.shape[1] :]
        else:
            h = self.norm(f"{name}.out_layers.0", h + told)
        h = self.conv(f"{name}.out_layers.3", self.ops.silu(h))
        return h + (self.pointwise(f"{name}.skip_connection", x) if self.has(f"{name}.skip_connection") else x)

    def attention(self, name, x):
        batch, channels, height, width = x.shape
        heads = channels // self.head_channels if self.head_channels else self.num_heads
        weight, bias = self.of(f"{name}.qkv")
        flat = self.norm(f"{name}.norm", x.reshape(batch, channels, -1))
        qkv = self.ops.einsum("oc,bcn->bon", weight.reshape(weight.shape[:2]), flat) + bias[:, None]
        size = channels // heads
        if self.new_order:
            thirds = qkv.reshape(batch, 3, heads, size, -1)
            q, k, v = (thirds[:, i] for i in range(3))
        else:
            by_head = qkv.reshape(batch, heads, 3, size, -1)
            q, k, v = (by_head[:, :, i] for i in range(3))
        h = self.attended(q, k, v).reshape(batch, channels, height, width)
        return x + self.pointwise(f"{name}.proj_out", h)

    def parts(self, name, h, emb, resample=None):
        """The modules of a numbered block, one after the other."""
        part = 0
        while any(key.startswith(f"{name}.{part}.") for key in self.tensors):
            one = f"{name}.{part}"
            if self.has(f"{one}.op"):
                h = self.conv(f"{one}.op", h, stride=2)
            elif self.has(f"{one}.qkv"):
                h = self.attention(one, h)
            elif self.has(f"{one}.conv"):
                h = self.conv(f"{one}.conv", self.ops.double(h))
            else:  # the second block of an output's doubles
                h = self.block(one, h, emb, self.ops.double if name.startswith("output") and part else resample)
            part += 1
        return h

    def __call__(self, x, t, y=None, low_res=None):
        """The network's outputs for images (B, C, H, W), times (B,) and classes (B,): NumPy's NCHW."""
        x, dim = self.ops.array(x), self.of("time_embed.0")[0].shape[1]
        if low_res is not None:
            x = self.ops.concatenate([x, self.ops.array(low_res)])
        angles = self.angles(t, dim, dim // 2)
        emb = self.ops.array(np.concatenate([np.cos(angles), np.sin(angles)], 1))
        emb = self.dense("time_embed.2", self.ops.silu(self.dense("time_embed.0", emb)))
        if y is not None:
            emb = emb + self.tensors["label_emb.weight"][self.ops.array(y)]
        h = self.conv("input_blocks.0.0", x)
        skips, number = [h], 1
        while any(key.startswith(f"input_blocks.{number}.") for key in self.tensors):
            halves = number % (self.num_blocks + 1) == 0
            h = self.parts(f"input_blocks.{number}", h, emb, self.ops.halve if halves else None)
            skips.append(h)
            number += 1
        h = self.parts("middle_block", h, emb)
        for number in range(len(skips)):
            h = self.parts(f"output_blocks.{number}", self.ops.concatenate([h, skips.pop()]), emb)
        out = self.conv("out.2", self.active("out.0", h))
        if self.has("out2.2"):
            out = self.ops.concatenate([out[:, :3], self.conv("out2.2", self.active("out2.0", h))])
        elif self.has("out2.3"):
            head = self.active("out2.1", self.block("out2.0", h, emb))
            out = self.ops.concatenate([out[:, :3], self.conv("out2.3", head)])
        return self.ops.numpy(out)


class Ddim(Network):
    """The networks of DDIM's code and of the copies of DDPM's, and the head of Extended Analytic-DPM on them."""

    epsilon = 1e-6

    def block(self, name, x, temb):
        h = self.conv(f"{name}.conv1", self.active(f"{name}.norm1", x))
        h = h + self.dense(f"{name}.temb_proj", self.ops.silu(temb))[:, :, None, None]
        h = self.conv(f"{name}.conv2", self.active(f"{name}.norm2", h))
        return h + (self.pointwise(f"{name}.nin_shortcut", x) if self.has(f"{name}.nin_shortcut") else x)

    def attention(self, name, x):
        batch, channels = x.shape[:2]
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.pointwise(f"{name}.{part}", h).reshape(batch, 1, channels, -1) for part in "qkv")
        return x + self.pointwise(f"{name}.proj_out", self.attended(q, k, v).reshape(x.shape))

    def level(self, way, level, i, h, temb):
        h = self.block(f"{way}.{level}.block.{i}", h, temb)
        attends = self.has(f"{way}.{level}.attn.{i}.q")
        return self.attention(f"{way}.{level}.attn.{i}", h) if attends else h

    def __call__(self, x, t):
        """The network's outputs for images (B, C, H, W) and times (B,): NumPy's NCHW."""
        x, dim = self.ops.array(x), self.of("temb.dense.0")[0].shape[1]
        angles = self.angles(t, dim, dim // 2 - 1)
        temb = self.ops.array(np.concatenate([np.sin(angles), np.cos(angles)], 1))
        temb = self.dense("temb.dense.1", self.ops.silu(self.dense("temb.dense.0", temb)))
        h = self.conv("conv_in", x)
        skips, level = [h], 0
        while self.has(f"down.{level}.block.0.conv1"):
            i = 0
            while self.has(f"down.{level}.block.{i}.conv1"):
                h = self.level("down", level, i, h, temb)
                skips.append(h)
                i += 1
            if self.has(f"down.{level}.downsample.conv"):
                h = self.conv(f"down.{level}.downsample.conv", h, stride=2, pad=(0, 1, 0, 1))
                skips.append(h)
            level += 1
        h = self.block("mid.block_1", h, temb)
        h = self.block("mid.block_2", self.attention("mid.attn_1", h), temb)
        for up in reversed(range(level)):
            i = 0
            while self.has(f"up.{up}.block.{i}.conv1"):
                h = self.level("up", up, i, self.ops.concatenate([h, skips.pop()]), temb)
                i += 1
            if up:
                h = self.conv(f"up.{up}.upsample.conv", self.ops.double(h))
        out = self.conv("conv_out", self.active("norm_out", h))
        if self.has("conv_out2"):
            h = self.block("before_out", h, temb) if self.has("before_out.conv1") else h
            out = self.ops.concatenate([out, self.conv("conv_out2", self.active("norm_out2", h))])
        return self.ops.numpy(out)


class _Layout(dict):
    """Shapes by name."""

    def layer(self, name, *shape):
        self[f"{name}.weight"] = shape
        self[f"{name}.bias"] = shape[:1]

    def norm(self, name, channels):
        self.layer(name, channels)

    def conv(self, name, inputs, outputs, size=3):
        self.layer(name, outputs, inputs, size, size)


def adm_layout(
    channels,
    multipliers,
    num_blocks,
    attending,
    outputs=6,
    num_classes=0,
    inputs=3,
    resample_blocks=True,
    scale_shift=True,
    head="",
):
    """The tensors of a network of improved-diffusion or guided-diffusion; `attending` are levels."""
    made, time = _Layout(), 4 * channels

    def block(name, inputs, outputs):
        made.norm(f"{name}.in_layers.0", inputs)
        made.conv(f"{name}.in_layers.2", inputs, outputs)
        made.layer(f"{name}.emb_layers.1", (1 + scale_shift) * outputs, time)
        made.norm(f"{name}.out_layers.0", outputs)
        made.conv(f"{name}.out_layers.3", outputs, outputs)
        if inputs != outputs:
            made.conv(f"{name}.skip_connection", inputs, outputs, 1)

    def attention(name, width):
        made.norm(f"{name}.norm", width)
        made.layer(f"{name}.qkv", 3 * width, width, 1)
        made.layer(f"{name}.proj_out", width, width, 1)

    made.layer("time_embed.0", time, channels)
    made.layer("time_embed.2", time, time)
    if num_classes:
        made["label_emb.weight"] = (num_classes, time)
    made.conv("input_blocks.0.0", inputs, channels)
    skips, width, number = [channels], channels, 1
    for level, multiplier in enumerate(multipliers):
        for _ in range(num_blocks):
            block(f"input_blocks.{number}.0", width, channels * multiplier)
            width = channels * multiplier
            if level in attending:
                attention(f"input_blocks.{number}.1", width)
            skips.append(width)
            number += 1
        if level < len(multipliers) - 1:
            if resample_blocks:
                block(f"input_blocks.{number}.0", width, width)
            else:
                made.conv(f"input_blocks.{number}.0.op", width, width)
            skips.append(width)
            number += 1
    block("middle_block.0", width, width)
    attention("middle_block.1", width)
    block("middle_block.2", width, width)
    number = 0
    for level, multiplier in reversed(list(enumerate(multipliers))):
        for i in range(num_blocks + 1):
            block(f"output_blocks.{number}.0", width + skips.pop(), channels * multiplier)
            width = channels * multiplier
            if level in attending:
                attention(f"output_blocks.{number}.1", width)
            if level and i == num_blocks:
                last = f"output_blocks.{number}.{1 + (level in attending)}"
                if resample_blocks:
                    block(last, width, width)
                else:
                    made.conv(f"{last}.conv", width, width)
            number += 1
    made.norm("out.0", width)
    made.conv("out.2", width, outputs)
    if head == "simple":
        made.norm("out2.0", width)
        made.conv("out2.2", width, 3)
    if head == "complex":
        block("out2.0", width, width)
        made.norm("out2.1", width)
        made.conv("out2.3", width, 3)
    return made


def ddim_layout(channels, multipliers, num_blocks, attending, head=""):
    """The tensors of a network of DDIM's code; `attending` are levels."""
    made, time = _Layout(), 4 * channels

    def block(name, inputs, outputs):
        made.norm(f"{name}.norm1", inputs)
        made.conv(f"{name}.conv1", inputs, outputs)
        made.layer(f"{name}.temb_proj", outputs, time)
        made.norm(f"{name}.norm2", outputs)
        made.conv(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            made.conv(f"{name}.nin_shortcut", inputs, outputs, 1)

    def attention(name, width):
        made.norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            made.conv(f"{name}.{part}", width, width, 1)

    made.layer("temb.dense.0", time, channels)
    made.layer("temb.dense.1", time, time)
    made.conv("conv_in", 3, channels)
    skips, width = [channels], channels
    for level, multiplier in enumerate(multipliers):
        for i in range(num_blocks):
            block(f"down.{level}.block.{i}", width, channels * multiplier)
            width = channels * multiplier
            if level in attending:
                attention(f"down.{level}.attn.{i}", width)
            skips.append(width)
        if level < len(multipliers) - 1:
            made.conv(f"down.{level}.downsample.conv", width, width)
            skips.append(width)
    block("mid.block_1", width, width)
    attention("mid.attn_1", width)
    block("mid.block_2", width, width)
    for level, multiplier in reversed(list(enumerate(multipliers))):
        for i in range(num_blocks + 1):
            block(f"up.{level}.block.{i}", width + skips.pop(), channels * multiplier)
            width = channels * multiplier
            if level in attending:
                attention(f"up.{level}.attn.{i}", width)
        if level:
            made.conv(f"up.{level}.upsample.conv", width, width)
    made.norm("norm_out", width)
    made.conv("conv_out", width, 3)
    if head == "complex":
        block("before_out", width, width)
    if head:
        made.norm("norm_out2", width)
        made.conv("conv_out2", width, 3)
    return made


def drawn(layout, seed=0):
    """Weights {name: float32 array} at random, of which none is at a value that an initialisation would give."""
    rng, made = np.random.default_rng(seed), {}
    for name, shape in layout.items():
        scale = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.2
        centre = 1 if len(shape) == 1 and name.endswith("weight") else 0
        made[name] = (centre + scale * rng.standard_normal(shape)).astype(np.float32)
    return made
