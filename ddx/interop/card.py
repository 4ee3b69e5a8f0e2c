"""The model card that lies beside every network that is written for others."""

import textwrap
from typing import Any

from ddx.config.keys import UNKNOWN
from ddx.runs.trained import Trained

DIFFUSERS_HEADER = "---\nlibrary_name: diffusers\ntags: [unconditional-image-generation]\n---\n\n"
DIFFUSERS = """\
from diffusers import DDPMPipeline

images = DDPMPipeline.from_pretrained("FOLDER")(batch_size=4).images"""
SAFETENSORS = "python -m launch.convert --from=safetensors --source=FOLDER/model.safetensors --out=runs/again"


def card(source: Trained, use: str, checksum: str, header: str = "") -> str:
    """The text of README.md: data, network, process and training, and how it is used.

    Args:
      source: the network.
      use: code, in which FOLDER stands for the folder.
      checksum: of the file of weights.
      header: what a hub of models wants to stand first.
    """
    c, (height, width, channels) = source.system.config, source.system.image_shape
    data = "not known" if c.data.name == UNKNOWN else f"{c.data.name} ({c.data.split})"
    trained_for = f"{source.step:,} steps at batch {c.train.batch_size}"
    if (made := source.meta.get("converted")) is not None:
        trained_for = f"elsewhere; converted from {made['from']}"
    model = source.system.model
    none = f"| classes | 0 .. {model.num_classes - 1}; {model.num_classes} says that there is none, for guidance |\n"
    return f"""{header}# A denoising diffusion network for images of {height} x {width} x {channels}

Written by ddx: the {source.weights} weights of a run.

| | |
| --- | --- |
| data | {data} |
| network | {_network(c.model)} |
| process | {c.process.kind}, schedule {c.process.schedule}, {c.process.num_steps} levels of {c.process.noise} noise |
| output | {c.loss.prediction}, variance {c.loss.variance} |
{none * model.null_class}| trained | {trained_for} |
| SHA-256 of the weights | {checksum} |

{textwrap.indent(use, "    ")}

Whoever publishes it should add: the licence of the data and of the weights, scores and how they were computed, intended
use, and known limits.
"""


def _network(m: Any) -> str:
    """Such as 'DiT, 12 blocks of 768 channels and 12 heads, patches of 4 x 4'."""
    if m.network == "dit":
        return (
            f"DiT, {m.depth} blocks of {m.channels} channels and {m.num_heads} heads, patches of"
            f" {m.patch_size} x {m.patch_size}"
        )
    return f"U-Net, family {m.family}, {m.channels} channels times {tuple(m.multipliers)}"
