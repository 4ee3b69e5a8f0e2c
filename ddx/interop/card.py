"""The model card that lies beside every network that is written for others."""

import textwrap

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
    return f"""{header}# A denoising diffusion network for images of {height} x {width} x {channels}

Written by ddx: the {source.weights} weights of a run.

| | |
| --- | --- |
| data | {data} |
| network | U-Net, family {c.model.family}, {c.model.channels} channels times {tuple(c.model.multipliers)} |
| process | {c.process.kind}, schedule {c.process.schedule}, {c.process.num_steps} noise levels |
| output | {c.loss.prediction}, variance {c.loss.variance} |
| trained | {trained_for} |
| SHA-256 of the weights | {checksum} |

{textwrap.indent(use, "    ")}

Whoever publishes it should add: the licence of the data and of the weights, scores and how they were computed, intended
use, and known limits.
"""
