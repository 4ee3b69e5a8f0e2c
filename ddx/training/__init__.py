"""Training: the state, the step and the loop."""

from ddx.training.loop import Outcome as Outcome
from ddx.training.loop import train as train
